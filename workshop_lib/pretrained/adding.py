"""`workshop pretrained add`: a trained file into the registry, with its card."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from workshop_lib.data.game import Look
from workshop_lib.data.splits import file_sha256
from workshop_lib.errors import WorkshopError
from workshop_lib.pretrained import registry
from workshop_lib.pretrained.cards import write_pages
from workshop_lib.pretrained.measured import find_reports, read_report
from workshop_lib.pretrained.registry import Entry, Training, get_entry, is_known

PARTS = ("tokenizer", "repeater", "lam", "mean")  # what a file may say that it needs
EVALUATE = "workshop evaluate "


def add(
    file: str,
    name: str | None = None,
    look: Look | None = None,
    recipe: str | None = None,
    run: str | None = None,
    commands: str | None = None,
    summary: str | None = None,
    hardware: str | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    commit: str | None = None,
    reports: str = "",
    env: str | None = None,
    license: str | None = None,
) -> Path:
    """Registers a trained model: copies its file to data/pretrained, writes its entry and the pages
    made from the registry.

    What the file and the run folder say need not be given. For a model that is registered already,
    what is not given stays, unless the file has changed: then how the old one was made and measured
    is forgotten.

    Args:
        file: the safetensors file that `workshop export` wrote, in half precision if that will do.
        name: by default the name of the file.
        look: of the levels that it is for: mono, easy or hard.
        recipe: such as dynamics/tiny; by default the run's.
        run: its run folder; by default the one that the file names, if it is there.
        commands: a text file with the commands that made and measured it, one a line.
        summary: steps and data, in a few words.
        hardware: such as "one NVIDIA H100" or "one CPU core".
        minutes: of training.
        seed: by default the run's.
        commit: by default the run's.
        reports: folders or files of `workshop evaluate --out`, separated by commas; their commands
            must be among --commands.
        env: the game; coinrun by default.
        license: MIT by default.
    """
    from workshop_lib.models.files import load_model, read_metadata

    if not registry.CHECKOUT.is_dir():
        raise WorkshopError(f"{registry.CHECKOUT}: no such folder; register in a git checkout")
    source = Path(file)
    metadata, model = read_metadata(source), load_model(source)
    name = name or source.stem
    registry.check_name(name)
    digest = file_sha256(source)
    old = _old(name, digest)
    of_run = _of_run(Path(run) if run else Path(metadata.get("run", "")), must=run is not None)
    lines = _lines(commands)
    made: dict[str, Any] = {
        "summary": summary,
        "commands": tuple(line for line in lines if not line.startswith(EVALUATE)) or None,
        "commit": commit or of_run.get("commit"),
        "seed": of_run.get("seed") if seed is None else seed,
        "hardware": hardware,
        "minutes": minutes,
    }
    made = {**asdict(old.training if old else Training()), **_given(made)}
    said: dict[str, Any] = {"recipe": of_run.get("recipe"), "env": "coinrun", "license": "MIT"}
    said |= {key: getattr(old, key) for key in ("recipe", "look", "env", "license") if old}
    said |= _given({"recipe": recipe, "look": look, "env": env, "license": license})
    for key, value in {**said, "look": said.get("look"), "summary": made["summary"]}.items():
        if not value:
            raise WorkshopError(f"{file}: give --{key}, too; neither the file nor its run says it")
    entry = Entry(
        name=name,
        family=metadata["family"],
        parameters=sum(p.numel() for p in model.parameters()),
        dtype=_dtype(source),
        file=f"{name}.safetensors",
        bytes=source.stat().st_size,
        sha256=digest,
        needs=_needs(metadata, name),
        training=Training(**made),
        metrics=_metrics(old.metrics if old else {}, reports, lines),
        **said,
    )
    return _register(source, entry)


def _register(source: Path, entry: Entry) -> Path:
    """Copies the file, writes the entry and the pages; returns the entry's path."""
    target = registry.CHECKOUT / entry.file
    if not target.exists() or not target.samefile(source):
        shutil.copyfile(source, target)
    path = registry.write_entry(registry.REGISTRY, entry)
    for changed in [path, *write_pages()]:
        print(f"wrote {os.path.relpath(changed)}")
    return path


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _old(name: str, digest: str) -> Entry | None:
    """What is registered under this name; if its file was another one, not how that was made and
    measured."""
    if not is_known(name):
        return None
    entry = get_entry(name)
    return entry if entry.sha256 == digest else replace(entry, training=Training(), metrics={})


def _of_run(folder: Path, must: bool) -> dict[str, Any]:
    """Recipe, commit and seed from a run folder.

    Raises WorkshopError if it must be one and is not.
    """
    versions, config = folder / "versions.json", folder / "config.yaml"
    if not (versions.is_file() and config.is_file()):
        if must:
            raise WorkshopError(f"{folder}: no run folder (it lacks versions.json or config.yaml)")
        return {}
    record = json.loads(versions.read_text(encoding="utf-8"))
    recipe = Path(record["recipe"])
    seed = yaml.safe_load(config.read_text(encoding="utf-8")).get("seed_everything")
    return {
        "recipe": f"{recipe.parent.name}/{recipe.stem}",
        "commit": record.get("commit"),
        "seed": seed if isinstance(seed, int) else None,
    }


def _lines(commands: str | None) -> list[str]:
    """The commands of a text file; a line that ends in a backslash goes on."""
    if commands is None:
        return []
    if not Path(commands).is_file():
        raise WorkshopError(f"{commands}: no such file; --commands is a text file of commands")
    text = Path(commands).read_text(encoding="utf-8").replace("\\\n", " ")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _metrics(old: dict[str, Any], reports: str, lines: list[str]) -> dict[str, Any]:
    """The old metrics, the new ones in their places.

    Raises WorkshopError for a report whose command is nowhere.
    """
    metrics = dict(old)
    for path in find_reports(reports):
        kind, report = read_report(path)
        known = [line for line in lines if line.startswith(f"{EVALUATE}{kind} ")]
        command = known[-1] if known else metrics.get(kind, {}).get("command")
        if command is None:
            raise WorkshopError(
                f"{path}: its command is missing; write the line `{EVALUATE}{kind} ...` into the "
                f"file of --commands"
            )
        metrics[kind] = {"command": command, "report": report}
    return metrics


def _needs(metadata: dict[str, str], name: str) -> tuple[str, ...]:
    """The names of the registered models that a file was trained with or dreams through, by its
    metadata.

    Raises WorkshopError for one that is not registered.
    """
    needs = []
    for part in PARTS:
        entry = registry.entry_needed(metadata, part)
        if entry is None and part in metadata:
            raise WorkshopError(
                f"{name} needs {json.loads(metadata[part])['file']}, which is not registered; "
                f"`workshop pretrained add` that first"
            )
        needs += [] if entry is None else [entry.name]
    return tuple(dict.fromkeys(needs))  # one tokenizer may be needed for two reasons


def _dtype(path: Path) -> str:
    """Of the stored weights, such as "float16"."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        tensors = (file.get_tensor(key) for key in file.keys())  # noqa: SIM118
        return next((str(t.dtype).split(".")[1] for t in tensors if t.is_floating_point()), "")
