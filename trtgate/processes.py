"""Processes: how they end, that they end with their parent, and the signals that end them in order."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

PR_SET_PDEATHSIG = 1
# What ends a process in an orderly way, as Ctrl-C does: of a supervisor that stops a job, of a terminal that is gone.
ENDING_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# Within this many seconds of one signal another cuts nothing short: Ctrl-C pressed again, or handed on by a parent that
# the terminal sent it to as well.
MOMENT = 3.0

# What a shell adds to the number of the signal that ended a command, for its status.
SIGNALLED = 128
# Of what a command said, in a sentence of ours.
LONGEST_WORDS = 300

# How long a command gets to end in order before it is killed.
UNWINDING_SECONDS = 20.0
# Threads that are not asleep after this are spinning for good; the driver will see that, and object.
REST_SECONDS = 1.0
LOOK_SECONDS = 0.005
# Of a core.
ASLEEP = 0.1


def ending(status: int | None) -> str:
    """How a process ended, in words, by its return code."""
    if status is None or status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:  # a real-time signal
        return f"signal {-status}"


def last_words(text: str) -> str:
    """Of what a command said the first error in it, or its last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition(":")[2].strip() for line in lines if line.lower().startswith("error:")]
    return (errors or lines[-1:] or ["it said nothing"])[0][:LONGEST_WORDS]


def die_with_parent(number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process a signal when its parent ends, however that happens (Linux)."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, number)


def end_group(process: subprocess.Popen[Any]) -> None:
    """End a process that leads a group, and its group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def run_command(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a command to its end, and return its exit status; an interrupt is handed on to it and waited for."""
    with signals_wait() as let_through, subprocess.Popen(command, env=environment) as process:
        try:
            let_through()
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(UNWINDING_SECONDS)
            raise
        finally:
            process.kill()


class Terminated(KeyboardInterrupt):
    """A signal of ENDING_SIGNALS came; it unwinds as Ctrl-C does."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number


@contextlib.contextmanager
def orderly_endings() -> Iterator[None]:
    """Within this block ENDING_SIGNALS raise Terminated in the main thread, once, and Ctrl-C KeyboardInterrupt; neither
    does within a MOMENT of the other or itself. What was to be ignored still is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    last = -math.inf  # when one came that was heeded

    def end(number: int, frame: FrameType | None) -> None:
        nonlocal last
        __tracebackhide__ = True  # pytest tells where it came
        if time.monotonic() - last < MOMENT:
            return
        last = time.monotonic()
        if number == signal.SIGINT:
            raise KeyboardInterrupt
        for each in ENDING_SIGNALS:  # a second one does not cut the unwinding short
            signal.signal(each, signal.SIG_IGN)
        raise Terminated(number)

    before = {each: signal.getsignal(each) for each in (*ENDING_SIGNALS, signal.SIGINT)}
    for each, handler in before.items():
        if handler is signal.SIG_DFL or (each == signal.SIGINT and callable(handler)):
            signal.signal(each, end)
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


@contextlib.contextmanager
def signals_wait() -> Iterator[Callable[[], None]]:
    """Signals that raise in the main thread wait until what is given here is called, or this block ends.

    For the start of a process: one whose start was interrupted would be nobody's to end, and go on. On a busy machine a
    program may have begun its work before the call that starts it returns.
    """
    if threading.current_thread() is not threading.main_thread():
        yield lambda: None
        return
    came: list[int] = []
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, *ENDING_SIGNALS)}
    held = {each: handler for each, handler in before.items() if callable(handler)}

    def let_through() -> None:
        for each, handler in held.items():
            signal.signal(each, handler)
        held.clear()
        if came:
            number = came[0]
            came.clear()
            signal.raise_signal(number)

    try:
        for each in held:  # a handler of Python's is nothing that a process inherits, as a blocked signal would be
            signal.signal(each, lambda number, frame: came.append(number))
        yield let_through
    finally:
        let_through()


def come_to_rest() -> None:
    """Wait until the threads of this process sleep: pools spin for tens of milliseconds after their last work."""
    deadline = time.monotonic() + REST_SECONDS
    while time.monotonic() < deadline:
        before = time.process_time()
        time.sleep(LOOK_SECONDS)
        if time.process_time() - before < ASLEEP * LOOK_SECONDS:
            return


@contextlib.contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Python's cyclic collector off: it would run in the middle of somebody's iteration."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
