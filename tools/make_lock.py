"""Writes requirements.lock: `make lock`. Needs uv, which `pip install uv` brings."""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

LOCK = Path("requirements.lock")
HEADER = """\
# Every package of the workshop at one version, for Python 3.10 to 3.12 on Linux (x86-64, arm64),
# macOS 14 (arm64) and Windows. Written by `make lock` from pyproject.toml (extras test and h5).
# PyTorch's own CUDA packages are left out: pip fetches those that torch asks for by itself, and
# where a CPU build of the same version is at hand (torch==2.13.0 admits it) none are needed.
"""
# What only CUDA builds of torch ask for.
CUDA_PACKAGE = re.compile(r"(nvidia-|cuda-|triton\b)")
# pyproject.toml's upper bound on Python, which uv repeats on every line.
UPPER_BOUND = "python_full_version < '3.13'"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--upgrade", action="store_true", help="take the newest versions")
    arguments = parser.parse_args()
    uv = find_uv()
    if uv is None:
        print("make lock needs uv: .venv/bin/python -m pip install uv", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory() as folder:
        resolved = Path(folder) / LOCK.name
        if LOCK.exists():
            shutil.copy(LOCK, resolved)  # uv keeps to the versions that it finds there
        command = [uv, "pip", "compile", "--quiet", "--universal", "--python-version=3.10"]
        command += ["--no-annotate", "--no-header", "--extra=test", "--extra=h5"]
        command += ["--upgrade"] * arguments.upgrade
        subprocess.run([*command, f"--output-file={resolved}", "pyproject.toml"], check=True)
        lines = resolved.read_text().splitlines()
    pins = [without_upper_bound(line) for line in lines if not CUDA_PACKAGE.match(line)]
    LOCK.write_text(HEADER + "\n".join(pins) + "\n")
    print(f"{LOCK}: {len(pins)} lines")
    return 0


def find_uv() -> str | None:
    """uv beside this interpreter, else on the PATH."""
    return shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")


def without_upper_bound(line: str) -> str:
    """A pin without the condition that holds for every Python the workshop admits."""
    for found in (f" and {UPPER_BOUND}", f"{UPPER_BOUND} and ", f" ; {UPPER_BOUND}"):
        line = line.replace(found, "")
    return line


if __name__ == "__main__":
    sys.exit(main())
