"""`workshop generate`: real prompts, the right keys, reality above the dream."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import SAMPLE
from tests.shaking import shaken_weights
from workshop_lib.cli import main
from workshop_lib.data.actions import JUMP, LEFT, NOTHING, RIGHT, RIGHT_JUMP
from workshop_lib.data.game import GameConfig
from workshop_lib.data.shards import find_shards, open_shard
from workshop_lib.errors import WorkshopError
from workshop_lib.generate import (
    choose_actions,
    dream,
    film,
    generate,
    in_codes,
    live_prompt,
    picture_prompt,
    really,
    recorded_prompt,
)
from workshop_lib.media.keys import LIT
from workshop_lib.media.overlay import draw_keys
from workshop_lib.media.video import read_video
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_config import DiffusionConfig
from workshop_lib.models.files import save_model
from workshop_lib.models.next_frame import NextFrame, NextFrameConfig
from workshop_lib.nn.dit import DiTConfig
from workshop_lib.worlds.game_world import GameWorld
from workshop_lib.worlds.next_frame_world import NextFrameWorld

EASY = SAMPLE / "easy"


@pytest.fixture(scope="module")
def model():
    """Untrained, but every weight does something."""
    torch.manual_seed(0)
    made = NextFrame(NextFrameConfig(width=16, depth=1, middle=2, cond_dim=32))
    shaken_weights(made)
    return made.eval()


@pytest.fixture(scope="module")
def world(model):
    return NextFrameWorld(model)


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "next_frame.safetensors"
    save_model(model, "next_frame", path, {})
    return str(path)


@pytest.fixture(scope="module")
def episode():
    """A recorded episode that is long enough for all tests: (its number, the episode)."""
    shard = open_shard(find_shards(EASY / "test")[0])
    return next((n, shard.read(n)) for n in range(len(shard)) if len(shard.read(n)) > 60)


@pytest.fixture(scope="module")
def prompt(episode):
    return recorded_prompt(EASY, "test", episode[0], start=5, length=8)


def game_pictures(frames, rows=1, scale=4):
    """The game in frames of a video, uint8 (T, H', W', 3), one (T, 64, 64, 3) for each row."""
    strip = (frames.shape[1] - 4 * (rows - 1)) // rows - 64 * scale
    tops = [row * (64 * scale + strip + 4) for row in range(rows)]
    parts = [frames[:, top : top + 64 * scale] for top in tops]
    return [p.reshape(-1, 64, scale, 64, scale, 3).mean((2, 4)) for p in parts]


def test_a_prompt_is_a_stretch_of_the_episode(episode, prompt):
    frames, actions = episode[1].frames, episode[1].actions
    np.testing.assert_array_equal(prompt.frames, frames[5:13])
    np.testing.assert_array_equal(prompt.actions, actions[5:12])
    np.testing.assert_array_equal(prompt.later_frames, frames[13:])
    assert prompt.later_actions[0] == actions[12]  # what led to frame 13
    assert len(prompt.later_actions) == len(prompt.later_frames)


def test_patterns(prompt):
    def choose(text, frames=8):
        return choose_actions(text, prompt, 15, frames).tolist()

    assert choose("7,7,8x5", 7) == [7, 7, 8, 8, 8, 8, 8]
    assert choose("7,7,8x5", 10) == [7, 7, 8, 8, 8, 8, 8, 7, 7, 8]
    assert choose("7,7,8x5", 2) == [7, 7]
    assert choose("right x2, jump") == [RIGHT, RIGHT, JUMP] * 2 + [RIGHT, RIGHT]
    assert choose("dataset") == prompt.later_actions[:8].tolist()
    assert len(choose("dataset", 9999)) == len(prompt.later_actions)  # as far as it goes
    assert choose("random", 50) == choose("random", 50)
    assert set(choose("random", 999)) == set(range(15))
    assert set(choose_actions("random", prompt, 6, 999).tolist()) == set(range(6))


@pytest.mark.parametrize(
    ("text", "actions", "complaint"),
    [
        ("7,7,fly", 15, "unknown action 'fly'"),
        ("7,15", 15, "unknown action '15'"),
        ("0,6x3", 6, "actions 0 to 5, not 6"),
        ("8x0", 15, "no actions"),
        ("", 15, "unknown action ''"),
    ],
)
def test_wrong_patterns_are_named(prompt, text, actions, complaint):
    with pytest.raises(WorkshopError, match=complaint):
        choose_actions(text, prompt, actions, 10)


def test_the_dream_goes_on_from_the_prompt_by_the_actions(world, prompt):
    actions = torch.tensor([RIGHT, RIGHT, LEFT])
    dreamed = dream(world, prompt, actions)
    state = world.begin(prompt.frames[None], prompt.actions[None])
    for k, action in enumerate(actions):
        frame, state = world.step(state, action[None])
        assert torch.equal(dreamed[k], frame[0])
    other = dream(world, prompt, torch.tensor([RIGHT, LEFT, LEFT]))
    assert torch.equal(dreamed[0], other[0]) and not torch.equal(dreamed[1], other[1])


def test_reality_is_known_for_the_recorded_actions_only(prompt):
    assert torch.equal(really(prompt, prompt.later_actions[:9]), prompt.later_frames[:9])
    assert len(really(prompt, (prompt.later_actions[:9] + 1) % 15)) == 0
    longer = torch.cat([prompt.later_actions, prompt.later_actions])
    assert len(really(prompt, longer)) == 0


def test_the_film_shows_reality_above_the_dream_with_the_keys(world, prompt):
    actions = prompt.later_actions[:6]
    dreamed = dream(world, prompt, actions)
    video = film(prompt, dreamed, prompt.later_frames[:6], actions)
    above, below = game_pictures(video, rows=2)
    np.testing.assert_array_equal(above, torch.cat([prompt.frames, prompt.later_frames[:6]]))
    np.testing.assert_array_equal(below, torch.cat([prompt.frames, dreamed]))
    pressed = torch.cat([prompt.actions, actions])
    lit = [
        (frame == LIT).all(-1)[64 * 4 :].any()
        for frame in film(prompt, dreamed, above[:0], actions)
    ]
    assert lit == [a != NOTHING for a in pressed] + [False]


def test_reality_may_stand_beside_the_dream(world, prompt):
    pressed = prompt.later_actions[:5]
    dreamed, real = dream(world, prompt, pressed), prompt.later_frames[:5]
    above = film(prompt, dreamed, real, pressed)
    beside = film(prompt, dreamed, real, pressed, beside=True)
    height, width = beside.shape[1], above.shape[2]
    assert height < above.shape[1] and 2 * width <= beside.shape[2]
    assert np.array_equal(beside[:, :, :width], above[:, :height])
    assert np.array_equal(beside[:, :, -width:], above[:, -height:])


def test_each_frame_shows_the_key_pressed_at_it(prompt):
    """After the prompt's last frame the pattern's first key is lit, and so on."""
    actions = torch.tensor([LEFT, RIGHT_JUMP])
    video = film(prompt, prompt.later_frames[:2], prompt.frames[:0], actions)
    for t, action in ((7, LEFT), (8, RIGHT_JUMP)):
        expected = draw_keys(prompt.frames[:1], [action], 4)
        pad = slice(256, None), slice(0, 100)  # where the arrows are, left of the caption
        np.testing.assert_array_equal(video[t][pad], expected[0][pad])
    assert (video[9, 256:] == LIT).all(-1).sum() == 0


def test_where_reality_ends_its_last_frame_goes_dark(prompt):
    actions = prompt.later_actions[:6]
    video = film(prompt, prompt.later_frames[:6], prompt.later_frames[:2], actions)
    above, _ = game_pictures(video, rows=2)
    assert len(video) == 14
    np.testing.assert_array_equal(above[9], prompt.later_frames[1])
    np.testing.assert_array_equal(above[13], prompt.later_frames[1] // 3)


def test_a_picture_is_a_prompt(tmp_path, episode):
    Image.fromarray(episode[1].frames[3]).save(tmp_path / "a.png")
    prompt = picture_prompt(tmp_path / "a.png", size=64)
    np.testing.assert_array_equal(prompt.frames, episode[1].frames[3:4])
    large = Image.fromarray(episode[1].frames[3].repeat(5, 0).repeat(5, 1)).convert("RGBA")
    large.save(tmp_path / "large.png")
    again = picture_prompt(tmp_path / "large.png", size=64)
    np.testing.assert_array_equal(again.frames, prompt.frames)
    with pytest.raises(WorkshopError, match="nothing is recorded"):
        choose_actions("dataset", prompt, 15, 4)
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(WorkshopError, match=r"text\.png: cannot be read as a picture"):
        picture_prompt(tmp_path / "text.png", size=64)


def test_for_a_world_of_codes_what_happened_is_given_in_codes(prompt, episode):
    def infer(frames):
        return frames[:, 1:].sum(dim=(2, 3, 4)) % 6  # of a transition: a number of its end

    codes = in_codes(prompt, infer)
    all_codes = infer(torch.tensor(episode[1].frames)[None])[0]
    assert torch.equal(codes.actions, all_codes[5:12])
    assert torch.equal(codes.later_actions, all_codes[12:])
    pressed = choose_actions("dataset", codes, 6, 10)
    assert torch.equal(really(codes, pressed), prompt.later_frames[:10])
    names = [(f"code {code}",) for code in range(6)]
    video = film(codes, prompt.later_frames[:10], prompt.frames[:0], pressed, keys=names)
    expected = draw_keys(prompt.frames[:1], pressed[:1].numpy(), keys=names)
    np.testing.assert_array_equal(video[7, 256:, :90], expected[0, 256:, :90])


@pytest.mark.usefixtures("procgen")
def test_the_live_game_prompts_and_shows_what_really_comes():
    prompt = live_prompt("level:110007", "easy", length=5)
    assert prompt.frames.shape == (5, 64, 64, 3) and prompt.actions.tolist() == [NOTHING] * 4
    game = GameWorld(GameConfig(levels=(0, 1)))
    state = game.begin(levels=[110_007])
    assert torch.equal(prompt.frames[0], state.frames[0, -1])
    actions = torch.tensor([NOTHING] * 4 + [RIGHT] * 20)
    frames = []
    for action in actions:
        frame, state = game.step(state, action[None])
        frames.append(frame[0])
    real = really(prompt, actions[4:])
    assert torch.equal(real, torch.stack(frames[4:]))
    ends = really(prompt, torch.tensor([RIGHT_JUMP] * 1000))  # reaches the coin or dies
    assert 20 < len(ends) < 1000
    assert len(really(prompt, torch.tensor([RIGHT_JUMP] * 1000))) == len(ends)


def test_the_command_writes_a_video(tmp_path, file, episode, prompt, world, capsys):
    number, recorded = episode
    out = tmp_path / "dream.mp4"
    arguments = f"--prompt {EASY} --episode {number} --start 5 --length 8 --frames 12".split()
    assert main(["generate", file, "--out", str(out), *arguments]) == 0
    assert "8 frames of prompt and 12 dreamed" in capsys.readouterr().out
    above, below = game_pictures(read_video(out), rows=2)
    assert len(above) == 20
    assert np.abs(above - recorded.frames[5:25]).mean() < 3  # mp4 is not exact
    for actions, right in ((prompt.later_actions[:12], True), (torch.full((12,), LEFT), False)):
        error = np.abs(below[8:] - dream(world, prompt, actions).numpy()).mean()
        assert (error < 10) == right  # 6 and 35: fine noise suffers in mp4
    gif = ["--out", str(tmp_path / "dream.gif"), "--actions", "7,7,8x5"]
    assert main(["generate", file, *arguments, *gif]) == 0
    assert len(game_pictures(read_video(tmp_path / "dream.gif"))) == 1


def test_how_the_world_dreams_is_passed_on(tmp_path):
    films = []
    for number, how in enumerate(("", "--sampler dpm", "--guidance 3", "--steps 1")):
        out = tmp_path / f"{number}.gif"
        arguments = f"--prompt {EASY} --episode 7 --start 30 --length 4 --frames 3 {how}".split()
        assert main(["generate", diffusion_file(tmp_path), "--out", str(out), *arguments]) == 0
        films.append(read_video(out)[-1].tobytes())
    assert len(set(films)) == 4


def diffusion_file(folder):
    """Of an untrained model in which every weight does something."""
    torch.manual_seed(0)
    net = DiTConfig(dim=32, depth=1, heads=2, window=2)
    made = Diffusion(DiffusionConfig(net=net, see=1, steps=3))
    shaken_weights(made, 0.05)
    save_model(made, "diffusion", folder / "diffusion.safetensors", {})
    return str(folder / "diffusion.safetensors")


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"out": "dream.txt"}, "must end in .mp4 or .gif"),
        ({"frames": 0}, "--frames must be 1 or more"),
        ({"episode": 999}, "no episode 999"),
        ({"start": 159}, "leaves none to dream"),
        ({"length": 0}, "leaves none to dream"),
        ({"prompt": "nowhere"}, "nowhere"),
        ({"prompt": "level:x"}, "level:x"),
        ({"model": "nowhere.safetensors"}, "no such file"),
        ({"sampler": "dpm"}, "a next_frame world has no option 'sampler'; it has none"),
        ({"guidance": 2.0}, "a next_frame world has no option 'guidance'; it has none"),
    ],
)
def test_mistakes_are_named_and_nothing_is_written(tmp_path, file, options, complaint):
    usual = {"model": file, "out": str(tmp_path / "dream.mp4"), "prompt": str(EASY)}
    with pytest.raises(WorkshopError, match=complaint):
        generate(**{**usual, **options})
    assert list(tmp_path.iterdir()) == []
