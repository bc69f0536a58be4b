"""What a package is that cannot be imported, told in a sentence: no verdict on any engine follows from it.

Nothing here imports any of them.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType, TracebackType

from trtgate import limits
from trtgate.kinds import EngineBroken, printable
from trtgate.limits import STATUS, STDERR, say, within
from trtgate.verdict.outcome import Verdict, broken
from trtgate.verdict.policy import EXIT_INVALID

# What the gate itself calls and an upgrade may break: the runtimes, and what else is installed with it.
RUNTIMES = (
    *("torch", "torchvision", "onnxruntime", "onnx", "openvino", "tensorrt", "pycuda", "cv2", "numpy", "scipy"),
    *("PIL", "safetensors", "onnxscript", "psutil", "pynvml", "rich", "jinja2", "filelock", "packaging", "tomli"),
)
# For all of them from a cold disk or a network file system; a warm cache takes 5 s.
IMPORT_SECONDS = 300.0
# What native code ends its process by.
CRASHES = (signal.SIGABRT, signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE)
MEND = "install it again in a version that fits this machine"


def broken_runtime(error: BaseException) -> Verdict | None:
    """The verdict on a runtime that is broken, as the error says, or that raised it while it was imported; None for any
    other error."""
    if isinstance(error, EngineBroken):
        return broken(printable(str(error)))
    name = _importing(_frames_of(error.__traceback__)) or _missing(error)
    if name is None:
        return None
    said = " ".join(f"{'' if isinstance(error, ImportError) else type(error).__name__ + ': '}{error}".split())
    return _not_imported(name, said)


def _not_imported(name: str, said: str) -> Verdict:
    return broken(printable(f"{name} cannot be imported: {said}; {MEND}"))


def _missing(error: BaseException) -> str | None:
    """The runtime that is not installed, or not whole."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return name if name in RUNTIMES else None


def _importing(frames: Iterator[FrameType]) -> str | None:
    """The outermost runtime whose module is being run, which may have failed in the import of another; the outermost
    frame comes first."""
    for frame in frames:
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if name in RUNTIMES and frame.f_code.co_name == "<module>":
            return name
    return None


def _frames_of(trace: TracebackType | None) -> Iterator[FrameType]:
    while trace is not None:
        yield trace.tb_frame
        trace = trace.tb_next


def _running() -> Iterator[FrameType]:
    """What the main thread is at."""
    frame, frames = sys._current_frames().get(threading.main_thread().ident or 0), []
    while frame is not None:
        frames.append(frame)
        frame = frame.f_back
    yield from reversed(frames)


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around imports at the start of a program: what a runtime raises there ends it in one sentence with the status of
    what is INVALID, and so does what crashes or hangs."""
    late = time.monotonic() + IMPORT_SECONDS
    try:
        with _crashes_told(), _ended_at_last(), within(IMPORT_SECONDS, _under_way, EXIT_INVALID):
            yield
    except KeyboardInterrupt:  # by whoever watches what hangs, who has said so, or from the terminal
        raise SystemExit(EXIT_INVALID if time.monotonic() >= late else STATUS) from None
    except BaseException as error:
        if (verdict := broken_runtime(error)) is None:
            raise
        print(f"trtgate: {verdict}", file=sys.stderr)
        raise SystemExit(EXIT_INVALID) from None


@contextlib.contextmanager
def _ended_at_last() -> Iterator[None]:
    """Have a process end that hangs in native code with Python's lock held, where no thread of Python's can end it: C's
    own watchdog says where, and an alarm ends it (142 for the shell). A crash in a thread that an import waits for is
    such a hang, since what tells of crashes waits for the lock."""
    seconds = math.ceil(IMPORT_SECONDS + limits.GRACE_SECONDS + 1)
    faulthandler.dump_traceback_later(seconds - 0.5, file=STDERR)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        faulthandler.cancel_dump_traceback_later()


def _under_way() -> str:
    return f"importing {_importing(_running()) or 'the runtimes'}"


@contextlib.contextmanager
def _crashes_told() -> Iterator[None]:
    """Have a process that native code brings down while a runtime is imported say which, and end as what is INVALID.

    The handlers are C's: Python's own run between two of its instructions, and there is no next one here. A child that
    imported everything first would know more, and double the time of every start.
    """
    libc = ctypes.CDLL(None)
    libc.signal.restype, libc.signal.argtypes = ctypes.c_void_p, (ctypes.c_int, ctypes.c_void_p)

    def crashed(number: int) -> None:
        name = _importing(_running())
        if name is None:
            libc.signal(number, None)
            os.kill(os.getpid(), number)
            return
        say(f"trtgate: {_not_imported(name, f'it crashed this process ({signal.Signals(number).name})')}\n")
        os._exit(EXIT_INVALID)

    handler = ctypes.CFUNCTYPE(None, ctypes.c_int)(crashed)
    before = {number: libc.signal(number, ctypes.cast(handler, ctypes.c_void_p)) for number in CRASHES}
    try:
        yield
    finally:
        for number, theirs in before.items():
            libc.signal(number, theirs)
