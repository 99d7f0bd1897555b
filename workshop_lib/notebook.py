"""What every notebook begins with: how much to do on this machine, and what is here to do it."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from workshop_lib.data.game import available_backends
from workshop_lib.errors import WorkshopError

if TYPE_CHECKING:
    import numpy as np
    from ipywidgets import VBox

PROFILES = ("smoke", "cpu", "gpu")
VARIABLE = "WORKSHOP_PROFILE"
T = TypeVar("T")


@dataclass(frozen=True)
class Profile:
    """What a notebook has to work with.

    name: "smoke" (a quick test that all runs), "cpu" or "gpu": how much work to do.
    device: "cpu" or "cuda", for torch.
    simulator: "procgen", "envpool", or None where only recordings can be shown.
    repository: the workshop's folder.
    """

    name: str
    device: str
    simulator: str | None
    repository: Path

    @property
    def sample(self) -> Path:
        """The folder of recorded CoinRun."""
        return self.repository / "data" / "sample"

    def pick(self, smoke: T, cpu: T, gpu: T | None = None) -> T:
        """The size for this profile; `gpu` is as `cpu` unless it is given."""
        if self.name == "smoke":
            return smoke
        return gpu if self.name == "gpu" and gpu is not None else cpu


def start(notebook: str, minutes: Mapping[str, float]) -> Profile:
    """Chooses the profile, and says in plain words what this notebook will do here.

    notebook: its number, such as "01".
    minutes: how long it computes, by profile.

    Raises WorkshopError for an unknown WORKSHOP_PROFILE, or if data/sample is not to be found.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    name = os.environ.get(VARIABLE, "").strip() or ("gpu" if has_gpu else "cpu")
    if name not in PROFILES:
        raise WorkshopError(
            f"{VARIABLE} is {name!r}: set it to one of {', '.join(PROFILES)}, or unset it"
        )
    simulators = available_backends()
    profile = Profile(
        name=name,
        device="cuda" if has_gpu and name == "gpu" else "cpu",
        simulator=simulators[0] if simulators else None,
        repository=find_repository(),
    )
    print(_in_words(notebook, profile, minutes[name]))
    return profile


def find_repository() -> Path:
    """The folder that holds data/sample: above this package, or above the current folder.

    Raises WorkshopError if there is none.
    """
    places = [Path(__file__).resolve().parent, Path.cwd()]
    for place in places:
        for folder in (place, *place.parents):
            if (folder / "data" / "sample" / "README.md").is_file():
                return folder
    raise WorkshopError(
        f"data/sample is not to be found above {places[0]} or {places[1]}: open the notebooks in "
        f"the workshop's own folder; there, `git checkout -- data/sample` brings back lost files"
    )


def browse(frames: np.ndarray, actions: np.ndarray, scale: int = 5) -> VBox:
    """A slider through an episode, and a button that plays it; the keys pressed are lit.

    frames: uint8 (T, H, W, 3). actions: int (T,), 0 to 14.
    """
    import ipywidgets as widgets
    from PIL import Image

    from workshop_lib.media.overlay import draw_keys

    pictures = draw_keys(frames, actions, scale, [f"frame {t}" for t in range(len(frames))])

    def png(t: int) -> bytes:
        buffer = io.BytesIO()
        Image.fromarray(pictures[t]).save(buffer, "PNG")
        return buffer.getvalue()

    # Without a layout of its own the box would stretch the picture over the whole page.
    layout = widgets.Layout(width=f"{pictures.shape[2]}px", align_self="flex-start")
    picture = widgets.Image(value=png(0), format="png", layout=layout)
    slider = widgets.IntSlider(max=len(frames) - 1, description="frame")
    player = widgets.Play(max=len(frames) - 1, interval=70)
    widgets.jslink((player, "value"), (slider, "value"))
    slider.observe(lambda change: setattr(picture, "value", png(change["new"])), names="value")
    return widgets.VBox([picture, widgets.HBox([player, slider])])


def _in_words(notebook: str, profile: Profile, minutes: float) -> str:
    import torch

    if profile.device == "cuda":
        device = f"on the GPU ({torch.cuda.get_device_name()})"
    else:
        device = f"on the CPU ({os.cpu_count()} cores)"
    unit = "minute" if minutes == 1 else "minutes"
    time = f"{minutes:g} {unit}" if minutes >= 1 else f"{60 * minutes:.0f} seconds"
    game = {
        "procgen": "the game (procgen) is here: you play live, and can branch saved moments.",
        "envpool": "the game (envpool) is here: you play live; saved moments are shown recorded.",
        None: "no simulator is installed, so you see recorded episodes. All of it still runs.",
    }[profile.simulator]
    return (
        f"Notebook {notebook}, profile {profile.name}: computes about {time} {device}.\n"
        f"CoinRun: {game}\n"
        f"Another profile: set {VARIABLE} to {', '.join(PROFILES)} before you start Jupyter."
    )
