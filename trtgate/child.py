"""Work that may bring its process down is tried in a process of its own first."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from trtgate.engines.base import EngineUnavailable
from trtgate.processes import die_with_parent, ending

# The longest that a compilation may take; max-autotune of a large model takes minutes.
TIMEOUT_SECONDS = 1800.0


def run_in_child(
    what: str,
    function: Callable[..., Any],
    *arguments: Any,
    progress: Callable[[int, int], None] | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Any:
    """`function(*arguments)` in a fresh process, which is gone when this returns; all of them must be picklable.

    With `progress` the function gets a keyword argument of that name whose calls arrive here. Raises EngineUnavailable
    when the process crashes or says nothing for `timeout` seconds, and RuntimeError with the child's traceback when the
    function raises.
    """
    context = multiprocessing.get_context("spawn")
    # Whatever a compiler leaves in the temporary directory goes with the process, killed or not.
    with tempfile.TemporaryDirectory(prefix="trtgate-child-", ignore_cleanup_errors=True) as scratch:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(
            target=_report, args=(theirs, scratch, function, arguments, progress is not None), name=f"trtgate: {what}"
        )
        process.start()
        theirs.close()
        return _listen(what, process, ours, progress, timeout)


def _listen(
    what: str,
    process: BaseProcess,
    ours: Connection,
    progress: Callable[[int, int], None] | None,
    timeout: float,
) -> Any:
    """What the process says last; it is gone when this returns."""
    try:
        while True:
            if not ours.poll(timeout):
                raise EngineUnavailable(
                    f"{what} took longer than {timeout:.0f} s in its own process, which was stopped"
                )
            kind, value = ours.recv()
            if kind == "progress" and progress is not None:
                progress(*value)
            elif kind == "failed":
                raise RuntimeError(f"{what} failed:\n{value}")
            else:
                return value
    except EOFError:
        process.join()
        raise EngineUnavailable(f"{what} crashed its own process ({ending(process.exitcode)})") from None
    finally:
        ours.close()
        process.join(1.0)
        for end in (process.kill, lambda: os.killpg(process.pid or 0, signal.SIGKILL)):  # its compilers are its group
            with contextlib.suppress(ProcessLookupError):
                end()
        process.join()


def _report(
    pipe: Connection, scratch: str, function: Callable[..., Any], arguments: tuple[Any, ...], with_progress: bool
) -> None:
    die_with_parent()
    os.setpgid(0, 0)
    os.environ["TMPDIR"] = tempfile.tempdir = scratch

    def show(done: int, total: int) -> None:
        pipe.send(("progress", (done, total)))

    try:
        result = ("done", function(*arguments, **({"progress": show} if with_progress else {})))
    except Exception:  # whatever it is, the parent is told
        result = ("failed", traceback.format_exc())
    pipe.send(result)
    pipe.close()
