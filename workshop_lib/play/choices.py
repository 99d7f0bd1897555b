"""What there is to play: the trained worlds of a folder, the real game, and where to begin."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

from workshop_lib.data.actions import NUM_ACTIONS
from workshop_lib.data.game import Backend, GameConfig, Look, available_backends
from workshop_lib.data.splits import MANIFEST
from workshop_lib.errors import WorkshopError
from workshop_lib.models.files import read_metadata
from workshop_lib.models.termination import Termination
from workshop_lib.play.prompts import Prompt, level_prompt, recorded_prompt
from workshop_lib.play.session import PlaySession
from workshop_lib.pretrained import find_file
from workshop_lib.pretrained.registry import REGISTRY, read_entries
from workshop_lib.worlds.game_world import GameWorld
from workshop_lib.worlds.opening import WORLDS, open_termination, open_world
from workshop_lib.worlds.world import World

GAME = "the real game"
RECORDED, LEVEL, HERE = "recorded: ", "level: ", "this very moment"
EPISODE, FRAME, LEVEL_NUMBER = 7, 70, 110_003  # held out, with free ground to both sides
HARD = 15, 45  # the same of the hard levels, and no monster comes soon


class Choices:
    """The worlds and prompts that a data folder offers.

    Args:
        data: a folder with trained worlds in `pretrained` and split folders in `sample`.
        device: where worlds dream: "cpu", "cuda", or "auto" for the GPU if there is one.
        simulator: of the real game: "procgen", "envpool", or "auto" for the first that is there.

    worlds: name to file; None for the real game, which is there with a simulator only.
    prompts: what a prompt can be taken from: recorded sets, and looks of the real game.
    ends: whether dreamed levels end in the sessions that begin here, where something says when.

    Raises WorkshopError for a simulator that is not installed.
    """

    def __init__(self, data: str | Path, device: str = "auto", simulator: Backend = "auto") -> None:
        self.data, self.device, self.simulator = Path(data), device, simulator
        found = available_backends()
        if simulator not in ("auto", *found):
            here = " and ".join(found) or "none"
            raise WorkshopError(f"simulator {simulator!r} is not installed; here is {here}")
        self.worlds: dict[str, Path | None] = {}
        self.ends = True
        self._termination: Termination | None = None
        self._endings: list[Path] = []
        for path in sorted((self.data / "pretrained").glob("*.safetensors")):
            if _family(path) in WORLDS:
                self.worlds[path.stem] = path
            elif _family(path) == "termination":
                self._endings.append(path)
        manifests = self.data.glob(f"sample/*/{MANIFEST}")
        self._sets = {path.parent.name: path.parent for path in manifests}
        self.prompts = [RECORDED + name for name in sorted(self._sets)]
        if found:
            self.worlds[GAME] = None
            self.prompts += [LEVEL + look for look in ("easy", "hard")]
        self._open: dict[str, Any] = {}

    def add(self, name: str, world: World | Path) -> None:
        """Makes another world a choice: one that is open already, or a model's file."""
        file = world if isinstance(world, Path) else None
        self.worlds = {name: file, **{k: v for k, v in self.worlds.items() if k != name}}
        self._open.pop(name, None)
        if file is None:
            self._open[name] = world

    def name_of(self, world: str | World | None) -> str:
        """The name of a world that is given by its name, its model's file or itself.

        It becomes a choice if it is not one yet. None: the first one.

        Raises WorkshopError if there is none of that name.
        """
        if world is None and self.worlds:
            return next(iter(self.worlds))
        if not isinstance(world, str) and world is not None:
            self.add(type(world).__name__, world)
            return type(world).__name__
        if world in self.worlds:
            return world
        found = ", ".join(self.worlds) or "none"
        if world is None:
            raise WorkshopError(f"no trained world in {self.data}/pretrained, and no simulator")
        try:
            path = Path(find_file(world))
        except WorkshopError as error:
            raise WorkshopError(f"no world {world!r} here ({error}); there are: {found}") from error
        self.add(path.stem, path)
        return path.stem

    def first_prompt(
        self,
        world: str | None = None,
        look: Look | None = None,
        episode: int | None = None,
        frame: int | None = None,
    ) -> Prompt:
        """Where play begins unless something else is asked for: a level of the look that the world
        of this name was trained for, if that is known and there is one.

        look, episode, frame: what was asked for of it, else None.

        Raises WorkshopError if there is nothing to begin at, or not in the look asked for.
        """
        if not self.prompts:
            raise WorkshopError("no split folder in data/sample, and no simulator: no prompt")
        kind = self.first_kind(world, look)
        number, first = place_in(kind)
        if kind.startswith(RECORDED):
            number = number if episode is None else episode
            first = first if frame is None else frame
        return self.prompt(kind, number, first)

    def first_kind(self, world: str | None, look: Look | None = None) -> str:
        """The one of `prompts` that `first_prompt` takes.

        Raises WorkshopError if the look was asked for and is not there.
        """
        wanted = look or look_of(world)
        kinds = [kind for kind in self.prompts if wanted and kind.endswith(f": {wanted}")]
        if look and not kinds:
            raise WorkshopError(
                f"--look {look}: nothing to begin at among {', '.join(self.prompts)}; "
                f"give --prompt level:{LEVEL_NUMBER}, say"
            )
        return (kinds or self.prompts)[0]

    def prompt(self, kind: str, number: int, frame: int = 0) -> Prompt:
        """`kind` is one of `prompts`; number: of the episode or level; frame: of the episode.

        Raises WorkshopError if there is no such kind, episode or frame.
        """
        if kind not in self.prompts:
            raise WorkshopError(f"no prompts {kind!r}: choose one of {', '.join(self.prompts)}")
        if kind.startswith(LEVEL):
            look = cast(Look, kind.removeprefix(LEVEL))
            return level_prompt(number, look, simulator=self.simulator)
        folder = self._sets[kind.removeprefix(RECORDED)]
        return recorded_prompt(folder, "test", number, frame, simulator=self.simulator)

    def session(self, name: str, prompt: Prompt) -> PlaySession:
        """Begins to play a world. Files are opened once.

        Raises WorkshopError if there is no such world, or it cannot begin at the prompt.
        """
        world = self.world(name, prompt)
        known = prompt.game is None or prompt.game.name == "coinrun"
        ends = self.termination(world) if known else None
        session = PlaySession(world, prompt, name, termination=ends)
        if ends is not None and "ends" in session.options:
            session.set(ends=self.ends)
        return session

    def termination(self, world: Any) -> Termination | None:
        """What says when the levels of a world end: the first such model among the trained ones;
        None if there is none, or the world's actions are not the game's keys."""
        if self._termination is None and self._endings:
            self._termination = open_termination(self._endings[0])
        return self._termination if world.num_actions == NUM_ACTIONS else None

    def world(self, name: str, prompt: Prompt | None = None) -> Any:
        """A world by its name; the real game is opened in the prompt's look."""
        path = self.worlds[self.name_of(name)]
        if name in self._open:
            return self._open[name]
        if path is None:
            config = (prompt.game if prompt else None) or GameConfig()
            return GameWorld(config, backend=self.simulator)
        self._open[name] = open_world(path, device=self.device)
        return self._open[name]


def place_in(kind: str) -> tuple[int, int]:
    """A good number of an episode or level, and frame, to begin at in prompts of a kind."""
    if kind.startswith(LEVEL):
        return LEVEL_NUMBER, 0
    return HARD if kind == RECORDED + "hard" else (EPISODE, FRAME)


def look_of(world: str | None) -> Look | None:
    """The look of the levels that a trained world of this name is for, if the registry knows it."""
    known = {entry.name: entry.look for entry in read_entries(REGISTRY)}
    return cast("Look | None", known.get(world or ""))


def _family(path: Path) -> str | None:
    try:
        return read_metadata(path)["family"]
    except WorkshopError:
        return None
