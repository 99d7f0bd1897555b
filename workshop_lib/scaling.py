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

RESULTS, PICTURE = "results.json", "scaling.png"


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


@dataclass(frozen=True)
class SizeRun:
    """One size's training.

    size: what was changed. parameters: N. flops_per_step: of one step. steps and loss: the
    held-out loss of the averaged weights after so many steps, lists of one length.
    """

    size: dict[str, Any]
    parameters: int
    flops_per_step: float
    steps: list[int]
    loss: list[float]


def scaling(study: str, out: str = "scaling", data: str | None = None) -> dict[str, Any]:
    """Trains every size of a study with equal FLOPs, fits L = A N^-alpha, and draws it.

    Sizes that are in OUT/results.json already are not trained again.

    Args:
        study: YAML file with the keys recipe, data, flops and sizes.
        out: folder for results.json and scaling.png.
        data: a split folder, instead of the study's.

    Returns what is in results.json.
    """
    plan, folder = read_study(Path(study)), Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    done = _done(folder / RESULTS, plan)
    for size in plan.sizes:
        if not any(run.size == size for run in done):
            done.append(train_size(plan, size, data or plan.data))
            _write(folder / RESULTS, plan, done)
            last = done[-1]
            print(
                f"{_name(size)}: {last.parameters:,} parameters, {last.steps[-1]} steps, ", end=""
            )
            print(f"loss {last.loss[-1]:.4g}", flush=True)
    result = _write(folder / RESULTS, plan, done)
    if "fit" in result:
        law = result["fit"]
        print(f"L = {law['A']:.3g} N^-{law['alpha']:.3f} over {law['points']} sizes")
    draw(result, folder / PICTURE)
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
    return study


def train_size(study: Study, size: dict[str, Any], data: str) -> SizeRun:
    """Trains one size for the study's FLOPs; on the GPU if there is one."""
    import torch

    from workshop_lib.data.clips import ClipBatches, ClipConfig, fixed_clips
    from workshop_lib.data.splits import split_shards
    from workshop_lib.training.live import from_recipe, train_live
    from workshop_lib.training.speed import count_flops

    torch.manual_seed(study.seed)
    model, optim = from_recipe(study.recipe, **size)
    batches = ClipBatches(
        split_shards(data, "train"),
        ClipConfig(length=study.length, batch_size=study.batch_size, seed=study.seed),
    )
    held_out = ClipConfig(length=study.length, batch_size=study.val_clips, lanes=1, seed=1)
    val_clip = next(iter(fixed_clips(split_shards(data, "val"), held_out, 1)))
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
    at, loss = curves["val/loss"]
    if at[-1] + max(1, steps // 20) < steps:
        raise WorkshopError(f"{_name(size)}: stopped early; the same command goes on with it")
    return SizeRun(
        size,
        sum(p.numel() for p in model.parameters()),
        per_step,
        [int(n) for n in at],
        [round(float(value), 6) for value in loss],
    )


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
    best = min(range(len(ordered)), key=lambda i: ordered[i].loss[-1])
    return ordered[: best + 1]


def draw(result: dict[str, Any], path: Path) -> None:
    """The picture of results.json."""
    from workshop_lib.media.scaling_plots import scaling_plot

    scaling_plot(result).savefig(path)


def _write(path: Path, study: Study, runs: list[SizeRun]) -> dict[str, Any]:
    runs = sorted(runs, key=lambda run: study.sizes.index(run.size))
    result: dict[str, Any] = {"study": asdict(study), "runs": [asdict(run) for run in runs]}
    branch = falling_branch(runs)
    if len(branch) >= 2:
        A, alpha = fit_power_law(
            [run.parameters for run in branch], [run.loss[-1] for run in branch]
        )
        result["fit"] = {"A": A, "alpha": alpha, "points": len(branch)}
    path.write_text(json.dumps(result, indent=1) + "\n")
    return result


def _done(path: Path, study: Study) -> list[SizeRun]:
    """The runs of an earlier call. Raises WorkshopError if they are of another study."""
    if not path.is_file():
        return []
    found = json.loads(path.read_text())
    other = {**found["study"], "sizes": study.sizes}
    if other != asdict(study):
        raise WorkshopError(f"{path}: is of another study; choose another --out, or delete it")
    return [SizeRun(**run) for run in found["runs"] if run["size"] in study.sizes]


def _name(size: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in size.items())
