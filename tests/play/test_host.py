"""What a player is answered: pictures as bytes, nothing outdated, errors in words."""

import threading
import time

import numpy as np
import pytest
import torch

from tests.conftest import REPOSITORY
from tests.endings import Ends
from workshop_lib.data.actions import JUMP, RIGHT
from workshop_lib.errors import WorkshopError
from workshop_lib.play.choices import GAME, Choices
from workshop_lib.play.host import LOCK, Host
from workshop_lib.play.session import PlaySession
from workshop_lib.worlds.copy_world import CopyWorld


@pytest.fixture
def host(prompt):
    return Host(PlaySession(CopyWorld(), prompt, "copy"))


def test_pictures_go_over_as_they_are(tiny, prompt):
    host = Host(PlaySession(tiny, prompt, "tiny"))
    told, pictures = host.answer({"do": "step", "action": RIGHT, "view": "a", "id": 1})
    now = host.session.now
    np.testing.assert_array_equal(
        np.frombuffer(pictures[0], np.uint8).reshape(64, 64, 3), now.frame
    )
    assert (told["action"], told["caption"], told["count"]) == (RIGHT, "right", 1)
    assert told["ms"] > 0 and told["error"] == "" and told["id"] == 1
    assert len(pictures) == (1 if now.real is None else 2)


def test_an_end_is_told_and_whose_it_is(prompt):
    host = Host(PlaySession(CopyWorld(), prompt, beside=False, termination=Ends()))
    told, _ = host.answer({"do": "step", "action": RIGHT, "view": "a", "id": 1})
    assert (told["note"], told["begun"]) == ("", False)
    told, _ = host.answer({"do": "step", "action": JUMP, "view": "a", "id": 2})
    assert (told["note"], told["begun"]) == ("the level is over", True)


def test_undo_and_reset(host):
    for number in range(1, 4):
        host.answer({"do": "step", "action": RIGHT, "view": "a", "id": number})
    assert host.answer({"do": "undo", "view": "a", "id": 4})[0]["count"] == 2
    told, _ = host.answer({"do": "reset", "view": "a", "id": 5})
    assert told["count"] == 0 and told["trace"] == []


def test_what_was_asked_before_is_dropped(host):
    """A player that gave up waiting, and asked again."""
    answers = {}

    def ask(number):
        message = {"do": "step", "action": RIGHT, "view": "a", "id": number}
        answers[number] = host.answer(message)

    with LOCK:  # something else takes long
        threads = [threading.Thread(target=ask, args=(number,)) for number in (1, 2, 3)]
        for thread in threads:
            thread.start()
            while host._newest.get("a", 0) < threads.index(thread) + 1:
                time.sleep(0.01)
    for thread in threads:
        thread.join()
    assert answers[1] is None and answers[2] is None and answers[3][0]["count"] == 1


def test_views_do_not_drop_each_others_requests(host):
    assert host.answer({"do": "show", "view": "a", "id": 9}) is not None
    assert host.answer({"do": "show", "view": "b", "id": 1}) is not None


class Failing(CopyWorld):
    def step(self, state, action):
        raise self.problem


@pytest.mark.parametrize(
    ("problem", "says"),
    [
        (WorkshopError("no such key"), "no such key"),
        (ValueError("a shape"), "ValueError: a shape"),
        (KeyboardInterrupt(), "interrupted"),
    ],
)
def test_what_goes_wrong_is_answered_and_the_session_stays(prompt, problem, says):
    world = Failing()
    world.problem = problem
    host = Host(PlaySession(world, prompt))
    told, pictures = host.answer({"do": "step", "action": RIGHT, "view": "a", "id": 1})
    assert told["error"] == says and told["count"] == 0 and len(pictures[0]) == 64 * 64 * 3
    told, _ = host.answer({"do": "dance", "view": "a", "id": 2})
    assert "cannot ask for 'dance'" in told["error"]


def test_another_session_takes_over_or_the_old_one_stays(host, prompt):
    heard = []
    host.on_change.append(lambda: heard.append(host.session.name))
    host.play(lambda: PlaySession(CopyWorld(), prompt, "other"))
    assert heard == ["other"]

    def impossible():
        raise WorkshopError("no such world")

    with pytest.raises(WorkshopError):
        host.play(impossible)
    assert host.session.name == "other" and heard == ["other"]


@pytest.fixture(scope="module")
def choices():
    return Choices(REPOSITORY / "data")


class TestChoices:
    def test_every_trained_world_is_offered_and_no_part_of_one(self, choices):
        assert "dynamics-tiny" in choices.worlds and "tokenizer-tiny" not in choices.worlds
        prompt = choices.first_prompt()
        for name in set(choices.worlds) - {GAME}:
            session = choices.session(name, prompt)
            frame = session.step(RIGHT if session.takes_keys else 0).frame
            assert frame.shape == (64, 64, 3) and not np.array_equal(frame, prompt.frames[-1])
            assert choices.world(name) is session.world  # opened once

    def test_play_begins_in_the_levels_that_a_world_is_for(self, choices):
        assert choices.first_prompt("dynamics-base").name.startswith("hard, test episode")
        easy = choices.first_prompt()
        assert easy.name.startswith("easy, test episode")
        for name in ("dynamics-tiny", "a world of my own"):
            assert choices.first_prompt(name).name == easy.name

    def test_play_begins_where_it_is_asked_to(self, choices):
        hard = choices.first_prompt("dynamics-tiny", look="hard")
        assert hard.name == choices.first_prompt("dynamics-base").name
        other = choices.first_prompt("dynamics-tiny", episode=3, frame=20)
        assert other.name == choices.prompt("recorded: easy", 3, 20).name
        assert other.name != choices.first_prompt("dynamics-tiny").name
        with pytest.raises(WorkshopError, match=r"--look mono: nothing to begin at.*level:110003"):
            choices.first_prompt("dynamics-tiny", look="mono")

    @pytest.mark.usefixtures("procgen")
    def test_the_game_is_offered_in_every_look(self, choices):
        for kind in choices.prompts:
            session = choices.session(GAME, choices.prompt(kind, 3, 0))
            shown = torch.tensor(session.now.frame).float()
            assert (shown - session.prompt.frames[-1]).abs().mean() < 1, kind

    def test_names_files_and_worlds(self, choices):
        path = REPOSITORY / "data" / "pretrained" / "dynamics-tiny.safetensors"
        own = Choices(REPOSITORY / "data")
        assert own.name_of(str(path)) == "dynamics-tiny"
        world = CopyWorld()
        assert own.world(own.name_of(world)) is world
        assert own.name_of(None) == "CopyWorld"  # the newest comes first
        with pytest.raises(WorkshopError, match=r"no world 'moon' .*there are: CopyWorld, dyn"):
            own.name_of("moon")
        with pytest.raises(WorkshopError, match="no prompts 'moon'"):
            own.prompt("moon", 0)

    def test_an_empty_folder_is_said_so(self, tmp_path, monkeypatch):
        monkeypatch.setattr("workshop_lib.play.choices.available_backends", lambda: [])
        with pytest.raises(WorkshopError, match="no prompt"):
            Choices(tmp_path).first_prompt()
        with pytest.raises(WorkshopError, match=r"no trained world in .*pretrained"):
            Choices(tmp_path).name_of(None)
