"""Open-loop rollouts of worlds whose answer is known."""

import csv
from dataclasses import replace

import pytest
import torch

from tests.evaluation.worlds import ALWAYS_RIGHT, Oracle
from workshop_lib.data.clip import Clip
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.rollout import dream, measure, strangers, write_csv
from workshop_lib.evaluation.starts import KEYS
from workshop_lib.worlds.copy_world import CopyWorld


@pytest.fixture(scope="module")
def clip(starts):
    """Each start with one of its branches: 8 frames of prompt, then 12 with one key held."""
    rows = torch.arange(len(starts))
    which = rows % len(KEYS)
    frames = torch.cat([starts.frames, starts.branches[rows, which]], dim=1)
    held = torch.tensor(KEYS)[which][:, None].expand(-1, 13)
    actions = torch.cat([starts.actions, held], dim=1)
    return Clip(frames, actions, torch.zeros(actions.shape, dtype=torch.bool))


def test_the_real_game_makes_no_error_and_needs_its_own_actions(starts, clip):
    report, dreamed = measure(Oracle(starts), clip)
    assert torch.equal(dreamed, clip.frames[:, 8:])
    assert (report.clips, report.prompt, len(report.at)) == (24, 8, 12)
    others = clip.actions[strangers(24), -1]
    for at in report.at[3:]:
        assert at.psnr.mean == 60 and at.ssim.mean == pytest.approx(1, abs=1e-4)
        assert at.mse.mean == 0 < at.copy_mse.mean and at.sharpness.mean == pytest.approx(1)
        assert at.copy_psnr.mean < 30 and at.shuffled_psnr.mean < 40
    # with 12 frames under another key every picture differs; under the same key none
    expected = torch.where(others == clip.actions[:, -1], 0.5, 1.0).mean()
    assert report.at[-1].wins.mean == pytest.approx(float(expected))
    assert report.at[-1].advantage.mean - report.at[-1].advantage.interval > 10


def test_copying_is_its_own_control(clip):
    report, _ = measure(CopyWorld(), clip)
    for at in report.at:
        assert (at.psnr, at.ssim, at.mse) == (at.copy_psnr, at.copy_ssim, at.copy_mse)
        assert at.wins.mean == 0.5 and at.advantage.mean == 0
    assert report.at[-1].psnr.mean < report.at[0].psnr.mean


def test_a_world_that_hears_nothing_does_not_win(starts, clip):
    report, _ = measure(Oracle(starts, keys=ALWAYS_RIGHT), clip)
    assert all(at.wins.mean == 0.5 and at.advantage.mean == 0 for at in report.at)
    assert all(at.psnr == at.shuffled_psnr for at in report.at)


def test_dreams_are_fed_back_in_batches_of_any_size(starts, clip):
    """More clips than a batch holds come out in order, each from its own prompt."""
    twice = torch.arange(48) % 24
    dreamed = dream(
        Oracle(starts), clip.frames[twice, :8], clip.actions[twice, :7], clip.actions[twice, 7:10]
    )
    assert torch.equal(dreamed, clip.frames[twice, 8:11])


def test_nobody_gets_their_own_actions():
    for count in (2, 3, 50):
        partner = strangers(count, seed=count)
        assert (partner != torch.arange(count)).all()
        assert partner.sort().values.tolist() == list(range(count))


def test_the_csv_has_a_row_for_each_horizon(clip, tmp_path):
    report, _ = measure(CopyWorld(), clip)
    write_csv(tmp_path / "a.csv", report)
    rows = list(csv.DictReader((tmp_path / "a.csv").read_text().splitlines()))
    assert [int(row["horizon"]) for row in rows] == list(range(1, 13))
    assert float(rows[3]["psnr"]) == report.at[3].psnr.mean
    assert float(rows[3]["wins_low"]) == report.at[3].wins.low


def test_bad_clips_are_refused(clip):
    with pytest.raises(WorkshopError, match="need 2 clips"):
        measure(CopyWorld(), clip[:1])
    with pytest.raises(WorkshopError, match="longer than prompt 20"):
        measure(CopyWorld(), clip, prompt=20)
    with pytest.raises(WorkshopError, match="without actions"):
        measure(CopyWorld(), replace(clip, actions=clip.actions - 99))
