"""What tests have done in a child process; light to import, since every child does."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from trtgate.kinds import EngineRefused


def crash() -> None:
    os.abort()


def fail() -> None:
    raise ValueError("no kernel for this layer")


def refuse() -> None:
    raise EngineRefused("the runtime could not build it:\n  Error Code 10: no implementation for node conv1")


def hang() -> None:
    time.sleep(60)


def count(upto: int, *, progress: Callable[[int, int], None]) -> int:
    for step in range(upto):
        progress(step + 1, upto)
    return os.getpid()


def compile_for_long(started: Path) -> None:
    """Say that it has begun, with a compiler that is a process of its own, and leave files about."""
    leave_files()
    compiler = subprocess.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    started.with_name("writing").write_text(f"{os.getpid()} {compiler.pid}")
    started.with_name("writing").rename(started)
    compiler.wait()


def leave_files() -> None:
    Path(tempfile.mkdtemp(), "object.o").touch()
