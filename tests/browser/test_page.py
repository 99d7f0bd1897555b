"""The player on its own page (`workshop play`), in a real browser, before a real world."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.browser.conftest import ARTIFACTS
from tests.browser.playing import Player, moved
from tests.conftest import REPOSITORY
from tests.endings import Ends
from workshop_lib.data.actions import LEFT_JUMP, NOTHING, RIGHT, RIGHT_JUMP
from workshop_lib.play.choices import Choices
from workshop_lib.play.host import Host
from workshop_lib.play.page import Server, make_server

pytestmark = pytest.mark.browser


@pytest.fixture
def server() -> Iterator[Server]:
    choices = Choices(REPOSITORY / "data")
    server = make_server(Host(choices.session("dynamics-tiny", choices.first_prompt())))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def player(browser: Browser, server: Server) -> Iterator[Player]:
    context = browser.new_context(viewport={"width": 900, "height": 760})
    page = context.new_page()
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.goto(server.address)
    yield Player.on(page, page.locator("#player"))
    context.close()
    assert problems == []


def actions_of(server: Server) -> list[int]:
    return server.host.session.actions


def test_a_held_key_keeps_the_world_running_that_way(player: Player, server: Server) -> None:
    player.press("Space")
    start = player.picture()
    player.hold("ArrowRight", frames=9)
    assert moved(start, player.picture()) <= -4
    assert set(actions_of(server)[1:]) == {RIGHT}
    np.testing.assert_array_equal(player.picture(), server.host.session.now.frame)
    player.press("r")
    assert actions_of(server) == []
    player.hold("a", frames=9)
    assert moved(start, player.picture()) >= 4


def test_two_keys_make_one_action(player: Player, server: Server) -> None:
    player.hold("d", "w", frames=4)
    assert RIGHT_JUMP in actions_of(server)
    player.hold("ArrowLeft", "ArrowUp", frames=4)
    assert LEFT_JUMP in actions_of(server)
    assert player.button("left up").evaluate("b => b.classList.contains('wp-lit')")


def test_a_tap_is_one_step_and_can_be_taken_back(player: Player, server: Server) -> None:
    for key in ("Space", "Space", "d"):
        player.press(key)
        player.wait_until_still()
    pressed = actions_of(server)
    assert pressed[:2] == [NOTHING] * 2 and set(pressed[2:]) == {RIGHT}
    player.press("z")
    assert len(actions_of(server)) == len(pressed)


def test_single_steps_ignore_that_a_key_stays_down(player: Player, server: Server) -> None:
    player.button("single").click()
    player.page.keyboard.down("ArrowRight")
    player.wait_for(1)
    player.wait_until_still()
    player.page.keyboard.press("ArrowUp")
    player.wait_until_still()
    player.page.keyboard.up("ArrowRight")
    assert actions_of(server) == [RIGHT, RIGHT_JUMP]


def test_running_goes_on_by_itself_until_it_is_stopped(player: Player, server: Server) -> None:
    player.page.keyboard.press("p")
    player.wait_for(3)
    player.page.keyboard.press("Escape")
    player.wait_until_still()
    count = len(actions_of(server))
    assert count >= 3 and set(actions_of(server)) == {NOTHING}
    player.button("run").click()
    player.wait_for(2)
    player.button("run").click()
    player.wait_until_still()
    assert len(actions_of(server)) > count


def test_a_tab_that_is_closed_asks_no_more(player: Player, server: Server) -> None:
    player.page.keyboard.press("p")
    player.wait_for(2)
    player.page.close()
    threading.Event().wait(1)  # what was under way
    count = len(actions_of(server))
    threading.Event().wait(2)
    assert len(actions_of(server)) == count


def test_a_button_is_held_as_a_key_is(player: Player, server: Server) -> None:
    player.button("right up").hover()
    player.page.mouse.down()
    player.wait_for(4)
    player.page.mouse.up()
    player.wait_until_still()
    assert set(actions_of(server)) == {RIGHT_JUMP} and len(actions_of(server)) >= 4
    player.hold("ArrowRight", frames=2)  # the keys work on after a click
    assert actions_of(server)[-1] == RIGHT


def test_game_and_dream_are_switched_and_compared(
    player: Player, server: Server, procgen: None
) -> None:
    player.hold("ArrowRight", frames=6)
    session = server.host.session
    player.page.keyboard.press("g")
    shown = player.root.locator(".wp-main")
    assert shown.locator("figcaption").inner_text() == "the real game"
    player.press("Space")
    np.testing.assert_array_equal(player.picture(), session.now.real)
    assert f"{session.now.psnr:.1f} dB" in player.root.locator(".wp-apart").inner_text()
    player.button("both").click()
    assert player.root.locator(".wp-other").is_visible()
    other = player.root.locator(".wp-other figcaption").inner_text()
    assert other == "dynamics-tiny"
    ARTIFACTS.mkdir(exist_ok=True)
    player.page.screenshot(path=ARTIFACTS / "play_page.png")


def test_the_end_of_a_level_is_told_for_a_while(
    player: Player, server: Server, monkeypatch
) -> None:
    monkeypatch.setattr(server.host.session._levels, "termination", Ends())
    said = "The dream begins anew: the level is over"
    player.press("w")
    assert said in player.root.inner_text()
    player.hold("d", frames=8)
    assert said in player.root.inner_text()
    player.hold("d", frames=40)
    assert said not in player.root.inner_text()
    player.press("w")
    assert said in player.root.inner_text()
    player.press("z")  # it did not happen
    assert said not in player.root.inner_text()


def test_what_goes_wrong_is_said_and_stops_it(player: Player, server: Server) -> None:
    player.press("Space")
    server.host.session.world = None  # broken
    player.press("p")
    assert "'NoneType'" in player.says()
    player.wait_until_still()


def test_only_the_page_with_the_secret_is_served(server: Server) -> None:
    for address in (server.address + "host.py", f"http://127.0.0.1:{server.server_port}/"):
        with pytest.raises(urllib.error.HTTPError):
            urllib.request.urlopen(address, timeout=10)
    ask = f"http://127.0.0.1:{server.server_port}/ask"
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(ask, json.dumps({"do": "step", "action": 7}).encode(), timeout=10)
    assert actions_of(server) == []
