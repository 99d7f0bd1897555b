"""Long dreams that live, fade, freeze and boil."""

import pytest
import torch

from tests.conftest import SAMPLE
from tests.evaluation.worlds import ScrollWorld
from workshop_lib.data.actions import RIGHT, RIGHT_JUMP
from workshop_lib.evaluation.drift import in_palette, living, long_play, measure_drift, palette
from workshop_lib.evaluation.heldout import heldout_episodes
from workshop_lib.evaluation.player import middle, player_of
from workshop_lib.worlds.copy_world import CopyWorld


class Changing(CopyWorld):
    """Each frame is the last one, changed."""

    def __init__(self, change):
        self.change = change

    def step(self, state, action):
        frame = self.change(state.float()).clamp(0, 255).byte()
        return frame, frame


def noise(frames):
    return frames + 60 * torch.randn(frames.shape)


def fade(frames):
    return frames * 0.9 + 10


@pytest.fixture(scope="module")
def prompt():
    """Smooth pictures with some structure: uint8 (3, 4, 64, 64, 3), and no actions pressed."""
    blocks = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(blocks, size=(64, 64), mode="bilinear")
    frames = (255 * smooth).byte().movedim(1, -1)[:, None].repeat(1, 4, 1, 1, 1)
    return frames, torch.full((3, 3), 4)


def drift(world, prompt, steps=60):
    return measure_drift(world, *prompt, torch.full((3, steps), RIGHT))


def test_a_moving_picture_lives(prompt):
    report, film = drift(ScrollWorld(), prompt)
    assert (report.alive, report.steps, report.dreams) == (1, 60, 3)
    assert max(report.still) == 0 and report.fresh > 0.7
    assert report.contrast == pytest.approx([1] * 10, rel=0.01)
    assert film.shape == (60, 64, 64, 3) and torch.equal(film[4], prompt[0][0, -1].roll(-5, 1))


def test_a_frozen_picture_stands_still(prompt):
    report, _ = drift(CopyWorld(), prompt)
    assert report.still == [1] * 10 and report.alive == 1 and report.fresh == 0
    assert "still 100% of the time" in report.line()


class Running(ScrollWorld):
    """Scrolls, and what comes in from the right is flat."""

    def step(self, state, action):
        frame, _ = super().step(state, action)
        frame[:, :, -self.speed :] = 128
        return frame, frame


def test_level_that_is_not_there_is_not_fresh(prompt):
    report, _ = drift(Running(), prompt)
    assert report.fresh < 0.3 and max(report.still[:2]) == 0
    assert drift(ScrollWorld(speed=-1), prompt)[0].fresh == 0  # the wrong way


def test_a_fading_dream_dies(prompt):
    report, _ = drift(Changing(fade), prompt)
    assert report.alive == 0 and report.contrast[-1] < 0.1 < 0.7 < report.contrast[0]


def test_a_boiling_dream_dies(prompt):
    report, _ = drift(Changing(noise), prompt)
    assert report.alive == 0 and report.sharpness[-1] > 4


def test_broken_numbers_are_seen_as_a_flat_picture(prompt):
    report, _ = drift(Changing(lambda frames: frames * float("nan")), prompt, steps=3)
    assert report.alive == 0 and len(report.contrast) == 3


def mist(frames):
    """Patches of color, and a fine texture all over them."""
    patches = torch.nn.functional.avg_pool2d(frames.movedim(-1, 1), 8)
    smooth = torch.nn.functional.interpolate(patches, size=64, mode="bilinear").movedim(1, -1)
    texture = 24 * (torch.rand(64, 64, 1, generator=torch.Generator().manual_seed(0)) - 0.5)
    return smooth + texture


def test_a_mist_with_texture_is_dead():
    clip = heldout_episodes(SAMPLE / "hard", "test", 12, 4)
    report, _ = measure_drift(
        Changing(mist), clip.frames, clip.actions[:, :3], torch.full((12, 20), RIGHT)
    )
    assert report.contrast[0] > 0.5 and report.sharpness[0] > 0.5, "what a mist keeps"
    assert report.alive == 0 and report.lasted == 0


def fever(frames):
    """As sharp as ever, in colors that were never there: red and green change places, and turn."""
    red, green, blue = frames.unbind(dim=-1)
    return torch.stack([255 - green, red, 255 - blue], dim=-1)


def test_a_dream_in_other_colors_is_dead():
    clip = heldout_episodes(SAMPLE / "easy", "test", 12, 4)
    dreams = clip.frames, clip.actions[:, :3], torch.full((12, 21), RIGHT)
    report, _ = measure_drift(Changing(fever), *dreams)
    assert report.edges[-1] > 0.9 and report.sharpness[-1] < 1.1, "the colors alone are wrong"
    assert report.colors[0] < 0.75 and report.alive == 0
    assert measure_drift(CopyWorld(), *dreams)[0].colors == [1.0] * 10


def test_a_palette_holds_what_is_near():
    frames = torch.full((2, 1, 4, 4, 3), 100, dtype=torch.uint8)
    frames[1] = 200
    near, far = torch.full((2, 4, 4, 3), 112), torch.full((2, 4, 4, 3), 130)
    assert in_palette(near, palette(frames)).tolist() == [1, 0]
    assert in_palette(far, palette(frames)).tolist() == [0, 0]
    assert in_palette(frames[:, 0].flip(0), palette(frames)).tolist() == [0, 0]


class Losing(CopyWorld):
    """The game's last picture, of which the player is gone after some steps."""

    def __init__(self, steps):
        self.steps = steps

    def begin(self, frames, actions):
        return frames[:, -1], 0

    def step(self, state, action):
        frame, step = state[0].clone(), state[1] + 1
        if step > self.steps:
            middle(frame)[:] = frame[:, 8:20, 26:38]
        return frame, (state[0], step)


def test_a_level_that_lost_its_player_is_dead():
    real = heldout_episodes(SAMPLE / "easy", "train", 90, 8).frames
    clip = heldout_episodes(SAMPLE / "easy", "test", 12, 4)
    dreams = clip.frames, clip.actions[:, :3], torch.full((12, 40), RIGHT)
    finder = player_of(real)
    report, _ = measure_drift(Losing(20), *dreams, finder)
    assert report.alive == 0 and 20 <= report.lasted <= 24
    assert report.player[3] > 0.9 and report.player[-1] < 0.1
    assert "player in 0%" in report.line()
    kept, _ = measure_drift(Losing(99), *dreams, finder)
    assert kept.alive > 0.9 and kept.lasted == 40
    blind, _ = measure_drift(Losing(20), *dreams)
    assert blind.alive == 1 and blind.player is None and "player" not in blind.line()


def test_a_dream_lives_while_most_of_eight_pictures_are_whole():
    whole = torch.tensor([[1.0] * 10 + [0] * 4, [1] * 8 + [0] * 6, [0] * 6 + [1] * 8])
    assert living(whole)[:, -1].tolist() == [False, False, True]
    assert living(whole)[0].tolist() == [True] * 13 + [False]
    assert living(whole)[2].tolist() == [False] * 10 + [True] * 4


def test_long_play_holds_right_and_plays():
    play = long_play(4, 200)
    assert set(play["run and jump"].unique().tolist()) == {RIGHT, RIGHT_JUMP}
    assert (play["right held"] == RIGHT).all() and play["mixed keys"].shape == (4, 200)
    assert len(play["mixed keys"].unique()) > 4
    assert not torch.equal(play["mixed keys"][0], play["mixed keys"][1])
