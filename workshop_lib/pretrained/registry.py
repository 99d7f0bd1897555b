"""What is known of each trained model: one JSON file for each, in registry/."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workshop_lib.errors import WorkshopError

REGISTRY = Path(__file__).parent / "registry"
CHECKOUT = Path(__file__).parents[2] / "data" / "pretrained"
CACHE_VARIABLE = "WORKSHOP_CACHE"
NAME = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class Training:
    """How a model was made.

    summary: in words: steps, data. commands: shell lines, from sampling to export.
    commit: of this repository, with "+" if files differed from it. minutes: by the clock, of
        training; 0 where nobody took it.
    """

    summary: str = ""
    commands: tuple[str, ...] = ()
    commit: str = ""
    seed: int = 0
    hardware: str = ""
    minutes: float = 0.0


@dataclass(frozen=True)
class Entry:
    """A trained model.

    family: as in its file (models/families.py). recipe: such as "dynamics/tiny".
    env, look: which game, and its difficulty (mono, easy, hard).
    file: its name, without folders. dtype: of the stored weights.
    needs: the names of models that it does not work without, such as its tokenizer.
    metrics: by verb ("world" for `workshop evaluate world`) the command and the report, both as
        measured on held-out levels (measured.py).
    """

    name: str
    family: str
    recipe: str
    env: str
    look: str
    parameters: int
    dtype: str
    file: str
    bytes: int
    sha256: str
    license: str
    needs: tuple[str, ...] = ()
    training: Training = field(default_factory=Training)
    metrics: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises WorkshopError for a name or a file that could lead out of its folder."""
        check_name(self.name)
        if not re.fullmatch(r"[\w-][\w.-]*\.safetensors", self.file, re.ASCII):
            raise WorkshopError(
                f"{self.name}: its file {self.file!r} must be a NAME.safetensors without folders"
            )
        if not re.fullmatch("[0-9a-f]{64}", self.sha256) or self.bytes < 1:
            raise WorkshopError(f"{self.name}: no SHA-256 of 64 digits, or no bytes")


def check_name(name: str) -> None:
    """Raises WorkshopError unless it is made of small letters, digits, - and _."""
    if not NAME.fullmatch(name):
        raise WorkshopError(f"{name!r} is no name of a model: use small letters, digits, - and _")


def cache_folder() -> Path:
    """Where downloads are kept: $WORKSHOP_CACHE, else the system's place for caches."""
    from platformdirs import user_cache_path

    named = os.environ.get(CACHE_VARIABLE)
    return Path(named) if named else user_cache_path("world-models-workshop", appauthor=False)


def names() -> list[str]:
    """Of all models of the registry, tokenizers and other models of no world first."""
    entries = read_entries(REGISTRY)
    return [entry.name for entry in entries]


def read_entries(folder: Path) -> list[Entry]:
    """Those of a folder, by family and then by name; what others build on comes first."""
    entries = [read_entry(path) for path in folder.glob("*.json")]
    families = ("tokenizer", "latent_action")
    return sorted(entries, key=lambda e: (e.family not in families, e.family, e.look, e.name))


def get_entry(name: str) -> Entry:
    """The model of this name: of the registry, or one that was pulled from a mirror.

    Raises WorkshopError naming those that there are.
    """
    if NAME.fullmatch(name):
        for folder in (REGISTRY, cache_folder()):
            if (folder / f"{name}.json").is_file():
                return read_entry(folder / f"{name}.json")
    raise WorkshopError(
        f"no pretrained model is named {name!r}: there are {', '.join(names())}; "
        f"`workshop pretrained pull {name}` looks for it on the mirrors"
    )


def is_known(name: str) -> bool:
    """Whether `get_entry` finds it."""
    places = (REGISTRY, cache_folder())
    return bool(NAME.fullmatch(name)) and any((p / f"{name}.json").is_file() for p in places)


def entry_needed(metadata: Mapping[str, str], part: str) -> Entry | None:
    """The registry's model that another needs; None if it names none, or one that is not there.

    metadata: of the other's file. part: a key there, "tokenizer", "repeater", "lam" or "mean".
    """
    made_with = json.loads(metadata.get(part, "null")) or {}
    # A tokenizer is known by its file's hash. Of a latent action model only the weights are hashed,
    # and compared when a world is opened.
    key = "file" if part == "lam" else "sha256"
    for entry in read_entries(REGISTRY):
        if getattr(entry, key) == made_with.get(key):
            return entry
    return None


def with_needs(wanted: Sequence[str]) -> list[Entry]:
    """The models of these names and all that they need, each once, what is needed first.

    "all" is all of the registry.
    """
    found: list[Entry] = []
    begun: set[str] = set()

    def take(name: str) -> None:
        if name not in begun:
            begun.add(name)
            entry = get_entry(name)
            for other in entry.needs:
                take(other)
            found.append(entry)

    for name in names() if list(wanted) == ["all"] else wanted:
        take(name)
    return found


def read_entry(path: Path) -> Entry:
    """Raises WorkshopError naming the file if it is not a model's entry."""
    return parse_entry(path.read_text(encoding="utf-8"), str(path))


def parse_entry(text: str, source: str) -> Entry:
    """An entry from its JSON text. source: where it comes from, for the error.

    Raises WorkshopError naming the source if it is not a model's entry.
    """
    try:
        values = json.loads(text)
        training = values.pop("training", {})
        training["commands"] = tuple(training.get("commands", ()))
        values["needs"] = tuple(values.get("needs", ()))
        return Entry(**values, training=Training(**training))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise WorkshopError(f"{source}: not the entry of a pretrained model ({error})") from error


def write_entry(folder: Path, entry: Entry) -> Path:
    """Writes NAME.json; groups of a few numbers stay on one line."""
    text = json.dumps(asdict(entry), indent=2, ensure_ascii=False)
    pair = r'"[^"\n]+": -?[\d.e+-]+'
    text = re.sub(rf"{{\s+({pair}(?:,\s+{pair})*)\s+}}", _in_one_line, text)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{entry.name}.json"
    partial = path.with_suffix(".json.partial")
    partial.write_text(text + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def _in_one_line(match: re.Match[str]) -> str:
    return "{" + re.sub(r",\s+", ", ", match[1]) + "}"
