"""What tests have done in a child process; light to import, since every child does."""

from __future__ import annotations

import os
import time
from collections.abc import Callable


def crash() -> None:
    os.abort()


def fail() -> None:
    raise ValueError("no kernel for this layer")


def hang() -> None:
    time.sleep(60)


def count(upto: int, *, progress: Callable[[int, int], None]) -> int:
    for step in range(upto):
        progress(step + 1, upto)
    return os.getpid()
