"""The player in a notebook: `play()` at the end of a cell."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from workshop_lib.data.game import Backend
from workshop_lib.play.choices import Choices
from workshop_lib.play.controls import Player
from workshop_lib.play.host import Host
from workshop_lib.play.prompts import Prompt
from workshop_lib.worlds.world import World


def play(
    world: str | World | None = None,
    data: str | Path = "../data",
    prompt: Prompt | None = None,
    buttons: bool | None = None,
    device: str = "auto",
    simulator: Backend = "auto",
) -> Player:
    """A player for the end of a notebook cell.

    world: the name of one in data/pretrained, a model's file, or an open world of your own; by
        default the first one there is.
    data: the folder that holds `pretrained` and `sample`.
    prompt: where to begin (prompts.py); by default a moment of a recorded, held-out episode
        of the levels that the world is for.
    buttons: only buttons and pictures, for front ends that cannot run the real player; by default
        where anywidget is not installed.
    device: where worlds dream: "cpu", "cuda", or "auto" for the GPU if there is one.
    simulator: of the real game: "procgen", "envpool", or "auto" for the first that is there.

    Raises WorkshopError if there is no such world, or it cannot begin there.
    """
    choices = Choices(data, device, simulator)
    name = choices.name_of(world)
    host = Host(choices.session(name, prompt or choices.first_prompt(name)))
    if buttons is None:
        buttons = find_spec("anywidget") is None
    module, screen = ("buttons", "Buttons") if buttons else ("canvas", "Canvas")
    Screen = getattr(import_module(f"workshop_lib.play.{module}"), screen)
    return Player(choices, host, Screen(host))
