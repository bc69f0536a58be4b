"""Limits on what may hang in this very process: loading a plan, and running it.

Native code that hangs hears no signal, so a thread watches. What took too long is said with where every thread is; then
the main thread is interrupted as by Ctrl-C, and if it does not come back the process ends.
"""

from __future__ import annotations

import _thread
import contextlib
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

# The longest plan to load is one of TensorRT with its libraries on a cold disk.
LOAD_SECONDS = 300.0
# The longest build, or two of them: another process may be building what this one wants too.
BUILD_SECONDS = 3600.0
# A block of a race takes seconds; five iterations of a large batch on a slow machine may take minutes.
RUN_SECONDS = 600.0
# How long the main thread gets to come back from an interrupt.
GRACE_SECONDS = 10.0
# pytest's status for an interrupted run, a command's for an error: no verdict.
STATUS = 2


def _standard_error() -> int:
    """Standard error as it was before anybody captured it; nothing where it is closed (`2>&-`), so that no file that is
    opened later has its number and is written to."""
    try:
        return os.dup(2)
    except OSError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.set_inheritable(2, True)  # it may have been opened as 2, and children must not lack theirs
        if sys.stderr is None:  # pytest needs one
            sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        return os.dup(2)


STDERR = _standard_error()

# What is under way, in words, or who tells it once it is too late.
What = str | Callable[[], str]


class Watch:
    """What is under way with the time by which it must be over, and one thread that sleeps until the first of these."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: list[tuple[float, What, int]] = []
        self._wakes = float("inf")
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def within(self, seconds: float, what: What, status: int = STATUS) -> Iterator[None]:
        """Have what happens in the block over within `seconds`, or the process end with `status`. The thread wakes once
        in it, not for each block."""
        deadline = (time.monotonic() + seconds, what, status)
        with self._changed:
            self._deadlines.append(deadline)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="trtgate: limits", daemon=True)
                self._thread.start()
            elif deadline[0] < self._wakes:
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._deadlines.remove(deadline)

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                late = [(what, status) for by, what, status in self._deadlines if by <= now]
                if late:
                    break
                self._wakes = min((by for by, _, _ in self._deadlines), default=float("inf"))
                self._changed.wait(None if self._wakes == float("inf") else self._wakes - now)
        self._expire(*late[-1])

    def _expire(self, what: What, status: int) -> None:
        told = what if isinstance(what, str) else what()
        say(f"\ntrtgate: {told} hangs; this is where, and the run ends without a verdict\n")
        faulthandler.dump_traceback(STDERR, all_threads=True)
        _thread.interrupt_main()
        time.sleep(GRACE_SECONDS)
        with self._changed:
            stuck = any(name == what for _, name, _ in self._deadlines)
        if stuck:
            os._exit(status)


def say(text: str) -> None:
    """Write to standard error, past whoever captures it."""
    os.write(STDERR, text.encode())


within = Watch().within
