"""pyproject.toml, environment.yml and requirements.lock agree; `make setup` does its work."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from workshop_lib.data import envpool_game

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

REPOSITORY = Path(__file__).parent.parent
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
ENVIRONMENT = yaml.safe_load((REPOSITORY / "environment.yml").read_text(encoding="utf-8"))
LOCK_LINES = (REPOSITORY / "requirements.lock").read_text(encoding="utf-8").splitlines()

PLATFORMS = {
    "Linux x86-64": {"sys_platform": "linux", "platform_machine": "x86_64", "os_name": "posix"},
    "Linux arm64": {"sys_platform": "linux", "platform_machine": "aarch64", "os_name": "posix"},
    "macOS arm64": {"sys_platform": "darwin", "platform_machine": "arm64", "os_name": "posix"},
    "Windows": {"sys_platform": "win32", "platform_machine": "AMD64", "os_name": "nt"},
}
PYTHONS = ("3.10", "3.11", "3.12")
# Who has a wheel of the simulator; the others have envpool (from Python 3.11 on) or none.
SIMULATORS = {
    ("Linux x86-64", "3.10"): {"procgen"},
    ("Linux x86-64", "3.11"): {"procgen-mirror"},
    ("Linux x86-64", "3.12"): {"procgen-mirror"},
    ("Windows", "3.10"): {"procgen"},
}
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows sets up by pip, without make")


def environment(platform: str, python: str) -> dict[str, str]:
    """What environment markers see there."""
    return {
        **PLATFORMS[platform],
        "python_version": python,
        "python_full_version": f"{python}.9",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "extra": "",
    }


def active(requirements: list[Requirement], platform: str, python: str) -> dict[str, Requirement]:
    """By name those whose markers hold there; none may come twice."""
    where = environment(platform, python)
    found = [r for r in requirements if r.marker is None or r.marker.evaluate(where)]
    by_name = {str(canonicalize_name(r.name)): r for r in found}
    assert len(by_name) == len(found), "a package is listed twice for one machine"
    return by_name


def direct_requirements() -> list[Requirement]:
    """What pyproject.toml asks for and the lock holds: all but the extra envpool."""
    extras = PROJECT["optional-dependencies"]
    return [Requirement(r) for r in (*PROJECT["dependencies"], *extras["h5"], *extras["test"])]


def conda_pip_lines() -> list[str]:
    sections = [item for item in ENVIRONMENT["dependencies"] if isinstance(item, dict)]
    assert [list(section) for section in sections] == [["pip"]]
    return sections[0]["pip"]


def locked() -> list[Requirement]:
    return [Requirement(line) for line in LOCK_LINES if not line.startswith("#")]


@pytest.mark.parametrize("platform", PLATFORMS)
def test_environment_yml_is_the_same_set(platform: str) -> None:
    conda = [Requirement(line) for line in conda_pip_lines() if not line.startswith("-")]
    ours, theirs = (
        {
            (name, frozenset(r.extras), r.specifier)
            for name, r in active(group, platform, "3.11").items()
        }
        for group in (direct_requirements(), conda)
    )
    assert ours == theirs


def test_environment_yml_pins_by_the_lock_and_installs_the_library() -> None:
    assert conda_pip_lines()[0] == "-c requirements.lock"
    assert conda_pip_lines()[-1] == "-e ."
    python = next(d for d in ENVIRONMENT["dependencies"] if str(d).startswith("python="))
    assert python.removeprefix("python=") in SpecifierSet(PROJECT["requires-python"])
    assert ENVIRONMENT["name"] == "world-models-workshop"


@pytest.mark.parametrize(("platform", "python"), list(product(PLATFORMS, PYTHONS)))
def test_lock_satisfies_pyproject_on_every_machine(platform: str, python: str) -> None:
    pins = active(locked(), platform, python)
    for name, requirement in active(direct_requirements(), platform, python).items():
        assert name in pins, f"{name} is missing: run make lock"
        (pin,) = pins[name].specifier
        assert pin.operator == "=="
        assert pin.version in requirement.specifier, f"{name}: run make lock"
    simulators = {name for name in pins if name in ("procgen", "procgen-mirror", "envpool")}
    assert simulators == SIMULATORS.get((platform, python), set())
    assert ("array-record" in pins) == (platform != "Windows")


def test_envpool_range_is_the_same_everywhere() -> None:
    extra = Requirement(PROJECT["optional-dependencies"]["envpool"][0])
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    in_makefile = makefile.split("ENVPOOL := ")[1].splitlines()[0]
    in_advice = envpool_game.INSTALL.split('"')[1]
    assert Requirement(in_makefile).specifier == extra.specifier
    assert Requirement(in_advice).specifier == extra.specifier
    # Only where there is no procgen, which pip cannot resolve beside it.
    for platform, python in product(PLATFORMS, PYTHONS):
        wanted = python != "3.10" and (platform, python) not in SIMULATORS
        assert bool(active([extra], platform, python)) == wanted


def test_lock_is_portable() -> None:
    names = {canonicalize_name(r.name) for r in locked()}
    assert not any(name.startswith(("nvidia-", "cuda-", "triton")) for name in names)
    assert "make lock" in LOCK_LINES[1]
    for pin in (line for line in LOCK_LINES if not line.startswith("#")):
        # No local build (2.13.0+cpu), no hash or other option, no address.
        assert not any(mark in pin for mark in ("+", "--", "://", "@")), pin
    pins = {str(canonicalize_name(r.name)): str(r.specifier) for r in locked()}
    assert pins["torch"] == "==2.13.0"
    assert pins["numpy"].startswith("==1.26.")


@pytest.mark.parametrize(
    "file",
    ["pyproject.toml", "environment.yml", "requirements.lock", "Makefile", ".ci/run", "tools"],
)
def test_no_package_host_and_no_torchvision(file: str) -> None:
    path = REPOSITORY / file
    for part in path.iterdir() if path.is_dir() else [path]:
        if part.is_file():
            text = part.read_text(encoding="utf-8").lower()
            found = [word for word in ("torchvision", "://", "index-url", "pypi") if word in text]
            assert found == [], part


# `make setup` with a stand-in for Python that notes what it is asked for instead of installing.
STAND_IN = """#!/bin/sh
case "$1 $2" in
    "-I -c") echo "fit $0" ;;
    "-m venv") mkdir -p "$3/bin" && cp "$0" "$3/bin/python"; echo made >> calls ;;
    -m*) echo "$*" >> calls; test ! -e fail ;;
    *) exec REAL "$@" ;;
esac
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder that `make` can set up within milliseconds."""
    folder = tmp_path / "a project"
    (folder / "tools").mkdir(parents=True)
    for name in ("Makefile", "requirements.lock", "pyproject.toml", "tools/find_python.sh"):
        (folder / name).write_bytes((REPOSITORY / name).read_bytes())
    stand_in = tmp_path / "stand-in"
    stand_in.write_text(STAND_IN.replace("REAL", f"'{sys.executable}'"))
    stand_in.chmod(0o755)
    return folder


def make_setup(folder: Path) -> tuple[int, list[str]]:
    """The exit status of `make setup`, and what its Python was asked to do."""
    calls = folder / "calls"
    calls.unlink(missing_ok=True)
    command = ["make", "setup", f"PYTHON={folder.parent / 'stand-in'}"]
    # Not the settings of the `make test` that runs this.
    inherited = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    done = subprocess.run(command, cwd=folder, env=inherited, capture_output=True, check=False)
    return done.returncode, calls.read_text().splitlines() if calls.exists() else []


@posix
def test_setup_installs_once(project: Path) -> None:
    status, calls = make_setup(project)
    assert status == 0
    assert calls == [
        "made",
        "-m pip install -r requirements.lock",
        "-m pip install --no-deps --no-build-isolation --editable .",
        "-m ipykernel install --sys-prefix --name python3 --display-name World models workshop",
    ]
    assert make_setup(project) == (0, [])


@posix
@pytest.mark.parametrize("file", ["requirements.lock", "pyproject.toml"])
def test_setup_follows_changes_in_place(project: Path, file: str) -> None:
    make_setup(project)
    later = (project / ".venv" / ".set-up").stat().st_mtime + 2
    os.utime(project / file, (later, later))
    status, calls = make_setup(project)
    assert status == 0
    assert calls[0] == "-m pip install -r requirements.lock"


@posix
def test_broken_off_setup_is_not_done_and_repairs_itself(project: Path) -> None:
    (project / "fail").touch()
    assert make_setup(project)[0] != 0
    (project / "fail").unlink()
    status, calls = make_setup(project)
    assert status == 0
    assert calls[0] == "made"
    assert make_setup(project) == (0, [])


@posix
def test_dead_or_moved_environment_is_made_anew(project: Path) -> None:
    make_setup(project)
    (project / ".venv" / "bin" / "python").unlink()
    assert make_setup(project)[1][0] == "made"
    moved = project.rename(project.with_name("another place"))
    assert make_setup(moved)[1][0] == "made"
    assert make_setup(moved) == (0, [])


def find_python(folder: Path, **programs: str) -> subprocess.CompletedProcess[str]:
    """tools/find_python.sh where the PATH holds only the given scripts."""
    for name, script in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
    (folder / "cat").symlink_to("/bin/cat")
    return subprocess.run(
        ["/bin/sh", str(REPOSITORY / "tools" / "find_python.sh")],
        env={"PATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )


@posix
def test_interpreter_that_does_not_run_is_passed_over(tmp_path: Path) -> None:
    shim = 'echo "pyenv: python3.11: command not found" >&2; exit 127'
    real = f"exec '{sys.executable}' \"$@\""
    done = find_python(tmp_path, **{"python3.11": shim, "python3.12": shim, "python3": real})
    assert done.returncode == 0
    found = Path(done.stdout.strip())
    assert found.exists()
    # Not the one in .venv, which may be about to be removed.
    assert not (found.parent.parent / "pyvenv.cfg").exists()


@posix
def test_no_interpreter_is_said_plainly(tmp_path: Path) -> None:
    lacking = 'echo "too Python 3.11 lacks venv (Debian, Ubuntu: apt install python3-venv)"'
    done = find_python(tmp_path, **{"python3.11": lacking, "python": "exit 1"})
    assert done.returncode != 0
    assert done.stdout == ""
    assert "needs Python 3.10, 3.11 or 3.12" in done.stderr
    assert "python3.11: Python 3.11 lacks venv" in done.stderr
    assert "python: it does not run" in done.stderr
    assert "apt install python3" in done.stderr


@posix
def test_uv_is_asked_where_it_is_installed(tmp_path: Path) -> None:
    uv = f'test "$2" = find && echo "{sys.executable}"'
    done = find_python(tmp_path, uv=uv)
    assert done.returncode == 0
    assert Path(done.stdout.strip()).exists()
