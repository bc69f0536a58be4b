"""Whether a runtime can be imported at all, found out in a child process that an import may bring down or hang.

After an upgrade a library that is missing, or that was built for another driver, may end its process while it is
imported. One child imports every runtime that was asked for, beside what this process does meanwhile; only what brought
it down costs another child for the rest.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.util
import json
import os
import select
import subprocess
import sys
import time
from collections.abc import Iterable

from trtgate.files import lasting_scratch
from trtgate.kinds import EngineBroken
from trtgate.processes import ending

# For one runtime on a cold disk or a network file system; from a warm cache TensorRT takes 2 s, the others less than 1.
IMPORT_SECONDS = 60.0
# For a process that has closed its pipe: it is about to be gone.
GONE_SECONDS = 5.0

# What a runtime prints goes nowhere, and what it raises is raised again in the process that wants it, which tells it.
SCRIPT = """
import ctypes, importlib, json, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
told, path, modules = json.loads(sys.argv[1])
sys.path[:] = path
for module in modules:
    try:
        importlib.import_module(module)
    except BaseException:
        pass
    os.write(told, (module + "\\n").encode())
os._exit(0)
"""


class Probe:
    """Children that import runtimes, and what became of them: each module is tried once."""

    def __init__(self) -> None:
        self._problems: dict[str, str] = {}  # of each module that was tried; "" if there is none
        self._wanted: list[str] = []
        self._trying: list[str] = []  # those of the child that is under way
        self._child: subprocess.Popen[bytes] | None = None
        self._reading = -1
        self._deadline = 0.0
        atexit.register(self._end)

    def start(self, modules: Iterable[str]) -> None:
        """Begin to try those modules that are installed, are not imported yet and were not tried before."""
        known = {*sys.modules, *self._problems, *self._wanted}
        self._wanted += [module for module in dict.fromkeys(modules) if module not in known and _is_installed(module)]
        if self._wanted and self._child is None:
            give_home()
            self._spawn()

    def problem(self, module: str) -> str:
        """How importing it ended its process, or "" if it did not; waits until that is known."""
        self.start([module])
        while module in self._wanted:
            if self._child is None:
                self._spawn()
            self._listen()
        return self._problems.get(module, "")

    def _spawn(self) -> None:
        self._trying = list(self._wanted)
        self._reading, writing = os.pipe()
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-c", SCRIPT, json.dumps([writing, sys.path, self._trying])],
                pass_fds=(writing,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        finally:
            os.close(writing)
        self._deadline = time.monotonic() + IMPORT_SECONDS

    def _listen(self) -> None:
        """Take what the child says next; if it ends or says nothing any more, the module that it is at is why."""
        assert self._child is not None
        left = max(0.0, self._deadline - time.monotonic())
        answers = bool(select.select([self._reading], [], [], left)[0])
        told = os.read(self._reading, 1 << 16).decode().split() if answers else []
        for module in told:
            self._settle(module, "")
        self._deadline = time.monotonic() + IMPORT_SECONDS
        if told:
            if not self._trying:
                self._end(GONE_SECONDS)  # it has said all that it was asked
            return
        status = self._end(GONE_SECONDS if answers else 0.0)
        if self._trying and answers:
            self._settle(self._trying[0], f"importing it crashed its process ({ending(status)})")
        elif self._trying:
            self._settle(self._trying[0], f"importing it took longer than {IMPORT_SECONDS:g} s")

    def _settle(self, module: str, problem: str) -> None:
        self._problems[module] = problem
        self._wanted.remove(module)
        self._trying.remove(module)

    def _end(self, patience: float = 0.0) -> int | None:
        """The return code of the child, which is killed if it does not end by itself."""
        if self._child is None:
            return None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(patience)
        self._child.kill()
        status = self._child.wait()
        os.close(self._reading)
        self._child = None
        return status


def give_home() -> None:
    """A home for runtimes that look for one as they are imported and fail without: private, and gone with this process.

    In a container that runs under a number there is neither HOME nor a passwd entry.
    """
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(lasting_scratch())


def _is_installed(module: str) -> bool:
    with contextlib.suppress(ImportError, ValueError):
        return importlib.util.find_spec(module.partition(".")[0]) is not None
    return False


PROBE = Probe()


def require_sound(module: str) -> None:
    """To be called before an import in the middle of a run. Raises EngineBroken for what would crash or hang in it."""
    if module not in sys.modules and (problem := PROBE.problem(module)):
        raise EngineBroken(f"{module} is broken: {problem}")
