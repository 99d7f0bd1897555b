"""`workshop evaluate lam`: its figures, its files, and what the shipped model has understood."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.conftest import REPOSITORY, SAMPLE
from workshop_lib.data.actions import JUMP, LEFT, MERGED_NAMES, NOTHING, RIGHT
from workshop_lib.data.clip import Clip
from workshop_lib.evaluation.agreement import (
    balanced_accuracy,
    codes_after,
    count_table,
    mutual_information,
    typical_codes,
)
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.latent_action import count_codes, evaluate, infer_all
from workshop_lib.models.files import load_model, save_model
from workshop_lib.models.latent_action import LatentActionModel
from workshop_lib.models.latent_config import LatentActionConfig
from workshop_lib.training.live import from_recipe

SHIPPED = REPOSITORY / "data/pretrained/lam-tiny.safetensors"


def test_the_command_measures_writes_and_stores_the_keys(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    model, _ = from_recipe("lam/tiny")
    path = tmp_path / "lam.safetensors"
    save_model(model, "latent_action", path, {})
    report = evaluate(
        str(path),
        data=str(SAMPLE / "easy"),
        clips=12,
        probe_steps=2,
        write_keys=True,
        out=str(tmp_path / "out"),
    )
    assert "share of the NMI" in capsys.readouterr().out or report.share_of_probe is None
    written = json.loads((tmp_path / "out/report.json").read_text())
    assert written["agreement"]["nmi"]["mean"] == report.agreement.nmi.mean
    assert written["transitions"] == sum(map(sum, report.confusion)) == report.transitions
    assert (tmp_path / "out/confusion.png").stat().st_size > 5000
    again = load_model(path)
    assert isinstance(again, LatentActionModel) and again.key_codes is not None
    for key, name in ((LEFT, "left"), (RIGHT, "right")):
        assert again.key_codes[:, key].tolist() == report.key_codes[name]


def test_the_shipped_codes_tell_what_was_pressed() -> None:
    """On recordings that were played otherwise than those that it learned from."""
    model = load_model(SHIPPED)
    assert isinstance(model, LatentActionModel)
    clip = heldout_episodes(SAMPLE / "easy", "test", 32, 24)
    codes, actions = infer_all(model, model, clip)
    told = mutual_information(codes.flatten(), actions.flatten())
    order = torch.randperm(codes.numel(), generator=torch.Generator().manual_seed(0))
    chance = mutual_information(codes.flatten()[order], actions.flatten())  # few clips: not 0
    assert told > 0.15 and told > 4 * chance, (told, chance)
    assert model.key_codes is not None
    usual = model.key_codes[-1]
    share = count_table(codes, actions, model.num_codes).double()
    share /= share.sum(dim=1, keepdim=True).clamp_min(1)
    left, right = MERGED_NAMES.index("left"), MERGED_NAMES.index("right")
    assert share[left, usual[LEFT]] > 2 * share[right, usual[LEFT]]
    assert share[right, usual[RIGHT]] > 2 * share[left, usual[RIGHT]]
    # Who faces left does not jump as one does who faces right.
    assert model.key_codes[usual[LEFT], JUMP] != model.key_codes[usual[RIGHT], JUMP]


def test_balanced_accuracy_counts_every_action_the_same() -> None:
    actions = torch.tensor([0] * 98 + [1, 1])
    assert balanced_accuracy(torch.zeros(100, dtype=torch.int64), actions) == 0.5


def test_keys_are_named_by_moments_on_the_ground() -> None:
    """In the air every transition has code 0, whatever is pressed; on the ground NOTHING has 1."""

    class ReadsAPixel(torch.nn.Linear):
        num_codes = 3
        config = LatentActionConfig(history=1)

        def seen(self, clip: Clip) -> torch.Tensor:
            return clip.frames

        def infer(self, frames: torch.Tensor) -> torch.Tensor:
            return frames[:, :-1, 0, 0, 0].long()

    actions = torch.full((8, 24), NOTHING)
    actions[:, 0] = JUMP
    frames = torch.zeros(8, 24, 64, 64, 3, dtype=torch.uint8)
    frames[:, 16:, 0, 0, 0] = 1  # fifteen frames after the jump he has landed
    frames[:, 0, 0, 0, 0] = 2
    clip = Clip(frames, actions, torch.zeros(8, 24, dtype=torch.bool))
    everywhere, codes = count_codes(ReadsAPixel(1, 1), clip)  # type: ignore[arg-type]
    nothing, jump = MERGED_NAMES.index("nothing"), MERGED_NAMES.index("jump")
    assert everywhere[nothing].tolist() == [15 * 8, 7 * 8, 0]
    # Of jumps no moment on the ground is known to be one: they are named by all there are.
    assert everywhere[jump].tolist() == [0, 0, 8]
    assert codes[-1, [nothing, jump]].tolist() == [1, 2]


def test_a_key_gets_a_code_that_means_it_before_a_commoner_one_of_another_key() -> None:
    table = torch.zeros(6, 3, dtype=torch.int64)
    left, nothing = MERGED_NAMES.index("left"), MERGED_NAMES.index("nothing")
    table[left] = torch.tensor([99, 1, 0])
    table[nothing] = torch.tensor([70, 20, 10])  # mostly LEFT's code, for he faces left
    assert typical_codes(table)[[left, nothing]].tolist() == [0, 1]
    table[nothing] = torch.tensor([70, 0, 0])  # nothing speaks of it alone
    assert typical_codes(table)[nothing] == 0


def test_a_key_has_another_code_where_its_own_never_comes() -> None:
    """Codes 0 and 1: going left and right; 2 and 3: jumping to the left and to the right."""
    named = {name: index for index, name in enumerate(MERGED_NAMES)}
    left, right, jump, nothing = (named[name] for name in ("left", "right", "jump", "nothing"))
    told = [(0, left, 0)] * 30 + [(1, right, 1)] * 30 + [(1, jump, 3)] * 30 + [(0, jump, 2)] * 25
    told += [(0, nothing, 2)] * 25 + [(0, right, 2)] * 5  # a key that was hardly pressed there
    before, action, after = torch.tensor(told).T
    codes = torch.stack([before, after], dim=1)
    actions = torch.stack([torch.full_like(action, nothing), action], dim=1)
    usual = torch.tensor([0, 1, 3, 2, 3, 1])
    table = codes_after(usual, codes, actions, 4)
    assert table.shape == (5, 6)
    assert table[0, jump] == 2
    table[0, jump] = 3
    assert torch.equal(table, usual.expand(5, 6))  # nothing else has changed
