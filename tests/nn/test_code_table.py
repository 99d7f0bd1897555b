"""Vectors of codes: by their digits, as the quantizers count them."""

import torch

from workshop_lib.nn.code_table import CodeTable
from workshop_lib.nn.quantizers import FSQConfig, LFQConfig, make_quantizer


def test_codes_share_vectors_exactly_where_the_quantizers_channels_agree():
    """The digits are those of FSQ and LFQ: two codes with equal channel i share digit i's row."""
    for config, factors in (
        (FSQConfig(levels=(2, 3, 4)), (2, 3, 4)),
        (LFQConfig(bits=4), (2,) * 4),
    ):
        quantizer = make_quantizer(config, dim=len(factors))
        codes = quantizer.codes(torch.arange(quantizer.num_codes))
        rows = CodeTable(quantizer.num_codes, 8, factors, std=1.0).digit_rows
        same_channel = codes[:, None] == codes[None]
        assert torch.equal(rows[:, None] == rows[None], same_channel)
        assert rows.unique().numel() == sum(factors) and rows.max() == sum(factors) - 1


def test_what_one_code_learns_helps_those_with_its_digits():
    torch.manual_seed(0)
    table = CodeTable(27, 4, (3, 3, 3), std=1.0, extra=1)
    before = table().detach()
    optimizer = torch.optim.SGD(table.parameters(), lr=0.1)
    table()[0].sum().backward()  # digits 0, 0, 0
    optimizer.step()
    moved = (table() - before).abs().sum(1) > 1e-6
    shares = torch.tensor([code % 3 == 0 or code // 3 % 3 == 0 or code < 9 for code in range(27)])
    assert torch.equal(moved[:27], shares)
    assert not moved[27] and not before[27].any()  # the extra row has no digits


def test_folded_it_is_the_same_table():
    for factors in ((), (4, 4)):
        table = CodeTable(16, 8, factors, std=1.0, extra=2)
        with torch.no_grad():
            table.own.add_(torch.randn_like(table.own))
        before = table().detach()
        table.fold()
        assert torch.equal(table(), before) and table.own is table()
