"""Learning rates over time, weight decay and the averaged weights."""

from itertools import pairwise

import pytest
import torch
from torch import nn

from workshop_lib.errors import WorkshopError
from workshop_lib.training.optim import (
    OptimConfig,
    ema_decay,
    learning_rate_factor,
    make_optimizer,
)


def rates(total=1000, **options):
    factor = learning_rate_factor(OptimConfig(**options), total)
    return [factor(step) for step in range(total)]


@pytest.mark.parametrize("schedule", ["cosine", "wsd", "constant"])
def test_the_rate_climbs_to_one_and_never_jumps(schedule):
    values = rates(schedule=schedule, warmup=50)
    assert values[0] == pytest.approx(1 / 50) and values[49] == 1.0 and max(values) == 1.0
    steps = [abs(b - a) for a, b in pairwise(values[49:])]
    assert max(steps) < 0.01


def test_cosine_falls_all_the_way_and_wsd_only_at_the_end():
    cosine = rates(schedule="cosine", warmup=0, end_lr=0.1)
    assert cosine[500] == pytest.approx(0.55, abs=0.01)
    assert cosine[-1] == pytest.approx(0.1, abs=0.001)
    wsd = rates(schedule="wsd", warmup=10, end_lr=0.1, decay_share=0.2)
    assert wsd[10:800] == [1.0] * 790
    assert wsd[900] == pytest.approx(0.55, abs=0.01) and wsd[-1] == pytest.approx(0.1, abs=0.01)


def test_only_matrices_decay():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4))
    optimizer = make_optimizer(model, OptimConfig(lr=0.1, weight_decay=0.5, betas=(0.0, 0.9)))
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    optimizer.step()
    for name, p in model.named_parameters():
        expected = before[name] * (1 - 0.1 * 0.5) if p.ndim == 2 else before[name]
        assert torch.allclose(p, expected), name


def test_the_average_follows_fast_at_first():
    assert ema_decay(0.999, 0) == pytest.approx(0.1)
    assert ema_decay(0.999, 10_000) == pytest.approx(0.999)
    value = 0.0  # after n steps at 1, what is left of the start
    for n in range(100):
        decay = ema_decay(0.999, n)
        value = decay * value + (1 - decay)
    assert value > 0.999


@pytest.mark.parametrize(
    "wrong", [{"lr": 0}, {"ema": 1.0}, {"decay_share": 0}, {"warmup": -1}, {"clip": -1}]
)
def test_impossible_settings_are_named(wrong):
    with pytest.raises(WorkshopError, match=f"optim.{next(iter(wrong))}|optim.warmup"):
        OptimConfig(**wrong)
