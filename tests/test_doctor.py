"""`workshop doctor`: passes on a whole installation, and names the fix for a part that is gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from workshop_lib import doctor

REPOSITORY = Path(__file__).parent.parent
PARTS = (
    "Python",
    "torch",
    "simulator",
    "array-record",
    "sample data",
    "weights",
    "browser widgets",
    "memory",
    "disk",
)
# Makes packages unfindable for a Python process and those that it starts.
HIDE = """
import importlib.machinery, os
find = importlib.machinery.PathFinder.find_spec
hidden = os.environ["HIDDEN"].split(",")
def find_visible(name, path=None, target=None):
    return None if name.split(".")[0] in hidden else find(name, path, target)
importlib.machinery.PathFinder.find_spec = find_visible
"""


def run_doctor(tmp_path: Path, hidden: str = "", **shims: str) -> tuple[int, dict[str, str]]:
    """The exit status, and by part the report's lines, run in the repository.

    hidden: packages, comma-separated, that cannot be found; shims: modules put before real ones.
    """
    for name, code in {"sitecustomize": HIDE, **shims}.items():
        (tmp_path / f"{name}.py").write_text(code)
    path = os.pathsep.join([str(tmp_path), str(REPOSITORY)])
    done = subprocess.run(
        [sys.executable, "-m", "workshop_lib.cli", "doctor"],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": path, "HIDDEN": hidden},
    )
    assert "Traceback" not in done.stderr, done.stderr
    report: dict[str, str] = {}
    for line in done.stdout.splitlines():
        part = next((part for part in PARTS if line[9:].startswith(part)), None)
        if part:
            report[part] = line
        elif report and line.startswith(" "):
            report[list(report)[-1]] += "\n" + line
    return done.returncode, report


def test_everything_works_here(tmp_path: Path) -> None:
    status, report = run_doctor(tmp_path)
    assert status == 0, report
    assert tuple(report) == PARTS
    assert "plays CoinRun" in report["simulator"] or report["simulator"].startswith("note")
    for part in ("Python", "torch", "sample data", "browser widgets"):
        assert report[part].startswith("ok "), report[part]
    # The texts begin in one column.
    rests = {part: line[9 + len(part) :] for part, line in report.items()}
    assert len({len(part) + len(rest) - len(rest.lstrip()) for part, rest in rests.items()}) == 1


def test_missing_parts_are_named_with_the_fix(tmp_path: Path) -> None:
    status, report = run_doctor(tmp_path, hidden="torch,anywidget,psutil,array_record")
    assert status == 1
    for part, package in (
        ("torch", "torch"),
        ("browser widgets", "anywidget"),
        ("memory", "psutil"),
    ):
        assert report[part].startswith("problem")
        assert f"No module named '{package}'" in report[part]
        assert "pip install -r requirements.lock" in report[part]
    # Records can be read without the package.
    assert report["array-record"].startswith("note")
    assert report["sample data"].startswith("ok")


def test_no_simulator_is_no_problem(tmp_path: Path) -> None:
    status, report = run_doctor(tmp_path, hidden="procgen,envpool")
    assert status == 0, report
    assert report["simulator"].startswith("note")
    assert "recorded sample" in report["simulator"]
    assert "fix: " in report["simulator"]


def test_crashing_parts_do_not_take_the_doctor_along(tmp_path: Path) -> None:
    abort = "import os; os.abort()"
    status, report = run_doctor(
        tmp_path, procgen=abort, envpool=abort, array_record="raise OSError('libfoo is missing')"
    )
    assert status == 1
    assert tuple(report) == PARTS
    assert report["simulator"].startswith("problem")
    assert "does not start" in report["simulator"]
    assert "pip install --force-reinstall" in report["simulator"]
    assert "libfoo is missing" in report["array-record"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no package manager is known")
def test_missing_system_library_is_named(tmp_path: Path) -> None:
    missing = "raise OSError('libGL.so.1: cannot open shared object file')"
    status, report = run_doctor(tmp_path, procgen=missing, envpool=missing)
    assert status == 1
    assert "libGL.so.1" in report["simulator"]
    assert "apt install libgl1" in report["simulator"]


def test_torn_sample_data_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sample = tmp_path / "data" / "sample" / "easy"
    sample.mkdir(parents=True)
    assert doctor.check_sample_data().status == "problem"
    (sample / "manifest.json").write_text("{")
    finding = doctor.check_sample_data()
    assert finding.status == "problem"
    assert "manifest.json" in finding.text
    assert "git checkout" in finding.fix


def test_silent_program_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE_SECONDS", 0.5)
    probe = doctor.run_probe("import time; time.sleep(60)")
    assert not probe.worked
    assert "no answer" in probe.text
