"""`workshop scaling`: equal arithmetic for each size, a law through the results, nothing twice."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import REPOSITORY, SAMPLE
from workshop_lib.errors import WorkshopError
from workshop_lib.scaling import (
    SizeRun,
    Study,
    falling_branch,
    fit_power_law,
    laws,
    merged,
    read_study,
    scaling,
    train_size,
)

STUDY = {
    "recipe": "tokenizer/tiny",
    "data": str(SAMPLE / "easy"),
    "flops": 2.0e10,
    "sizes": [{"dim": 8, "depth": 1, "latent_dim": 8}, {"dim": 24, "depth": 1, "latent_dim": 8}],
    "length": 1,
    "batch_size": 8,
    "val_clips": 8,
    "optim": {"schedule": "constant", "warmup": 2, "ema": 0.9},
}
# Diffusion transformers that say v, or x, through layers of 16 and 32 numbers.
NARROW = {
    "recipe": "diffusion/tiny",
    "data": str(SAMPLE / "easy"),
    "flops": 4.0e9,
    "measure": "v_mse",
    "series": {"v": {"prediction": "v"}, "x": {"prediction": "x"}},
    "sizes": [{"net": {"dim": 16}}, {"net": {"dim": 32}}],
    "model": {
        **{"mean": None, "data_std": 0.0, "see": 1},
        "net": {"depth": 1, "heads": 2, "window": 2},
    },
    "length": 2,
    "batch_size": 8,
    "val_clips": 4,
    "optim": {"schedule": "constant", "warmup": 2, "ema": 0.9},
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump(STUDY))
    return path


def test_sizes_get_the_same_arithmetic_and_are_trained_once(
    study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = scaling(str(study), str(tmp_path / "out"))
    small, large = result["runs"]
    assert small["parameters"] < large["parameters"]
    spent = [run["steps"][-1] * run["flops_per_step"] for run in (small, large)]
    assert spent == pytest.approx([2.0e10, 2.0e10], rel=0.1)
    assert small["steps"][-1] > large["steps"][-1] >= 20
    for run in (small, large):
        assert len(run["loss"]) == len(run["steps"]) >= 20 and run["loss"][-1] < run["loss"][0]
    assert (tmp_path / "out/scaling.png").stat().st_size > 10_000

    monkeypatch.setattr("workshop_lib.scaling.train_size", None)  # nothing is left to train
    assert scaling(str(study), str(tmp_path / "out"))["runs"] == result["runs"]
    file = tmp_path / "out/results.json"
    content = json.loads(file.read_text())
    for key in ("series", "measure", "model"):  # as of before there were these keys
        del content["study"][key]
    file.write_text(json.dumps(content))
    assert scaling(str(study), str(tmp_path / "out"))["runs"] == result["runs"]
    study.write_text(yaml.safe_dump(STUDY | {"flops": 1e9}))
    with pytest.raises(WorkshopError, match="is of another study"):
        scaling(str(study), str(tmp_path / "out"))


def test_the_law_is_found_again() -> None:
    sizes = np.array([1e4, 1e5, 1e6])
    A, alpha = fit_power_law(sizes, 7.0 * sizes**-0.3)
    assert (A, alpha) == pytest.approx((7.0, 0.3))
    with pytest.raises(WorkshopError, match="two points or more"):
        fit_power_law([1e4], [0.1])


def test_sizes_beyond_the_best_are_left_out() -> None:
    runs = [SizeRun({}, n, 1.0, [1], [loss]) for n, loss in ((40, 0.6), (10, 0.9), (20, 0.5))]
    assert [run.parameters for run in falling_branch(runs)] == [10, 20]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"sizes": [{"dim": 8}]}, "two sizes or more"),
        ({"flopz": 1}, "unknown key 'flopz'"),
        ({"flops": "many"}, "many"),
        ({"series": ["v", "x"]}, "each of series by its name"),
        ({"series": {"v": "v"}}, "each of series by its name"),
    ],
)
def test_a_wrong_study_is_named(study: Path, change: dict, says: str) -> None:
    study.write_text(yaml.safe_dump(STUDY | change))
    with pytest.raises(WorkshopError, match=f"study.yaml: .*{says}"):
        read_study(study)
    with pytest.raises(WorkshopError, match="cannot be read"):
        read_study(study.with_name("none.yaml"))


def test_each_series_gets_every_size_and_its_own_law(tmp_path: Path) -> None:
    path = tmp_path / "narrow.yaml"
    path.write_text(yaml.safe_dump(NARROW))
    result = scaling(str(path), str(tmp_path / "out"))
    runs = {(run["series"], run["width"]): run for run in result["runs"]}
    assert list(runs) == [("v", 16), ("x", 16), ("v", 32), ("x", 32)]
    for width in (16, 32):  # the nested key arrived, and the recipe's others beside it stayed
        v, x = runs["v", width], runs["x", width]
        assert v["parameters"] == x["parameters"] and v["size"] == {"net": {"dim": width}}
        assert v["loss"] != x["loss"]
        assert v["floor"] > 0.4 > 0.2 > x["floor"] > 0
        assert min(v["loss"]) > v["floor"] and min(x["loss"]) > x["floor"]
    assert runs["v", 16]["parameters"] < runs["v", 32]["parameters"]


def test_each_series_has_a_law_over_its_own_falling_branch() -> None:
    points = {
        "steep": [(n, 9 * n**-0.5) for n in (1e4, 1e5, 1e6)],
        "flat": [(1e6, 1.5), (1e4, 3 * 1e4**-0.1), (1e5, 3 * 1e5**-0.1)],  # then too few steps
        "alone": [(1e4, 0.5), (1e5, 0.6)],
    }
    runs = [SizeRun({}, int(n), 1.0, [1], [L], name) for name, p in points.items() for n, L in p]
    fits = laws(runs)
    assert list(fits) == ["steep", "flat"]
    assert fits["steep"] == pytest.approx({"A": 9, "alpha": 0.5, "points": 3})
    assert fits["flat"] == pytest.approx({"A": 3, "alpha": 0.1, "points": 2})


def test_keys_inside_of_keys_change_only_what_they_name() -> None:
    recipe = {"net": {"dim": 128, "depth": 4}, "see": 2}
    assert merged(recipe, {"net": {"dim": 96}}) == {"net": {"dim": 96, "depth": 4}, "see": 2}
    assert recipe == {"net": {"dim": 128, "depth": 4}, "see": 2}
    assert merged({"a": 1}, {"a": {"b": 2}, "c": {"d": 3}}) == {"a": {"b": 2}, "c": {"d": 3}}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"measure": "psnrr"}, "measure 'psnrr': choose one of loss, psnr, "),
        ({"sizes": [{"net": {"dimm": 16}}] * 2}, "DiTConfig: unknown key 'dimm'"),
        ({"series": {"v": {"predictions": "v"}}}, "DiffusionConfig: unknown key 'predictions'"),
    ],
)
def test_wrong_keys_are_refused_before_training(change: dict, says: str) -> None:
    study = Study(**(NARROW | change))
    with pytest.raises(WorkshopError, match=says):
        train_size(study, study.sizes[0], study.data, next(iter(study.series)))


@pytest.mark.parametrize("name", ["next-frame", "diffusion"])
def test_the_shipped_study_is_what_its_file_says(name: str) -> None:
    folder = REPOSITORY / "docs" / "scaling" / name
    result = json.loads((folder / "results.json").read_text())
    plan = read_study(folder / "study.yaml")
    assert Study(**result["study"]) == plan
    assert [(run["series"], run["size"]) for run in result["runs"]] == plan.asked
    wanted = laws([SizeRun(**run) for run in result["runs"]])
    assert list(result["fits"]) == list(wanted) != []
    for series, law in wanted.items():
        assert result["fits"][series] == pytest.approx(law)


def test_in_the_shipped_study_x_goes_through_the_floor_of_v() -> None:
    folder = REPOSITORY / "docs" / "scaling" / "diffusion"
    runs = json.loads((folder / "results.json").read_text())["runs"]
    v, x = ([run for run in runs if run["series"] == name] for name in "vx")
    for says_v, says_x in zip(v, x, strict=True):
        assert says_v["width"] == says_x["width"]
        assert min(says_v["loss"]) > says_v["floor"] and min(says_x["loss"]) > says_x["floor"]
        if says_v["width"] <= 128:
            assert says_x["loss"][-1] < says_v["floor"] < says_v["loss"][-1]
    assert v[-1]["floor"] == 0.0


def test_every_full_recipe_has_its_estimate() -> None:
    told = json.loads((REPOSITORY / "docs/scaling/recipes.json").read_text())
    configs = REPOSITORY / "workshop_lib/configs"
    page = (REPOSITORY / "docs/training.md").read_text()
    full = {f"{path.parent.name}/full" for path in configs.glob("*/full.yaml")}
    assert {each["recipe"] for each in told} == full
    for each in told:
        recipe = yaml.safe_load((configs / f"{each['recipe']}.yaml").read_text())
        assert each["batch_size"] == recipe["data"]["batch_size"]
        assert each["length"] == recipe["data"]["length"]
        assert each["steps"] == recipe["trainer"]["max_steps"]
        assert f"| `{each['recipe']}` | {each['parameters'] / 1e6:.1f} M |" in page
