"""What the reports of `workshop evaluate` say of a model, cut down to what a card shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from workshop_lib.errors import WorkshopError

# By verb: keys that only its report has, and the files that it writes.
KINDS = {
    "tokenizer": ("tokens_per_frame", "usage"),
    "lam": ("agreement", "delta_psnr"),
    "world": ("rollout", "drift"),
    "control": ("starts", "at"),
    "termination": ("coins", "soon"),
    "levels": ("deaths", "drift"),
}
FILES = ("report.json", "control.json")
SHOWN = (1, 4, 8, 12, 16)  # frames after the prompt
LEFT_OUT = {"code_counts", "confusion", "meaning", "key_codes", "model", "termination"}
OF_A_ROLLOUT = ("horizon", "psnr", "copy_psnr", "shuffled_psnr", "wins")
DIGITS = 4


def find_reports(places: str) -> list[Path]:
    """The report files that are named, or lie in the folders that are; separated by commas.

    Raises WorkshopError for a place without a report.
    """
    found = []
    for place in (Path(part.strip()) for part in places.split(",") if part.strip()):
        files = [place] if place.is_file() else [place / name for name in FILES]
        there = [file for file in files if file.is_file()]
        if not there:
            raise WorkshopError(f"{place}: no {' or '.join(FILES)}; `workshop evaluate --out`")
        found += there
    return found


def read_report(path: Path) -> tuple[str, dict[str, Any]]:
    """The verb that wrote a report ("world" for `workshop evaluate world`), and what to keep of it.

    Raises WorkshopError naming the file if no verb of ours wrote it.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkshopError(f"{path}: not a JSON file ({error})") from error
    for kind, keys in KINDS.items():
        if isinstance(report, dict) and all(key in report for key in keys):
            return kind, _kept(kind, report)
    raise WorkshopError(f"{path}: no report of `workshop evaluate {' or '.join(KINDS)}`")


def _kept(kind: str, report: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in report.items() if key not in LEFT_OUT}
    if kind == "world":
        shown = [at for at in report["rollout"]["at"] if at["horizon"] in SHOWN]
        few = [{key: at[key] for key in OF_A_ROLLOUT} for at in shown]
        kept["rollout"] = {**report["rollout"], "at": few}
    if "drift" in report:
        kept["drift"] = {name: _at_the_end(drift) for name, drift in report["drift"].items()}
    rounded: dict[str, Any] = _rounded(kept)
    return rounded


def _at_the_end(drift: dict[str, Any]) -> dict[str, Any]:
    """Of a long dream: what its last tenth looks like, and how much of it stood still."""
    still = drift["still"]
    return {
        "steps": drift["steps"],
        "dreams": drift["dreams"],
        "alive": drift["alive"],
        "lasted": drift["lasted"],
        "contrast": drift["contrast"][-1],
        "sharpness": drift["sharpness"][-1],
        "edges": drift["edges"][-1],
        "colors": drift["colors"][-1],
        "player": None if drift["player"] is None else drift["player"][-1],
        "still": sum(still) / len(still),
        "fresh": drift["fresh"],
    }


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return round(value, DIGITS) if isinstance(value, float) else value
