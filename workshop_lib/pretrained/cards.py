"""The registry in Markdown: model cards, and the tables of README.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from workshop_lib.errors import WorkshopError
from workshop_lib.pretrained import registry
from workshop_lib.pretrained.registry import Entry, read_entries

REPOSITORY = Path(__file__).parents[2]
BEGIN, END = "<!-- results: python tools/readme_parts.py -->", "<!-- end of results -->"
WRITTEN_BY = """
This page is written from workshop_lib/pretrained/registry, by `workshop pretrained add` and by
`python tools/readme_parts.py`: change that, not this page.
"""
NOTHING = "-"
HORIZON = 8  # frames after the prompt, of the tables that compare models
LONG = 500  # frames of a long dream
Row = dict[str, str]


def write_pages(repository: Path = REPOSITORY) -> list[Path]:
    """Writes the cards (data/pretrained/README.md) and the tables of README.md; what has changed.

    Raises WorkshopError if README.md has lost the marks between which they stand.
    """
    changed = []
    for path, text in pages(repository).items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            changed.append(path)
    return changed


def pages(repository: Path = REPOSITORY) -> dict[Path, str]:
    """What these files must hold, from the registry."""
    entries, readme = read_entries(registry.REGISTRY), repository / "README.md"
    before, begin, rest = readme.read_text(encoding="utf-8").partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise WorkshopError(f"{readme}: has no {BEGIN} and {END} for the tables to stand between")
    results = f"{BEGIN}\n{results_tables(entries)}{gif_table(entries, repository)}{END}"
    return {
        readme: before + results + after,
        repository / "data" / "pretrained" / "README.md": cards_page(entries, WRITTEN_BY),
    }


def cards_page(entries: Iterable[Entry], note: str = "") -> str:
    """All cards on one page. note: lines to say about the page."""
    entries = list(entries)
    size = sum(entry.bytes for entry in entries) / 1e6
    head = f"""# Trained weights

{len(entries)} models, {size:.1f} MB.
{note}
```python
from workshop_lib.pretrained import load_pretrained
from workshop_lib.worlds.opening import open_world

model = load_pretrained("{entries[0].name if entries else "NAME"}")
world = open_world("{next((e.name for e in entries if _is_world(e)), "NAME")}")
```

The verbs take the names, too: `workshop generate NAME`. Intervals are 95%.
"""
    return "\n".join([head, *(card(entry) for entry in entries)])


def card(entry: Entry) -> str:
    """The model card of one model."""
    made = entry.training
    facts = {
        "kind": f"`{entry.family}`, recipe `{entry.recipe}`",
        "plays": f"{entry.env}, {entry.look} levels",
        "parameters": f"{entry.parameters:,}",
        "file": f"`{entry.file}`, {entry.bytes:,} bytes, {entry.dtype}",
        "SHA-256": f"`{entry.sha256}`",
        "needs": ", ".join(f"`{name}`" for name in entry.needs),
        "trained": made.summary,
        "on": made.hardware + (f", {made.minutes:g} minutes" if made.minutes else ""),
        "seed": str(made.seed),
        "commit": f"`{made.commit}`" if made.commit else "",
        "license": entry.license,
    }
    lines = [f"## {entry.name}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in facts.items() if value]
    if made.commands:
        lines += ["", "Made by", "", "```bash", *made.commands, "```"]
    for kind, metric in entry.metrics.items():
        lines += ["", MEASURED[kind](metric["report"]), "```bash", metric["command"], "```"]
    return "\n".join(lines) + "\n"


def results_tables(entries: Iterable[Entry]) -> str:
    """One table for each kind of model."""
    tables: dict[str, list[Row]] = {}
    for entry in entries:
        title, row = result(entry)
        tables.setdefault(title, []).append(
            {"": f"`{entry.name}`", "levels": entry.look, "size": _size(entry), **row}
        )
    order = sorted(tables, key=list(TITLES).index)
    return "".join(f"\n{TITLES[title]}\n\n{_table(tables[title])}" for title in order) + "\n"


TITLES = {
    "worlds": f"Worlds: open-loop PSNR, and how often the dream of a key is nearer to the real "
    f"future of that key\nthan to the other's, {HORIZON} frames on (chance: 50%). Alive: the share "
    f"of 24 long dreams, by three ways to play,\nthat after {LONG} frames still show a level with "
    f"hard edges, in its colors, and the player in it.\nWith ends: the same from the beginning of "
    f"a level, where levels end, as `termination-tiny` says, and begin\nanew; and in how many "
    f"stretches of 8 frames fresh level comes in there for one who runs and jumps\n(in the real "
    f"game in 61% on easy levels, in 66% on hard ones):",
    "tokenizers": "Tokenizers:",
    "latent actions": "Latent actions, beside the same encoder told the true ones:",
    "terminations": "What says when a level is over, held-out levels:",
    "others": "Others:",
}


def result(entry: Entry) -> tuple[str, Row]:
    """In which table a model stands, and its columns there."""
    reports = {kind: metric["report"] for kind, metric in entry.metrics.items()}
    if _is_world(entry):
        world = reports["world"]["rollout"]["at"] if "world" in reports else []
        control = reports["control"]["at"] if "control" in reports else []
        first, later, keys = _at(world, 1), _at(world, HORIZON), _at(control, HORIZON)
        accuracy = keys.get("accuracy", {})
        ends = reports["levels"]["drift"] if "levels" in reports else {}
        return "worlds", {
            "PSNR after 1": _dB(first.get("psnr")),
            f"after {HORIZON}": _dB(later.get("psnr")),
            f"copying, after {HORIZON}": _dB(later.get("copy_psnr")),
            "left or right": _share(accuracy.get("left/right")),
            "jump or nothing": _share(accuracy.get("jump/nothing")),
            f"alive after {LONG}": _alive(reports["world"]["drift"] if "world" in reports else {}),
            "with ends": _alive(ends),
            "fresh": f"{100 * ends['run and jump']['fresh']:.0f}%" if ends else NOTHING,
        }
    if "tokenizer" in reports:
        report = reports["tokenizer"]
        return "tokenizers", {
            "a frame": f"{report['tokens_per_frame']:g} tokens of {report['num_codes']} codes",
            "PSNR": _dB(report["psnr"]),
            "by search": _dB(report.get("searched")),
            "SSIM": _plain(report["ssim"], 3),
            "codes in use": f"{100 * report['usage']:.1f}%",
        }
    if "termination" in reports:
        report = reports["termination"]
        return "terminations", {
            "ends with the coin foreseen": _share(report["coins"]),
            "without it": _share(report["deaths"]),
            "kind right": _share(report["kind"]),
            "false alarms in 500 frames": f"{report['false']:.2f}",
        }
    if "lam" in reports:
        report, told = reports["lam"], reports["lam"]["probe"] or {}
        return "latent actions", {
            "codes": str(report["num_codes"]),
            "NMI with the keys": _plain(report["agreement"]["nmi"], 2),
            "told": _plain(told.get("nmi"), 2),
            "delta PSNR": _dB(report["delta_psnr"]),
        }
    return "others", {"recipe": f"`{entry.recipe}`"}


def gif_table(entries: Iterable[Entry], repository: Path = REPOSITORY) -> str:
    """The worlds whose GIF lies in docs, side by side."""
    shown = [e.name for e in entries if (repository / "docs" / f"{e.name}.gif").is_file()]
    if not shown:
        return ""
    pictures = {f"`{name}`": f"![{name}](docs/{name}.gif)" for name in shown}
    return f"Dreamed by them (above: the real game):\n\n{_table([pictures])}\n"


def _of_a_tokenizer(report: dict[str, Any]) -> str:
    controls = ", ".join(f"{name} {_dB(value)}" for name, value in report["controls"].items())
    searched = report.get("searched")
    found = f"; {_dB(searched)} by a search of {report['search']} sweeps" if searched else ""
    return (
        f"{report['frames']} held-out frames: PSNR {_dB(report['psnr'])} ({controls}{found}), SSIM "
        f"{_plain(report['ssim'], 3)}, {report['tokens_per_frame']:g} tokens of "
        f"{report['num_codes']} codes, {100 * report['usage']:.1f}% of them in use\n"
    )


def _of_latent_actions(report: dict[str, Any]) -> str:
    columns = {"codes": report["agreement"], "told the actions": report["probe"]}
    rows = [
        {
            "": name,
            "NMI": _plain(each["nmi"], 3),
            "balanced": _plain(each["balanced"], 3),
            "accuracy": _plain(each["accuracy"], 3),
        }
        for name, each in columns.items()
        if each
    ]
    text = (
        f"Delta PSNR {_dB(report['delta_psnr'])}; {100 * report['usage']:.0f}% of "
        f"{report['num_codes']} codes in use, in effect {report['perplexity']:.1f}."
    )
    return f"{report['transitions']} held-out transitions:\n\n{_table(rows)}\n{text}\n"


def _of_a_rollout(report: dict[str, Any]) -> str:
    rows = [
        {
            "frames after": str(at["horizon"]),
            "PSNR": _dB(at["psnr"]),
            "copying the last frame": _dB(at["copy_psnr"]),
            "another clip's keys": _dB(at["shuffled_psnr"]),
            "beats other keys": _share(at["wins"]),
        }
        for at in report["rollout"]["at"]
    ]
    long = _long_dreams(report["drift"])
    head = f"Open loop, {report['rollout']['clips']} held-out clips:"
    return "\n".join([f"{head}\n\n{_table(rows)}", *([_table(long)] if long else [])])


def _long_dreams(drifts: dict[str, dict[str, Any]]) -> list[Row]:
    return [
        {
            "long dreams": f"{name}, {drift['steps']} frames",
            "alive in the end": f"{100 * drift['alive']:.0f}%",
            "half of them for": f"{drift['lasted']} frames",
            **{
                name: "" if drift[name] is None else f"{100 * drift[name]:.0f}%"
                for name in ("player", "edges", "colors", "contrast", "sharpness", "still", "fresh")
            },
        }
        for name, drift in drifts.items()
    ]


def _of_levels(report: dict[str, Any]) -> str:
    rows = _long_dreams(report["drift"])
    for row, name in zip(rows, report["drift"], strict=True):
        row["coins"], row["deaths"] = (f"{report[k][name]:.1f}" for k in ("coins", "deaths"))
    head = (
        "The same from the beginning of held-out levels, where levels end, and begin anew; coins"
        " and deaths in 500 frames:"
    )
    return f"{head}\n\n{_table(rows)}"


def _of_terminations(report: dict[str, Any]) -> str:
    rows = {
        "ends with the coin foreseen": _share(report["coins"]),
        "ends without it foreseen": _share(report["deaths"]),
        "the kind right, where foreseen": _share(report["kind"]),
        "false alarms in 500 frames": f"{report['false']:.2f}",
        "of them less than 8 steps too soon": _share(report["soon"]),
    }
    head = f"{report['frames']} held-out frames, {report['real']:.1f} ends in 500:"
    return f"{head}\n\n{_table([{'': name, 'share': said} for name, said in rows.items()])}"


def _of_control(report: dict[str, Any]) -> str:
    rows = [
        {
            "frames after": str(at["horizon"]),
            **{pair: _share(share) for pair, share in at["accuracy"].items()},
            "gain": _plain(at["gain"], 2),
            "PSNR": _dB(at["psnr"]),
            "copying": _dB(at["copy_psnr"]),
        }
        for at in report["at"]
    ]
    head = f"Control, {report['starts']} moments of held-out {report['look']} levels:"
    return f"{head}\n\n{_table(rows)}"


MEASURED: dict[str, Callable[[dict[str, Any]], str]] = {
    "tokenizer": _of_a_tokenizer,
    "lam": _of_latent_actions,
    "world": _of_a_rollout,
    "control": _of_control,
    "termination": _of_terminations,
    "levels": _of_levels,
}


def _is_world(entry: Entry) -> bool:
    return "world" in entry.metrics or "control" in entry.metrics


def _alive(drifts: dict[str, dict[str, Any]]) -> str:
    """The mean over the ways to play."""
    alive = [drift["alive"] for drift in drifts.values()]
    return f"{100 * sum(alive) / len(alive):.0f}%" if alive else NOTHING


def _table(rows: list[Row]) -> str:
    """A Markdown table; the columns are those of all rows."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[row.get(column, NOTHING) for column in columns] for row in rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _at(reports: list[dict[str, Any]], horizon: int) -> dict[str, Any]:
    return next((at for at in reports if at["horizon"] == horizon), {})


def _size(entry: Entry) -> str:
    return f"{entry.parameters / 1e6:.1f} M, {entry.bytes / 1e6:.1f} MB"


def _plain(score: dict[str, float] | None, digits: int) -> str:
    return f"{score['mean']:.{digits}f} ± {score['interval']:.{digits}f}" if score else NOTHING


def _dB(score: dict[str, float] | None) -> str:
    return f"{score['mean']:.1f} ± {score['interval']:.1f} dB" if score else NOTHING


def _share(share: dict[str, float] | None) -> str:
    if not share:
        return NOTHING
    return f"{100 * share['mean']:.1f}% ({100 * share['low']:.0f} to {100 * share['high']:.0f})"
