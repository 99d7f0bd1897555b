"""Sessions on disk: where they began and what was pressed; the world dreams them again."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from workshop_lib.data.game import GameConfig
from workshop_lib.errors import WorkshopError
from workshop_lib.media.picture import complete_file
from workshop_lib.models.termination import Termination
from workshop_lib.play.prompts import Prompt
from workshop_lib.play.session import PlaySession
from workshop_lib.worlds.world import World

FORMAT = "workshop-lib session 1"


def save_session(session: PlaySession, path: str | Path) -> None:
    """Writes prompt, actions and options as .npz: a few KB, of which a world makes it all again.

    Raises WorkshopError for another suffix.
    """
    path, prompt = Path(path), session.prompt
    if path.suffix != ".npz":
        raise WorkshopError(f"{path}: a session is saved as .npz")
    about = {
        "format": FORMAT,
        "world": session.name,
        "down": session.down,
        "told": session.told,
        "options": session.options,
        "name": prompt.name,
        "game": None if prompt.game is None else asdict(prompt.game),
        "level": prompt.level,
        "pressed": prompt.pressed,
    }
    with complete_file(path) as partial, partial.open("wb") as file:
        np.savez_compressed(
            file,
            about=np.array(json.dumps(about)),
            frames=prompt.frames.numpy(),
            prompt_actions=prompt.actions.numpy(),
            moment=np.frombuffer(prompt.moment or b"", dtype=np.uint8),
            actions=np.array(session.actions, dtype=np.int64),
        )


def load_session(
    path: str | Path,
    world: World,
    name: str,
    beside: bool = True,
    termination: Termination | None = None,
) -> PlaySession:
    """A saved session, played again by its world up to where it was left.

    name: the world's; a session of another one is refused.
    termination: as in PlaySession; a session whose levels ended needs it.

    Raises WorkshopError naming the file if it is missing, damaged, holds something else, or was
    played in another world.
    """
    about, arrays = _read(Path(path))
    if about["world"] != name:
        raise WorkshopError(f"{path}: was played in {about['world']!r}, not in {name!r}")
    game, pressed = about["game"], about.get("pressed")  # not in files of earlier versions
    prompt = Prompt(
        frames=torch.tensor(arrays["frames"]),
        actions=torch.tensor(arrays["prompt_actions"]),
        name=about["name"],
        game=None if game is None else GameConfig(**{**game, "levels": tuple(game["levels"])}),
        level=about["level"],
        moment=arrays["moment"].tobytes() or None,
        pressed=None if pressed is None else tuple(pressed),
    )
    if "ends" not in about["options"]:  # no level ended there
        termination = None
    elif termination is None:
        raise WorkshopError(f"{path}: levels ended in this session; give the model that says when")
    session = PlaySession(world, prompt, name, beside, about["down"], termination)
    for action, options in zip(arrays["actions"].tolist(), about["told"], strict=True):
        session.set(**options)
        session.step(action)
    session.set(**about["options"])
    return session


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not path.is_file():
        raise WorkshopError(f"{path}: no such file")
    try:
        with np.load(path, allow_pickle=False) as file:
            about = json.loads(str(file["about"]))
            arrays = {key: file[key] for key in ("frames", "prompt_actions", "moment", "actions")}
        sizes = len(about["told"]) == len(arrays["actions"])
        dtypes = [arrays["frames"].dtype, arrays["actions"].dtype, arrays["moment"].dtype]
        whole = sizes and dtypes == [np.uint8, np.int64, np.uint8]
        whole = whole and {"world", "down", "name", "game", "level", "options"} <= set(about)
        known = about["format"] == FORMAT
    except Exception as error:  # zip, npy and JSON each have their own ways to be damaged
        raise WorkshopError(f"{path}: not a saved session ({error})") from error
    if not (known and whole):
        raise WorkshopError(f"{path}: not a saved session (its parts do not fit together)")
    return about, arrays
