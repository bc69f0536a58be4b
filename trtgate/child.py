"""Work that may bring its process down is tried in a process of its own first."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from trtgate.files import scratch_folder
from trtgate.kinds import EngineBroken, EngineRefused
from trtgate.processes import die_with_parent, end_group, ending, signals_wait

# The longest that a compilation may take; max-autotune of a large model takes minutes.
TIMEOUT_SECONDS = 1800.0
# How long a process gets to leave after it has said what it had to.
LEAVING_SECONDS = 1.0
# Not multiprocessing's own start, which first imports whatever program this process runs.
SCRIPT = """
import sys
sys.path[:] = {path!r}
from trtgate.child import work
work({descriptor})
"""


class WorkFailed(RuntimeError):
    """What the function raised in its own process; the message ends in the traceback of there."""

    @property
    def said(self) -> str:
        """The last line, which names the error and what it says."""
        return str(self).strip().splitlines()[-1]


def run_in_child(
    what: str,
    function: Callable[..., Any],
    *arguments: Any,
    progress: Callable[[int, int], None] | None = None,
    timeout: float = TIMEOUT_SECONDS,
) -> Any:
    """`function(*arguments)` in a fresh process, which is gone when this returns; all of them must be picklable.

    With `progress` the function gets a keyword argument of that name whose calls arrive here. Raises EngineBroken
    when the process crashes or says nothing for `timeout` seconds, EngineRefused when the function raises that, and
    WorkFailed with the child's traceback when it raises anything else.
    """
    ours, theirs = multiprocessing.Pipe()
    # Whatever a compiler leaves in the temporary directory goes with the process, killed or not.
    with scratch_folder() as scratch, ours, signals_wait() as let_through:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", SCRIPT.format(path=sys.path, descriptor=theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, "TMPDIR": str(scratch)},
                start_new_session=True,  # the compilers that it starts end with it
            )
        try:
            let_through()
            with contextlib.suppress(BrokenPipeError):  # it crashed at its start; that is told below
                ours.send_bytes(pickle.dumps((function, arguments, progress is not None)))
            return _listen(what, ours, progress, timeout)
        except (EOFError, ConnectionResetError):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LEAVING_SECONDS)
            how = ending(process.poll()) if process.poll() is not None else "it closed its pipe"
            raise EngineBroken(f"{what} crashed its own process ({how})") from None
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(LEAVING_SECONDS if sys.exc_info()[0] is None else 0.0)
            end_group(process)


def _listen(what: str, pipe: Connection, progress: Callable[[int, int], None] | None, timeout: float) -> Any:
    """What the process says last."""
    while True:
        if not pipe.poll(timeout):
            raise EngineBroken(f"{what} took longer than {timeout:.0f} s in its own process, which was stopped")
        kind, value = pipe.recv()
        if kind == "progress" and progress is not None:
            progress(*value)
        elif kind == "failed":
            raise WorkFailed(f"{what} failed:\n{value}")
        elif kind == "refused":
            raise EngineRefused(value)
        else:
            return value


def work(descriptor: int) -> None:
    """Do what the parent asks for: the whole of the child's life."""
    die_with_parent()
    pipe = Connection(descriptor)

    def show(done: int, total: int) -> None:
        pipe.send(("progress", (done, total)))

    try:
        function, arguments, with_progress = pipe.recv()
        result = ("done", function(*arguments, **({"progress": show} if with_progress else {})))
    except EngineRefused as error:
        result = ("refused", str(error))
    except Exception:  # whatever it is, the parent is told
        result = ("failed", traceback.format_exc())
    pipe.send(result)
    pipe.close()
