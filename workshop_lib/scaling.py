"""Models of several sizes, the same arithmetic for each: `workshop scaling`.

A study is a YAML file:

    recipe: next_frame/tiny         # what is trained
    data: data/easy-control         # a split folder
    flops: 1.0e+12                  # for training each size: forward and backward
    sizes: [{width: 8}, {width: 16}, {width: 32}]  # keys of the recipe's model
    length: 5                       # frames in a clip
    batch_size: 16
    val_clips: 64                   # held out; measured 20 times along the way
    optim: {schedule: constant}     # keys of the recipe's optim, e.g. so that all of a run counts
    model: {net: {depth: 2}}        # keys of the recipe's model, for all sizes
    series: {v: {prediction: v}, x: {prediction: x}}  # every size in each of these ways
    measure: v_mse                  # the held-out figure that is compared, instead of the loss

The last three may be left out. Keys inside of keys change only what they name. A series is compared
with the others and has its own law; where losses mean different things, `measure` must not.

With a constant rate and averaged weights every point of a run is as good as a run of that length
(Hägele et al. 2024, section 4), so that one run per size shows all smaller budgets, too.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, fields, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import ArrayLike

from workshop_lib.errors import WorkshopError

RESULTS, PICTURE, FLOOR_PICTURE = "results.json", "scaling.png", "floor.png"


@dataclass(frozen=True)
class Study:
    """What is compared; see this module's text."""

    recipe: str
    data: str
    flops: float
    sizes: list[dict[str, Any]]
    length: int = 5
    batch_size: int = 16
    val_clips: int = 64
    seed: int = 0
    optim: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    series: dict[str, dict[str, Any]] = field(default_factory=lambda: {"": {}})
    measure: str = "loss"

    @property
    def asked(self) -> list[tuple[str, dict[str, Any]]]:
        """Series and size of all runs, in the order in which they are trained."""
        return [(name, size) for size in self.sizes for name in self.series]


@dataclass(frozen=True)
class SizeRun:
    """One size's training.

    size: what was changed. parameters: N. flops_per_step: of one step. steps and loss: the
    held-out measure of the averaged weights after so many steps, lists of one length.
    series: its name. width, floor: of scaling_floor.py, where the measure is v_mse.
    """

    size: dict[str, Any]
    parameters: int
    flops_per_step: float
    steps: list[int]
    loss: list[float]
    series: str = ""
    width: int | None = None
    floor: float | None = None


def scaling(study: str, out: str = "scaling", data: str | None = None) -> dict[str, Any]:
    """Trains every size of a study with equal FLOPs, fits L = A N^-alpha, and draws it.

    Sizes that are in OUT/results.json already are not trained again.

    Args:
        study: YAML file with the keys recipe, data, flops and sizes.
        out: folder for results.json, scaling.png and, where widths have a floor, floor.png.
        data: a split folder, instead of the study's.

    Returns what is in results.json.
    """
    plan, folder = read_study(Path(study)), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    done = _done(folder / RESULTS, plan)
    for series, size in plan.asked:
        if not any((run.series, run.size) == (series, size) for run in done):
            done.append(train_size(plan, size, data or plan.data, series))
            _write(folder / RESULTS, plan, done)
            print(_told(done[-1], plan.measure), flush=True)
    result = _write(folder / RESULTS, plan, done)
    for series, law in result["fits"].items():
        of = f"{series}: " if series else ""
        print(f"{of}L = {law['A']:.3g} N^-{law['alpha']:.3f} over {law['points']} sizes")
    draw(result, folder)
    return result


def read_study(path: Path) -> Study:
    """Raises WorkshopError for a file that is none, naming the key."""
    try:
        said = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise WorkshopError(f"{path}: cannot be read ({' '.join(str(error).split())})") from error
    known = {f.name for f in fields(Study)}
    for key in said if isinstance(said, dict) else {}:
        if key not in known:
            raise WorkshopError(f"{path}: unknown key {key!r}; a study has {', '.join(known)}")
    try:
        study = Study(**said)
        study = replace(study, flops=float(study.flops))
    except (TypeError, ValueError) as error:
        raise WorkshopError(f"{path}: {error}") from error
    if len(study.sizes) < 2 or study.flops <= 0:
        raise WorkshopError(f"{path}: needs two sizes or more, and flops above 0")
    series = study.series.values() if isinstance(study.series, dict) else ()
    if not series or not all(isinstance(keys, dict) for keys in (study.model, *series)):
        raise WorkshopError(f"{path}: model, and each of series by its name, are keys and values")
    return study


def train_size(study: Study, size: dict[str, Any], data: str, series: str = "") -> SizeRun:
    """Trains one size for the study's FLOPs; on the GPU if there is one."""
    import torch

    from workshop_lib.data.clips import ClipBatches, ClipConfig, fixed_clips
    from workshop_lib.data.splits import split_shards
    from workshop_lib.scaling_floor import floor_of
    from workshop_lib.training.live import train_live
    from workshop_lib.training.speed import count_flops

    torch.manual_seed(study.seed)
    model, optim = _untrained(study, size, series)
    batches = ClipBatches(
        split_shards(data, "train"),
        ClipConfig(length=study.length, batch_size=study.batch_size, seed=study.seed),
    )
    held_out = ClipConfig(length=study.length, batch_size=study.val_clips, lanes=1, seed=1)
    val_clip = next(iter(fixed_clips(split_shards(data, "val"), held_out, 1)))
    _check_measure(study.measure, model, val_clip[:2])
    floor = floor_of(model, val_clip) if study.measure == "v_mse" else None
    per_step = count_flops(model, val_clip[:2]) * study.batch_size
    steps = round(study.flops / per_step)
    if steps < 20:
        raise WorkshopError(f"{_name(size)}: {study.flops:g} flops are {steps} steps; 20 at least")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    curves = train_live(
        model.to(device),
        _Some(batches, steps),
        steps,
        val_clip.to(device),
        replace(optim, **study.optim),
        show=False,
    )
    at, loss = curves[f"val/{study.measure}"]
    if at[-1] + max(1, steps // 20) < steps:
        raise WorkshopError(f"{_name(size)}: stopped early; the same command goes on with it")
    return SizeRun(
        size,
        sum(p.numel() for p in model.parameters()),
        per_step,
        [int(n) for n in at],
        [round(float(value), 6) for value in loss],
        series,
        *(floor or (None, None)),
    )


def _untrained(study: Study, size: dict[str, Any], series: str) -> tuple[Any, Any]:
    from workshop_lib.training.live import from_recipe
    from workshop_lib.training.recipes import recipe_path

    model = yaml.safe_load(recipe_path(study.recipe).read_text())["model"]
    for changes in (study.model, study.series[series], size):
        model = merged(model, changes)
    return from_recipe(study.recipe, **model)


def merged(keys: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """Keys with changes; of keys inside of keys, only those that the changes name."""
    return keys | {
        key: merged(keys[key], value)
        if isinstance(value, dict) and isinstance(keys.get(key), dict)
        else value
        for key, value in changes.items()
    }


def _check_measure(measure: str, model: Any, clip: Any) -> None:
    """Raises WorkshopError, before anything is trained, for a figure that is not logged."""
    import torch

    with torch.no_grad():
        known = {"loss", *model.eval().loss(clip)[1]}
    model.train()
    if measure not in known:
        raise WorkshopError(f"measure {measure!r}: choose one of {', '.join(sorted(known))}")


class _Some:
    """The first `count` batches: what trains on them stops there, and closes the files."""

    def __init__(self, batches: Any, count: int) -> None:
        self.batches, self.count = batches, count

    def __iter__(self) -> Any:
        return islice(iter(self.batches), self.count)


def fit_power_law(parameters: ArrayLike, loss: ArrayLike) -> tuple[float, float]:
    """A and alpha of L = A N^-alpha (Kaplan et al. 2020): a straight line through log L over log N,
    by least squares.

    parameters: N, and loss: L, both above 0, (n,) with n >= 2.

    Raises WorkshopError for fewer points, or numbers that have no logarithm.
    """
    n, values = np.asarray(parameters, dtype=float), np.asarray(loss, dtype=float)
    if n.shape != values.shape or n.size < 2 or min(n.min(), values.min()) <= 0:
        raise WorkshopError("a power law needs two points or more, all above 0")
    slope, height = np.polyfit(np.log(n), np.log(values), 1)
    return math.exp(height), -float(slope)


def falling_branch(runs: list[SizeRun]) -> list[SizeRun]:
    """From the smallest size to the best one. Larger ones had too few steps for their size: there,
    time is what limits the loss, and not the size."""
    ordered = sorted(runs, key=lambda run: run.parameters)
    losses = [run.loss[-1] for run in ordered]
    return ordered[: losses.index(min(losses)) + 1]


def laws(runs: list[SizeRun]) -> dict[str, dict[str, float]]:
    """By series: A and alpha over its falling branch, and how many points that has, 2 or more."""
    fits = {}
    for name in dict.fromkeys(run.series for run in runs):
        branch = falling_branch([run for run in runs if run.series == name])
        if len(branch) >= 2:
            N, loss = [run.parameters for run in branch], [run.loss[-1] for run in branch]
            A, alpha = fit_power_law(N, loss)
            fits[name] = {"A": A, "alpha": alpha, "points": len(branch)}
    return fits


def draw(result: dict[str, Any], folder: Path) -> None:
    """scaling.png and, where every run has a floor, floor.png."""
    from workshop_lib.media.scaling_plots import floor_plot, scaling_plot

    scaling_plot(result).savefig(folder / PICTURE)
    if all(run["floor"] is not None for run in result["runs"]):
        floor_plot(result).savefig(folder / FLOOR_PICTURE)


def _write(path: Path, study: Study, runs: list[SizeRun]) -> dict[str, Any]:
    runs = sorted(runs, key=lambda run: study.asked.index((run.series, run.size)))
    result: dict[str, Any] = {"study": asdict(study), "runs": [asdict(run) for run in runs]}
    result["fits"] = laws(runs)
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _done(path: Path, study: Study) -> list[SizeRun]:
    """The runs of an earlier call. Raises WorkshopError if they are of another study."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text())
    if replace(Study(**found["study"]), sizes=study.sizes) != study:
        raise WorkshopError(f"{path}: is of another study; choose another --out, or delete it")
    return [SizeRun(**run) for run in found["runs"] if run["size"] in study.sizes]


def _told(run: SizeRun, measure: str) -> str:
    of = f"{run.series}, " if run.series else ""
    figures = f"{run.parameters:,} parameters, {run.steps[-1]} steps"
    return f"{of}{_name(run.size)}: {figures}, {measure} {run.loss[-1]:.4g}"


def _name(size: dict[str, Any]) -> str:
    return ", ".join(
        _name(value) if isinstance(value, dict) else f"{key} {value}" for key, value in size.items()
    )
