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
        assert again.key_codes[key] == report.key_codes[name]


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
    share = count_table(codes, actions, model.num_codes).double()
    share /= share.sum(dim=1, keepdim=True).clamp_min(1)
    left, right = MERGED_NAMES.index("left"), MERGED_NAMES.index("right")
    assert share[left, model.key_codes[LEFT]] > 2 * share[right, model.key_codes[LEFT]]
    assert share[right, model.key_codes[RIGHT]] > 2 * share[left, model.key_codes[RIGHT]]


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

    actions = torch.full((8, 40), NOTHING)
    actions[:, 0] = JUMP
    frames = torch.zeros(8, 40, 64, 64, 3, dtype=torch.uint8)
    frames[:, 16:, 0, 0, 0] = 1  # fifteen frames after the jump he has landed
    frames[:, 0, 0, 0, 0] = 2
    clip = Clip(frames, actions, torch.zeros(8, 40, dtype=torch.bool))
    everywhere, standing = count_codes(ReadsAPixel(1, 1), clip)  # type: ignore[arg-type]
    nothing, jump = MERGED_NAMES.index("nothing"), MERGED_NAMES.index("jump")
    assert everywhere[nothing].tolist() == [15 * 8, 23 * 8, 0]
    assert standing[nothing].tolist() == [0, 23 * 8, 0]
    # Of jumps no moment on the ground is known to be one: they are named by all there are.
    assert standing[jump].tolist() == everywhere[jump].tolist() == [0, 0, 8]
    assert typical_codes(standing)[[nothing, jump]].tolist() == [1, 2]


def test_a_key_gets_a_code_that_means_it_before_a_commoner_one_of_another_key() -> None:
    table = torch.zeros(6, 3, dtype=torch.int64)
    left, nothing = MERGED_NAMES.index("left"), MERGED_NAMES.index("nothing")
    table[left] = torch.tensor([99, 1, 0])
    table[nothing] = torch.tensor([70, 20, 10])  # mostly LEFT's code, for he faces left
    assert typical_codes(table)[[left, nothing]].tolist() == [0, 1]
    table[nothing] = torch.tensor([70, 0, 0])  # nothing speaks of it alone
    assert typical_codes(table)[nothing] == 0
