"""`workshop scaling`: equal arithmetic for each size, a law through the results, nothing twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import yaml

from tests.conftest import REPOSITORY, SAMPLE
from workshop_lib.errors import WorkshopError
from workshop_lib.scaling import SizeRun, falling_branch, fit_power_law, read_study, scaling

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
    ],
)
def test_a_wrong_study_is_named(study: Path, change: dict, says: str) -> None:
    study.write_text(yaml.safe_dump(STUDY | change))
    with pytest.raises(WorkshopError, match=f"study.yaml: .*{says}"):
        read_study(study)
    with pytest.raises(WorkshopError, match="cannot be read"):
        read_study(study.with_name("none.yaml"))


def test_the_shipped_study_is_what_its_file_says() -> None:
    folder = REPOSITORY / "docs" / "scaling"
    import json

    result = json.loads((folder / "results.json").read_text())
    plan = read_study(folder / "next-frame.yaml")
    assert result["study"]["flops"] == plan.flops and result["study"]["recipe"] == plan.recipe
    assert [run["size"] for run in result["runs"]] == plan.sizes
    branch = falling_branch([SizeRun(**run) for run in result["runs"]])
    law = fit_power_law([run.parameters for run in branch], [run.loss[-1] for run in branch])
    assert (result["fit"]["A"], result["fit"]["alpha"]) == pytest.approx(law)
