"""Sessions in real worlds: what is pressed arrives, the past can be had back, nothing is lost."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.endings import Ends
from tests.play.conftest import TINY
from workshop_lib.data.actions import JUMP, LEFT, LEFT_JUMP, NOTHING, RIGHT, RIGHT_JUMP
from workshop_lib.errors import WorkshopError
from workshop_lib.evaluation.shift import scroll
from workshop_lib.media.video import read_video
from workshop_lib.models.diffusion import Diffusion
from workshop_lib.models.diffusion_config import DiffusionConfig
from workshop_lib.models.dynamics import Dynamics
from workshop_lib.models.dynamics_config import DynamicsConfig
from workshop_lib.models.tokenizer import Tokenizer, TokenizerConfig
from workshop_lib.nn.dit import DiTConfig
from workshop_lib.nn.quantizers import FSQConfig
from workshop_lib.play import session as session_module
from workshop_lib.play.files import load_session, save_session
from workshop_lib.play.host import Host
from workshop_lib.play.prompts import level_prompt
from workshop_lib.play.session import PlaySession
from workshop_lib.worlds.copy_world import CopyWorld
from workshop_lib.worlds.diffusion_world import DiffusionWorld
from workshop_lib.worlds.game_world import GameWorld
from workshop_lib.worlds.opening import open_world
from workshop_lib.worlds.token_world import TokenWorld


def play(session, actions):
    return np.stack([session.step(action).frame for action in actions])


def moved(before, after):
    """Pixels by which the picture scrolled to the right."""
    return int(scroll(torch.tensor(before)[None], torch.tensor(after)[None])[0, 0])


def test_the_world_does_what_is_pressed(tiny, prompt):
    session = PlaySession(tiny, prompt)
    start = session.now.frame
    np.testing.assert_array_equal(start, prompt.frames[-1])
    assert moved(start, play(session, [RIGHT] * 8)[-1]) <= -4
    session.reset()
    assert moved(start, play(session, [LEFT] * 8)[-1]) >= 4


def test_the_same_as_stepping_the_world_by_hand(tiny, prompt):
    keys = [RIGHT, RIGHT_JUMP, NOTHING, LEFT, JUMP]
    played = play(PlaySession(tiny, prompt, down=True), keys)
    state = tiny.begin(prompt.frames[None], prompt.actions[None])
    for frame, key in zip(played, keys, strict=True):
        expected, state = tiny.step(state, torch.tensor([key]))
        np.testing.assert_array_equal(frame, expected[0])


def test_undo_goes_back_and_on_again(tiny, prompt):
    session = PlaySession(tiny, prompt)
    frames = play(session, [RIGHT] * 6)
    assert session.undo(2).action == RIGHT
    np.testing.assert_array_equal(session.now.frame, frames[3])
    np.testing.assert_array_equal(play(session, [RIGHT] * 2), frames[4:])
    session.undo(100)
    assert session.now.action is None and session.actions == []


def test_a_reset_begins_again_and_a_seed_changes_the_dice(tiny, prompt):
    session = PlaySession(tiny, prompt)
    one = play(session, [RIGHT] * 6)
    session.reset()
    np.testing.assert_array_equal(play(session, [RIGHT] * 6), one)
    session.reset(seed=5)
    assert not np.array_equal(play(session, [RIGHT] * 6), one)
    session.reset(seed=0)
    np.testing.assert_array_equal(play(session, [RIGHT] * 6), one)


def test_only_the_options_that_a_world_has(tiny, prompt):
    assert set(PlaySession(tiny, prompt).options) == {"steps", "temperature", "seed"}
    copy = PlaySession(CopyWorld(), prompt)
    assert copy.options == {}
    with pytest.raises(WorkshopError, match="no option 'steps'; it has none"):
        copy.set(steps=3)
    with pytest.raises(WorkshopError, match="steps is 0: too small"):
        PlaySession(tiny, prompt).set(steps=0)


def test_a_diffusion_world_turns_its_sampler_and_guidance(prompt, tmp_path):
    torch.manual_seed(0)
    net = DiTConfig(dim=32, depth=1, heads=2, window=2)
    made = Diffusion(DiffusionConfig(net=net, see=1, steps=3))
    with torch.no_grad():
        for weights in made.parameters():
            weights.add_(0.05 * torch.randn_like(weights))
    session = PlaySession(DiffusionWorld(made), prompt, "noise", beside=False)
    told = {"steps": 3, "sampler": "ddim", "guidance": 1.0, "seed": 0}
    assert session.options == told
    frames = [session.step(RIGHT).frame]
    for option in ({"sampler": "dpm"}, {"guidance": 3}):
        session.undo()
        session.set(**option)
        frames.append(session.step(RIGHT).frame)
    assert len({frame.tobytes() for frame in frames}) == 3
    with pytest.raises(WorkshopError, match="sampler 'magic': choose one of ddim"):
        session.set(sampler="magic")
    with pytest.raises(WorkshopError, match="sampler 'heun' follows"):
        session.set(sampler="heun")
    save_session(session, tmp_path / "a.npz")
    again = load_session(tmp_path / "a.npz", DiffusionWorld(made), "noise", beside=False)
    assert again.options == {**told, "sampler": "dpm", "guidance": 3.0}
    np.testing.assert_array_equal(again.now.frame, frames[-1])


def test_down_is_kept_from_worlds_that_never_saw_it(tiny, prompt):
    session = PlaySession(tiny, prompt)
    assert [session.heard(key) for key in range(9)] == [1, 1, 2, 4, 4, 5, 7, 7, 8]
    session.step(6)
    assert session.actions == [RIGHT]
    state = tiny.begin(prompt.frames[None], torch.tensor([[1, 4, 7] * 2 + [4]]))
    down = replace(prompt, actions=torch.tensor([0, 3, 6] * 2 + [3]))  # in the prompt, too
    expected, _ = tiny.step(state, torch.tensor([RIGHT]))
    np.testing.assert_array_equal(PlaySession(tiny, down).step(RIGHT).frame, expected[0])
    assert PlaySession(tiny, prompt, down=True).heard(6) == 6


@pytest.mark.usefixtures("procgen")
class TestBesideTheGame:
    def test_the_game_hears_the_same_keys(self, tiny, prompt):
        session = PlaySession(tiny, prompt)
        play(session, [RIGHT] * 5)
        game = GameWorld(prompt.game)
        state = game.begin(moments=[prompt.moment])
        for step in list(session.steps)[1:]:
            frame, state = game.step(state, torch.tensor([RIGHT]))
            np.testing.assert_array_equal(step.real, frame[0])
            error = np.square(step.frame.astype(float) - step.real).mean()
            assert step.psnr == pytest.approx(10 * np.log10(255**2 / error))

    def test_undo_takes_the_game_back_too(self, tiny, prompt):
        session = PlaySession(tiny, prompt)
        play(session, [RIGHT] * 4)
        before = session.now.real
        session.step(LEFT)
        session.undo()
        one = session.step(RIGHT).real
        session.undo()
        np.testing.assert_array_equal(session.now.real, before)
        np.testing.assert_array_equal(session.step(RIGHT).real, one)

    def test_it_can_be_left_out(self, prompt):
        assert PlaySession(CopyWorld(), prompt, beside=False).step(RIGHT).real is None

    def test_when_its_level_is_over_the_dream_goes_on(self):
        session = PlaySession(CopyWorld(), level_prompt(110003))
        ended = 0
        for _ in range(1000):
            step = session.step(RIGHT_JUMP)
            if step.note:
                ended += 1
                assert step.real is None and step.psnr is None
                break
        assert ended and session.step(RIGHT_JUMP).real is None

    def test_the_game_itself_is_a_world(self, prompt):
        session = PlaySession(GameWorld(prompt.game), prompt)
        np.testing.assert_array_equal(session.now.frame, prompt.frames[-1])
        frames = play(session, [RIGHT] * 6)
        assert session.now.real is None and moved(prompt.frames[-1].numpy(), frames[-1]) < 0
        session.reset()
        np.testing.assert_array_equal(play(session, [RIGHT] * 6), frames)

    def test_a_dream_goes_on_where_the_game_was_left(self, tiny, prompt):
        game = PlaySession(GameWorld(prompt.game), prompt)
        play(game, [LEFT] * 5)
        here = game.here()
        dream = PlaySession(tiny, here)
        np.testing.assert_array_equal(dream.now.frame, game.now.frame)
        np.testing.assert_array_equal(dream.step(LEFT).real, game.step(LEFT).frame)
        assert here.actions.tolist()[-5:] == [LEFT] * 5


def test_without_the_game_another_world_goes_on_from_the_dream(tiny, prompt):
    session = PlaySession(tiny, prompt, beside=False)
    frames = play(session, [RIGHT] * 12)
    here = session.here()
    np.testing.assert_array_equal(here.frames, frames[-8:])
    assert here.actions.tolist() == [RIGHT] * 7 and here.moment is None


def test_a_level_that_is_over_begins_anew(tiny, prompt):
    session = PlaySession(tiny, prompt, beside=False, termination=Ends())
    plain = PlaySession(tiny, prompt, beside=False)
    frames = play(session, [RIGHT] * 4)
    np.testing.assert_array_equal(frames, play(plain, [RIGHT] * 4))
    over = session.step(JUMP)
    assert over.begun and over.note == "the level is over"
    np.testing.assert_array_equal(over.frame, prompt.frames[-1])
    again = play(session, [RIGHT] * 4)
    assert moved(over.frame, again[-1]) == moved(prompt.frames[-1].numpy(), frames[-1])
    here = session.here()  # what was before the end belongs to another try
    np.testing.assert_array_equal(here.frames, [over.frame, *again])
    assert here.actions.tolist() == [RIGHT] * 4
    assert session.step(LEFT_JUMP).note == "the coin!"
    session.undo(6)
    np.testing.assert_array_equal(session.now.frame, frames[-1])
    assert not session.now.begun
    session.set(ends=False)
    assert session.options["ends"] is False and not session.step(JUMP).begun


def test_a_session_with_ends_is_saved_with_them(tiny, prompt, tmp_path):
    session = PlaySession(tiny, prompt, "tiny", beside=False, termination=Ends())
    play(session, [RIGHT, RIGHT, JUMP, RIGHT])
    session.set(ends=False)
    play(session, [JUMP, RIGHT])
    save_session(session, tmp_path / "a.npz")
    how = dict(beside=False, termination=Ends())
    loaded = load_session(tmp_path / "a.npz", tiny, "tiny", **how)
    for one, other in zip(loaded.steps, session.steps, strict=True):
        np.testing.assert_array_equal(one.frame, other.frame)
        assert one.begun == other.begun
    assert loaded.options == session.options
    with pytest.raises(WorkshopError, match=r"a\.npz: levels ended in this session"):
        load_session(tmp_path / "a.npz", tiny, "tiny")
    save_session(PlaySession(tiny, prompt, "tiny", beside=False), tmp_path / "b.npz")
    assert "ends" not in load_session(tmp_path / "b.npz", tiny, "tiny", **how).options


@pytest.mark.usefixtures("procgen")
def test_the_real_game_beside_begins_anew_with_the_dream(tiny, prompt):
    session = PlaySession(tiny, prompt, termination=Ends())
    first = [session.step(RIGHT).real for _ in range(3)]
    assert session.step(JUMP).psnr == session_module.ALIKE
    np.testing.assert_array_equal([session.step(RIGHT).real for _ in range(3)], first)


def test_a_long_session_keeps_its_last_steps(prompt, monkeypatch):
    monkeypatch.setattr(session_module, "HISTORY", 20)
    monkeypatch.setattr(session_module, "UNDO", 5)
    session = PlaySession(CopyWorld(), prompt, beside=False)
    play(session, [RIGHT] * 50)
    assert len(session.actions) == 50 and len(session.steps) == 21
    assert len(session.film()) == 21
    session.undo(99)
    assert len(session.actions) == 45


def test_the_film_shows_prompt_dream_and_game(tiny, prompt, tmp_path):
    session = PlaySession(tiny, prompt)
    play(session, [RIGHT, RIGHT, RIGHT_JUMP, NOTHING])
    session.record(tmp_path / "a.mp4")
    session.record(tmp_path / "a.gif")
    film = session.film(scale=4)
    assert len(film) == len(prompt.frames) + 4 == len(read_video(tmp_path / "a.mp4"))
    assert film.shape[2] > (400 if session.now.real is not None else 200)
    assert "<img" in session.gif()._repr_html_()
    with pytest.raises(WorkshopError, match=r"\.mp4 or \.gif"):
        session.record(tmp_path / "a.txt")


def test_a_saved_session_comes_back(tiny, prompt, tmp_path):
    session = PlaySession(tiny, prompt, "tiny")
    play(session, [RIGHT] * 3)
    session.set(temperature=0.5, steps=2)
    play(session, [RIGHT_JUMP] * 3)
    session.undo()
    save_session(session, tmp_path / "a.npz")
    loaded = load_session(tmp_path / "a.npz", open_world(TINY), "tiny")
    assert loaded.actions == session.actions and loaded.options == session.options
    for one, other in zip(loaded.steps, session.steps, strict=True):
        np.testing.assert_array_equal(one.frame, other.frame)
        assert one.psnr == other.psnr
    np.testing.assert_array_equal(loaded.step(LEFT).frame, session.step(LEFT).frame)
    session.set(temperature=1, steps=4)


def test_wrong_files_are_refused(tiny, prompt, tmp_path):
    session = PlaySession(tiny, prompt, "tiny")
    save_session(session, tmp_path / "a.npz")
    with pytest.raises(WorkshopError, match=r"a\.npz: was played in 'tiny', not in 'other'"):
        load_session(tmp_path / "a.npz", tiny, "other")
    with pytest.raises(WorkshopError, match=r"b\.npz: no such file"):
        load_session(tmp_path / "b.npz", tiny, "tiny")
    with pytest.raises(WorkshopError, match=r"saved as \.npz"):
        save_session(session, tmp_path / "a.pkl")
    np.savez(tmp_path / "c.npz", frames=np.zeros(3))
    np.savez(tmp_path / "d.npz", about=np.array([{"a": 1}], dtype=object))
    whole = (tmp_path / "a.npz").read_bytes()
    (tmp_path / "e.npz").write_bytes(whole[: len(whole) // 2])
    for name in "cde":
        with pytest.raises(WorkshopError, match=rf"{name}\.npz: not a saved session"):
            load_session(tmp_path / f"{name}.npz", tiny, "tiny")


def test_wrong_actions_are_refused(tiny, prompt):
    with pytest.raises(WorkshopError, match="0 to 14, not 15"):
        PlaySession(tiny, prompt).step(15)


class TestDrivenByCodes:
    """A world of latent actions takes codes, not keys."""

    def test_codes_are_pressed_shown_and_filmed(self, prompt):
        torch.manual_seed(0)
        quantizer = FSQConfig(levels=(4, 4, 4))
        tokenizer = Tokenizer(TokenizerConfig(dim=8, depth=1, latent_dim=8, quantizer=quantizer))
        config = dict(num_codes=64, code_factors=(4, 4, 4), dim=32, depth=1, heads=2, window=3)
        dynamics = Dynamics(DynamicsConfig(**config, num_actions=6, drive="latent"))
        world = TokenWorld(tokenizer, dynamics)
        session = PlaySession(world, prompt, "codes")
        assert not session.takes_keys and session.now.real is None
        for code in (0, 3, 5):
            session.step(code)
        assert session.actions == [0, 3, 5] and session.caption(session.steps[-2]) == "code 3"
        assert len(session.film()) == len(prompt.frames) + 3
        with pytest.raises(WorkshopError, match="0 to 5, not 6"):
            session.step(6)
        told, _ = Host(session).show()
        assert told["codes"] == 6 and told["caption"] == "code 5"
        again = PlaySession(world, session.here(), "codes")
        np.testing.assert_array_equal(again.now.frame, session.now.frame)

    def test_keys_are_shown_with_the_codes_that_they_stood_for(self, prompt):
        """Of the shipped world: a jump to the left is told by another one than to the right."""
        world = open_world("dynamics-latent-tiny")
        session, codes = PlaySession(world, prompt, beside=False), world.key_codes.tolist()
        assert session.caption(session.now) == ""
        for way, name in ((LEFT, "left"), (RIGHT, "right")):
            assert session.caption(session.step(way)) == f"{name} = code {codes[-1][way]}"
            jump = codes[codes[-1][way]][JUMP]
            assert session.caption(session.step(JUMP)) == f"jump = code {jump}"
        assert codes[codes[-1][LEFT]][JUMP] != codes[codes[-1][RIGHT]][JUMP]

    def test_a_key_that_ends_the_level_stood_for_no_code(self, prompt):
        world = open_world("dynamics-latent-tiny")
        session = PlaySession(world, prompt, beside=False, termination=Ends())
        assert session.caption(session.step(RIGHT)) == f"right = code {world.key_codes[-1, RIGHT]}"
        assert session.caption(session.step(JUMP)) == "jump"
