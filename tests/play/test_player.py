"""The player's controls in Python: real widgets, without a browser (tests/browser has one)."""

import io

import numpy as np
import pytest
from PIL import Image

from tests.conftest import REPOSITORY
from workshop_lib.data.actions import JUMP, LEFT, NOTHING, RIGHT
from workshop_lib.errors import WorkshopError
from workshop_lib.media.video import read_video
from workshop_lib.play.pictures import branches, one_step
from workshop_lib.play.player import play
from workshop_lib.worlds.copy_world import CopyWorld

DATA = REPOSITORY / "data"


@pytest.fixture
def player():
    return play("dynamics-tiny", data=DATA)


def click(player, name):
    buttons = [w for row in player.children[1:] for w in row.children]
    next(w for w in buttons if getattr(w, "description", "") == name).click()


def test_controls_turn_the_session(player):
    player.options["steps"].value = 2
    player.options["temperature"].value = 0.5
    player.options["seed"].value = 7
    told = {"steps": 2, "temperature": 0.5, "seed": 7, "ends": True}
    assert player.session.options == told
    player.options["ends"].value = False
    assert player.session.options == {**told, "ends": False}
    player.frame.value = 30
    click(player, "begin")
    assert "frame 37" in player.session.prompt.name and player.session.options["ends"] is False
    player.number.value = 9999
    click(player, "begin")
    assert "no episode 9999" in player.said.value
    assert "frame 37" in player.session.prompt.name  # the old one stays


def test_a_world_for_hard_levels_begins_in_one(player):
    hard = play("dynamics-base", data=DATA)
    begun = hard.session.prompt.name
    assert begun.startswith("hard, test episode")
    click(hard, "begin")
    assert hard.session.prompt.name == begun, "the controls say where it began"
    for kind in player.choices.prompts:  # wherever one looks, there is something to begin at
        player.kind.value = kind
        click(player, "begin")
        assert player.said.value == "" and player.session.prompt.name.startswith(kind.split()[1])


@pytest.mark.usefixtures("procgen")
def test_from_the_game_to_the_dream_in_one_moment(player):
    prompt = player.session.prompt
    player.world.value = "the real game"
    assert player.session.is_game and player.session.prompt is prompt
    assert all(w.layout.display == "none" for w in player.options.values())  # it has none
    for _ in range(5):
        player.session.step(RIGHT)
    shown = player.session.now.frame
    player.kind.value = "this very moment"
    player.world.value = "dynamics-tiny"
    assert not player.session.is_game
    np.testing.assert_array_equal(player.session.now.frame, shown)


def test_save_and_load(player, tmp_path):
    for key in (RIGHT, RIGHT, JUMP):
        player.session.step(key)
    player.file.value = str(tmp_path / "a.mp4")
    click(player, "save")
    assert "3 steps" in player.said.value and len(read_video(tmp_path / "a.mp4")) == 11
    player.file.value = str(tmp_path / "a.npz")
    click(player, "save")
    frame = player.session.now.frame
    player.session.reset()
    click(player, "load")
    np.testing.assert_array_equal(player.session.now.frame, frame)
    player.file.value = str(tmp_path / "a.txt")
    click(player, "save")
    assert "use .mp4 or .gif" in player.said.value


def test_a_gif_stands_where_no_widget_can(player):
    bundle = player._repr_mimebundle_()
    assert "application/vnd.jupyter.widget-view+json" in bundle
    assert bundle["text/html"].startswith('<img src="data:image/gif')
    assert len(bundle["text/html"]) < 1_000_000
    assert player.session.actions == []  # the demonstration left no trace


def test_a_world_of_ones_own():
    player = play(CopyWorld(), data=DATA)
    assert player.session.name == player.world.value == "CopyWorld"
    assert "dynamics-tiny" in player.world.options
    with pytest.raises(WorkshopError, match="no world 'moon'"):
        play("moon", data=DATA)


def test_buttons_step_the_world():
    player = play("dynamics-tiny", data=DATA, buttons=True)
    screen = player.children[0]

    def shown():
        return np.asarray(Image.open(io.BytesIO(screen.image.value)))

    start = shown()
    right = next(b for row in screen.pad.children for b in row.children if b.description == "→")
    right.click()
    assert player.session.actions == [RIGHT] * 4 and not np.array_equal(shown(), start)
    screen.steps.value = 1
    right.click()
    assert player.session.actions == [RIGHT] * 5
    assert "frame 5 right" in screen.line.value
    player.session.world, world = None, player.session.world
    right.click()
    assert "NoneType" in screen.line.value
    player.session.world = world


def test_pictures_leave_the_session_as_it_is(player):
    player.session.step(RIGHT)
    assert len(one_step(player.session, RIGHT).axes) == 1
    sheet = branches(player.session, (LEFT, RIGHT, NOTHING), steps=4)
    assert sheet.shape[1] > 4 * 128
    assert player.session.actions == [RIGHT]
