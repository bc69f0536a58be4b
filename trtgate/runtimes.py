"""What a runtime is that cannot be imported, told in a sentence: no verdict on any engine follows from it."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from types import TracebackType

from trtgate.kinds import EngineBroken, printable
from trtgate.limits import STATUS, within
from trtgate.verdict.outcome import Verdict, broken
from trtgate.verdict.policy import EXIT_INVALID

# What the gate itself calls and an upgrade may break.
RUNTIMES = ("torch", "torchvision", "onnxruntime", "onnx", "openvino", "tensorrt", "pycuda", "cv2")
# For all of them from a cold disk or a network file system; a warm cache takes 5 s.
IMPORT_SECONDS = 300.0


def broken_runtime(error: BaseException) -> Verdict | None:
    """The verdict on a runtime that is broken, as the error says, or that raised it while it was imported; None for any
    other error."""
    if isinstance(error, EngineBroken):
        return broken(printable(str(error)))
    name = _missing(error) or _importing(error.__traceback__)
    if name is None:
        return None
    said = " ".join(f"{'' if isinstance(error, ImportError) else type(error).__name__ + ': '}{error}".split())
    message = f"{name} cannot be imported: {said}; install it again in a version that fits this machine"
    return broken(printable(message))


def _missing(error: BaseException) -> str | None:
    """The runtime that is not installed, or not whole."""
    name = (error.name or "").partition(".")[0] if isinstance(error, ModuleNotFoundError) else ""
    return name if name in RUNTIMES else None


def _importing(trace: TracebackType | None) -> str | None:
    """The outermost runtime whose module was being run, which may have failed in the import of another."""
    while trace is not None:
        frame = trace.tb_frame
        name = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if name in RUNTIMES and frame.f_code.co_name == "<module>":
            return name
        trace = trace.tb_next
    return None


@contextlib.contextmanager
def importing() -> Iterator[None]:
    """Around imports at the start of a program: what a runtime raises there ends it in one sentence with the status of
    what is INVALID, and what hangs is ended as whatever hangs."""
    try:
        with within(IMPORT_SECONDS, "importing the runtimes"):
            yield
    except Exception as error:
        if (verdict := broken_runtime(error)) is None:
            raise
        print(f"trtgate: {verdict}", file=sys.stderr)
        raise SystemExit(EXIT_INVALID) from None
    except KeyboardInterrupt:  # by whoever watches what hangs, who has said so, or from the terminal
        raise SystemExit(STATUS) from None
