"""What of the workshop works on this machine, and the fix for what does not: `workshop doctor`.

Whatever loads foreign machine code is tried in a process of its own: a broken build may end the
process that imports it, and the doctor must live to tell.
"""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Literal, NamedTuple

REPOSITORY = Path(__file__).parent.parent
PYTHON = f'"{sys.executable}"' if " " in sys.executable else sys.executable
INSTALL = f"{PYTHON} -m pip install -r requirements.lock   (or: make setup)"
PROBE_SECONDS = 120
GB = 1024**3


class Finding(NamedTuple):
    """One line of the report.

    status: "note" says what is missing though the workshop goes on without it; "problem" is what
        it cannot do without.
    text: what was found.
    fix: what to do about it; "" where nothing needs doing.
    """

    status: Literal["ok", "note", "problem"]
    text: str
    fix: str = ""


class Probe(NamedTuple):
    """How a trial in a process of its own ended: worked or not, and its last printed line."""

    worked: bool
    text: str


def doctor() -> int:
    """Says what of the workshop works on this machine, and the fix for what does not.

    Returns 1 if there is a problem, that is, something that the workshop cannot do without.
    """
    checks: tuple[tuple[str, Callable[[], Finding]], ...] = (
        ("Python", check_python),
        ("torch", check_torch),
        ("simulator", check_simulator),
        ("array-record", check_array_record),
        ("sample data", check_sample_data),
        ("weights", check_weights),
        ("browser widgets", check_widgets),
        ("memory", check_memory),
        ("disk", check_disk),
    )
    width = max(len(part) for part, _ in checks)
    problems = 0
    for part, check in checks:
        try:
            finding = check()
        except Exception as error:  # one broken part must not hide the others
            finding = Finding("problem", f"{type(error).__name__}: {error}", INSTALL)
        problems += finding.status == "problem"
        print(f"{finding.status:<7}  {part:<{width}}  {finding.text}", flush=True)
        if finding.fix:
            print(f"{'':<7}  {'':<{width}}  fix: {finding.fix}", flush=True)
    print(f"{problems} to fix." if problems else "Ready.")
    return int(problems > 0)


def check_python() -> Finding:
    """Python 3.10 to 3.12, 64 bit."""
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    if (3, 10) <= sys.version_info[:2] <= (3, 12) and sys.maxsize > 2**32:
        return Finding("ok", text)
    return Finding("problem", text, "install Python 3.10, 3.11 or 3.12 (64 bit), then: make setup")


def check_torch() -> Finding:
    """Torch imports and computes on the device that the workshop would choose."""
    probe = run_probe(
        "import torch\n"
        "if torch.cuda.is_available():\n"
        "    device, name = 'cuda', torch.cuda.get_device_name()\n"
        "elif torch.backends.mps.is_available():\n"
        "    device, name = 'mps', 'Apple GPU'\n"
        "else:\n"
        "    device, name = 'cpu', f'{torch.get_num_threads()} threads'\n"
        "assert torch.ones(8, 8, device=device).sum().item() == 64\n"
        "print(f'{torch.__version__} on {device} ({name})')"
    )
    if not probe.worked:
        runtime = "; Windows also needs Microsoft's Visual C++ runtime"
        return Finding("problem", probe.text, INSTALL + runtime * (sys.platform == "win32"))
    if " on cpu " in probe.text and shutil.which("nvidia-smi"):
        return Finding(
            "note",
            f"{probe.text}: there is an NVIDIA driver, but this torch does not use it",
            "to use the GPU, install PyTorch's CUDA build of the same version",
        )
    return Finding("ok", probe.text)


def check_simulator() -> Finding:
    """Every simulator that is installed really starts a game and takes one step."""
    from workshop_lib.data.game import available_backends

    probes = {name: _probe_game(name) for name in available_backends()}
    if not probes:
        return Finding(
            "note",
            "none installed: the notebooks use the recorded sample, without live play",
            _simulator_advice(),
        )
    text = "; ".join(
        f"{probe.text} plays CoinRun" if probe.worked else f"{name} does not start: {probe.text}"
        for name, probe in probes.items()
    )
    broken = [name for name, probe in probes.items() if not probe.worked]
    if not broken:
        return Finding("ok", text)
    fix = f"{PYTHON} -m pip install --force-reinstall --no-deps {_package(broken[0])}"
    if sys.platform == "linux" and ".so" in probes[broken[0]].text:
        # procgen brings its Qt, which wants the system's GL and glib; envpool wants a whole Qt 5.
        libraries = "libqt5gui5" if broken[0] == "envpool" else "libgl1 libglib2.0-0"
        fix = f"sudo apt install {libraries}   (Debian, Ubuntu; elsewhere: those libraries)"
    # The first is the one that is used.
    return Finding("problem" if next(iter(probes)) in broken else "note", text, fix)


def _probe_game(backend: str) -> Probe:
    return run_probe(
        "import numpy\n"
        "from workshop_lib.data.game import Game, GameConfig\n"
        f"with Game(GameConfig(), count=2, backend={backend!r}) as game:\n"
        "    game.act(numpy.array([7, 8]))\n"
        "    assert game.observe().frames.shape == (2, 64, 64, 3)\n"
        f"print({f'{_package(backend)} {_version(_package(backend))}'!r})"
    )


def _package(backend: str) -> str:
    """The pip package that a simulator came with; procgen has two."""
    if backend == "procgen" and _version("procgen-mirror") != "(version unknown)":
        return "procgen-mirror"
    return backend


def _simulator_advice() -> str:
    intel = platform.machine() in ("x86_64", "AMD64")
    old = sys.version_info < (3, 11)
    if intel and (sys.platform == "linux" or old):
        return INSTALL
    if old:
        return "none for Python 3.10 on this machine: use Python 3.11 or 3.12"
    from workshop_lib.data.envpool_game import INSTALL as ENVPOOL

    return f"{PYTHON} -m {ENVPOOL}   (0.7 GB; or: make envpool)"


def check_array_record() -> Finding:
    """The array-record package writes a record and reads it back."""
    probe = run_probe(
        "import os, tempfile\n"
        "from array_record.python import array_record_module as module\n"
        "folder = tempfile.TemporaryDirectory()\n"
        "path = os.path.join(folder.name, 'trial.array_record')\n"
        "writer = module.ArrayRecordWriter(path, 'group_size:1,zstd:3')\n"
        "writer.write(b'record')\n"
        "writer.close()\n"
        "reader = module.ArrayRecordReader(path, 'readahead_buffer_size:0,max_parallelism:0')\n"
        "assert reader.read([0]) == [b'record']\n"
        "reader.close()"
    )
    if probe.worked:
        return Finding("ok", _version("array-record"))
    instead = "records are read by the slower plain reader, and written as .npz"
    if sys.platform == "win32":
        return Finding("note", f"not made for Windows: {instead}")
    return Finding("note", f"{probe.text}: {instead}", INSTALL)


def check_sample_data() -> Finding:
    """data/sample is whole: every file that its manifests name is there, with the right size."""
    from workshop_lib.data.splits import MANIFEST, load_manifest
    from workshop_lib.errors import WorkshopError

    place = _data_folder("sample")
    restore = "run this in the workshop's folder; there, git checkout -- data/sample restores it"
    manifests = sorted({*place.glob(MANIFEST), *place.glob(f"*/{MANIFEST}")})
    if not manifests:
        return Finding("problem", f"no {MANIFEST} in {place}", restore)
    counts = []
    for path in manifests:
        try:
            splits = load_manifest(path.parent)["splits"]
        except WorkshopError as error:
            return Finding("problem", str(error), restore)
        episodes = " + ".join(str(part["episodes"]) for part in splits.values())
        frames = sum(part["frames"] for part in splits.values())
        counts.append(f"{path.parent.name} {episodes} episodes ({frames:,} frames)")
    return Finding("ok", f"{'; '.join(counts)}, train + val + test")


def check_weights() -> Finding:
    """Trained weights in data/pretrained, if any."""
    place = _data_folder("pretrained")
    files = sorted(place.glob("**/*.safetensors"))
    if not files:
        return Finding("note", f"none in {place}: the notebooks train small models live")
    size = sum(path.stat().st_size for path in files) / 1e6
    return Finding("ok", f"{len(files)} files, {size:.0f} MB")


def check_widgets() -> Finding:
    """JupyterLab and the widget packages import, and their browser halves lie where it looks."""
    probe = run_probe(
        "import anywidget, ipywidgets, jupyterlab\n"
        "from pathlib import Path\n"
        "from jupyter_core.paths import jupyter_path\n"
        "for extension in ('@jupyter-widgets/jupyterlab-manager', 'anywidget'):\n"
        "    if not any(Path(p, extension).is_dir() for p in jupyter_path('labextensions')):\n"
        "        raise SystemExit(f'JupyterLab does not find the extension {extension}')\n"
        "print(f'jupyterlab {jupyterlab.__version__}, ipywidgets {ipywidgets.__version__}, '\n"
        "      f'anywidget {anywidget.__version__}')"
    )
    return Finding("ok", probe.text) if probe.worked else Finding("problem", probe.text, INSTALL)


def check_memory() -> Finding:
    """Free memory, in GB."""
    import psutil

    free = psutil.virtual_memory().available / GB
    text = f"{free:.1f} GB free"
    if free >= 4:
        return Finding("ok", text)
    return Finding("note" if free >= 1.5 else "problem", text, "close other programs (4 GB do)")


def check_disk() -> Finding:
    """Free space where the workshop's folder lies, in GB."""
    free = shutil.disk_usage(Path.cwd()).free / GB
    text = f"{free:.1f} GB free in {Path.cwd()}"
    if free >= 3:
        return Finding("ok", text)
    return Finding("note" if free >= 0.5 else "problem", text, "make room (3 GB do)")


def run_probe(code: str) -> Probe:
    """Runs Python code in a new process; never raises, whatever the code does to its process.

    The text is the last line printed: to stdout if it worked, else the error.
    """
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PROBE_SECONDS,
        )
    except subprocess.TimeoutExpired:
        return Probe(False, f"no answer within {PROBE_SECONDS} s")
    lines = (done.stderr if done.returncode else done.stdout).strip().splitlines()
    if done.returncode < 0:
        return Probe(False, f"crashed (signal {-done.returncode})")
    return Probe(done.returncode == 0, lines[-1] if lines else f"exit status {done.returncode}")


def _data_folder(name: str) -> Path:
    """data/NAME where the command is run, else in the repository that holds this library."""
    here = Path.cwd() / "data" / name
    return here if here.is_dir() else REPOSITORY / "data" / name


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "(version unknown)"
