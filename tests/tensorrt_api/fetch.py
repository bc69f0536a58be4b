"""TensorRT's bindings of several versions, from the package index, each into a folder of its own."""

from __future__ import annotations

import functools
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from .dump import read_api

# One of each line that the code has a path for; none of these brings TensorRT itself.
BINDINGS = (
    "tensorrt-bindings==8.6.1",
    "tensorrt-cu12-bindings==10.0.1",
    "tensorrt-cu12-bindings==10.13.0.35",
    "tensorrt-cu13-bindings==11.4.0.106",
    "tensorrt-rtx-cu13-bindings==1.7.1.116",
)
# Installed whole: its builder runs without a GPU.
RTX = ("tensorrt-rtx-cu13-bindings==1.7.1.116", "tensorrt-rtx-cu13-libs==1.7.1.116")
# A real runtime that anyone can import, without a builder: it loads plans, or says why it does not.
LEAN = ("tensorrt-lean-cu13-bindings==11.4.0.106", "tensorrt-lean-cu13-libs==11.4.0.106")
CACHE = Path(__file__).resolve().parents[2] / ".trtgate" / "bindings"


def install(*packages: str) -> Path:
    """The folder that holds the packages; from the index when they are first asked for.

    Skips the test where there is no build of them for this Python, fails it where the index cannot be reached.
    """
    folder = CACHE / f"{'+'.join(packages)}-py{sys.version_info.major}{sys.version_info.minor}"
    CACHE.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / "done").exists():
            return folder
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder), "--upgrade"]
        run = subprocess.run([*command, *packages], capture_output=True, text=True, check=False)
        if run.returncode != 0 and "No matching distribution" in run.stderr and "from versions: none" not in run.stderr:
            pytest.skip(f"there is no {' '.join(packages)} for Python {sys.version.split()[0]} on this machine")
        assert run.returncode == 0, f"pip could not install {' '.join(packages)}:\n{run.stderr[-2000:]}"
        (folder / "done").touch()
    return folder


@functools.cache
def api(package: str) -> dict[str, Any]:
    """The API of one of BINDINGS, as `dump.py` describes it."""
    [library] = install(package).glob("tensorrt*bindings/tensorrt*.so")
    return read_api(library)
