"""Worker processes, seen from the one that drives them: `measure.worker` behind two pipes, or behind a socket."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np

from trtgate.files import scratch_folder
from trtgate.kinds import Block, UserError
from trtgate.limits import BUILD_SECONDS
from trtgate.processes import end_group
from trtgate.protocol import VERSION, Frames, ProtocolError, require
from trtgate.shipped import import_root

SIDES = ("old", "new")
# A worker that says nothing for this long hangs, unless it said that it builds: that takes minutes in silence.
START_SECONDS = 120.0
ANSWER_SECONDS = 300.0
# How long a worker gets to leave by itself.
GOODBYE_SECONDS = 5.0
LOG_LINES = 15
# Where its last lines are looked for.
LOG_BYTES = 1 << 16


class WorkerError(Exception):
    """A worker died, hung, failed or does not fit; the message says which, and what it last said. No verdict."""


class RequestFailed(WorkerError):
    """A worker could not do what it was asked for, and goes on."""


class WorkerGone(WorkerError):
    """A worker of that side died, hung or does not fit."""

    def __init__(self, side: str, message: str) -> None:
        super().__init__(message)
        self.side = side


class Running(Protocol):
    """A worker's process that was started, here or in a container."""

    @property
    def process(self) -> subprocess.Popen[bytes]:
        """The process that lives as long as the worker does."""

    @property
    def pid(self) -> int:
        """The worker's own process, once it has greeted."""

    def connect(self, timeout: float) -> Frames:
        """How to talk to it. Raises ProtocolError where it does not turn up in time."""

    def hang_up(self) -> None:
        """Close the connection, which it leaves by; doing so twice does nothing."""

    def end(self) -> None:
        """End it and everything it started; nothing is done to what has ended."""


class Place(Protocol):
    """Where a side's workers run."""

    @property
    def facts(self) -> Mapping[str, Any]:
        """What belongs to the stack of what runs there, and what runs there does not see."""

    def start(self, side: str, imports: Sequence[str], folders: Sequence[Path], log: IO[bytes]) -> Running:
        """Start one that imports these modules, shares these folders with the driver and prints into `log`.

        Raises UserError where that is impossible.
        """


@dataclass(frozen=True)
class Environment:
    """This machine, by the python of an environment: the worker has two pipes."""

    python: Path

    def __str__(self) -> str:
        return str(self.python)

    @property
    def facts(self) -> Mapping[str, Any]:
        return {}

    def start(self, side: str, imports: Sequence[str], folders: Sequence[Path], log: IO[bytes]) -> Running:
        with contextlib.ExitStack() as held:
            # Whatever its libraries leave in the temporary directory goes with it, killed or not.
            scratch = held.enter_context(scratch_folder())
            from_worker, its_writing = os.pipe()
            its_reading, to_worker = os.pipe()
            command = [str(self.python), "-m", "trtgate.measure.worker", str(its_reading), str(its_writing), *imports]
            try:
                process = start_process(command, log, (its_reading, its_writing), TMPDIR=str(scratch))
            except OSError as error:
                for descriptor in (from_worker, to_worker):
                    os.close(descriptor)
                raise UserError(
                    f"--{side} {self.python} cannot be started ({error.strerror}); give the python of an environment"
                ) from error
            finally:
                os.close(its_reading)
                os.close(its_writing)
            return _Piped(process, Frames(from_worker, to_worker), held.pop_all())


def start_process(
    command: Sequence[str], log: IO[bytes], descriptors: Sequence[int] = (), **environment: str
) -> subprocess.Popen[bytes]:
    """A process that leads a group of its own, finds this code, and keeps these descriptors."""
    path = os.pathsep.join(filter(None, [str(import_root()), os.environ.get("PYTHONPATH", "")]))
    return subprocess.Popen(
        command,
        pass_fds=descriptors,
        env={**os.environ, "PYTHONPATH": path, **environment},
        stdin=subprocess.DEVNULL,
        stdout=log,  # whatever libraries print is no frame
        stderr=log,
        start_new_session=True,  # Ctrl-C is for the driver, which ends its workers in order
    )


class _Piped:
    """A worker behind pipes, which ends with what it held."""

    def __init__(self, process: subprocess.Popen[bytes], frames: Frames, held: contextlib.ExitStack) -> None:
        self.process = process
        self.pid = process.pid
        self._frames = frames
        self._held = held

    def connect(self, timeout: float) -> Frames:
        return self._frames

    def hang_up(self) -> None:
        self._frames.close()

    def end(self) -> None:
        end_group(self.process)
        self._held.close()


def as_place(place: Path | Place) -> Place:
    """A path is the python of an environment."""
    return Environment(place) if isinstance(place, Path) else place


class Worker:
    """A worker process, seen from the driver."""

    def __init__(
        self,
        side: str,
        place: Path | Place,
        *,
        imports: Sequence[str] = (),
        folders: Sequence[Path] = (),
        timeout: float = ANSWER_SECONDS,
    ) -> None:
        """Start it; it greets once it has imported the modules of `imports`, and shares `folders` with the driver.

        Raises UserError for a `place` in which none can be started; a path is the python of an environment.
        """
        self.side = side
        self.place = as_place(place)
        self._timeout = timeout
        self._leaves_by: float | None = None
        # It has no name: nothing of it is left in the temporary directory, however this process ends.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._running = self.place.start(side, imports, folders, self._log)
        self._frames: Frames | None = None
        self._greeted = False
        self._gone: WorkerGone | None = None

    @property
    def pid(self) -> int:
        """The worker's process on this machine."""
        return self._running.pid

    def greet(self) -> None:
        """Wait for its greeting, once. Raises WorkerError when that does not come, or is another protocol's: without
        another wait where that is known."""
        if self._gone is not None:
            raise self._gone
        if self._greeted:
            return
        what = "its start; the environment needs requirements-worker.txt"
        try:
            self._frames = self._running.connect(START_SECONDS)
        except ProtocolError as error:
            raise self._broken(f"{error} (waiting for {what})") from error
        greeting = self._receive(what, START_SECONDS)
        if greeting.get("protocol") != VERSION:
            raise self._broken(f"speaks protocol {greeting.get('protocol')}, this driver speaks {VERSION}")
        self._greeted = True

    def ask(
        self, do: str, *, timeout: float | None = None, progress: Callable[[str], None] | None = None, **arguments: Any
    ) -> Any:
        """The answer to one request. Raises WorkerError when there is none, or when the request failed there.

        Each message must come within `timeout` seconds of the one before, unless that said how long the next may take.
        """
        assert self._frames is not None, "it has not greeted"
        try:
            self._frames.send({"do": do, "with": arguments})
        except ProtocolError as error:
            raise self._broken(str(error)) from error
        within = timeout or self._timeout
        while True:
            message = self._receive(do, within)
            try:
                kind, told = require(message, "progress", "error", "answer")
            except ProtocolError as error:
                raise self._broken(f"{error} (waiting for {do})") from error
            if kind == "answer":
                return told
            if kind == "error":
                raise RequestFailed(self._told(f"failed in {do}: {told}"))
            within = _seconds(message.get("within")) or timeout or self._timeout
            if progress is not None and "within" not in message:
                progress(f"{self.side}: {told}")

    def block(self, arm: str, n: int, lead_in: int) -> Block:
        """Times of n inferences of an engine or control that is open there, after `lead_in` that do not count. Raises
        WorkerError."""
        found = self.ask("block", arm=arm, n=n, lead_in=lead_in)
        second = found["end_to_end"]
        return Block(np.array(found["seconds"]), None if second is None else np.array(second))

    def _receive(self, what: str, timeout: float) -> Mapping[str, Any]:
        assert self._frames is not None, "it has not greeted"
        try:
            return self._frames.receive(timeout)
        except ProtocolError as error:
            raise self._broken(f"{error} (waiting for {what})") from error

    def _broken(self, what: str) -> WorkerGone:
        """The error for a worker that cannot go on: how it ended, if it did, and what it said last."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.process.wait(1.0)
        status = self._running.process.returncode
        ended = "" if status is None else f"; it ended with {_ending(status)}"
        self._gone = WorkerGone(self.side, self._told(f"{what}{ended}"))
        return self._gone

    def _told(self, what: str) -> str:
        # By position: where the worker writes next is the open file's, which both share.
        log, size = self._log.fileno(), os.fstat(self._log.fileno()).st_size
        text = os.pread(log, LOG_BYTES, max(0, size - LOG_BYTES)).decode(errors="replace")
        lines = text.splitlines()[-LOG_LINES:]
        said = "".join(f"\n  | {line}" for line in lines)
        return f"the {self.side} worker ({self.place}): {what}{said}"

    def goodbye(self) -> None:
        """Tell it to leave; saying so twice does nothing."""
        if self._leaves_by is not None:
            return
        self._leaves_by = time.monotonic() + GOODBYE_SECONDS
        if self._frames is not None:
            with contextlib.suppress(ProtocolError):
                self._frames.send({"do": "goodbye"})
        self._running.hang_up()

    def close(self, *, wait: bool = True) -> None:
        """Say goodbye and `wait` for it to leave; end the worker and everything it started if it does not."""
        self.goodbye()
        assert self._leaves_by is not None
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._running.process.wait(max(0.0, self._leaves_by - time.monotonic()) if wait else 0.0)
        self._running.end()
        self._log.close()


def _seconds(told: Any) -> float | None:
    """How long the next message may take, if the one before says so; no longer than the longest build."""
    return min(float(told), BUILD_SECONDS) if type(told) in (int, float) and told > 0 else None


def _ending(status: int) -> str:
    if status == -signal.SIGKILL:
        return "SIGKILL (out of memory?)"
    return signal.Signals(-status).name if status < 0 else f"status {status}"


Sides = Mapping[str, Sequence[Worker]]


@contextlib.contextmanager
def workers(
    places: Mapping[str, Path] | Mapping[str, Place], count: int = 1, folders: Sequence[Path] = ()
) -> Iterator[Sides]:
    """`count` workers a side, by side, which share `folders` with the driver; none outlives the block."""
    made: dict[str, list[Worker]] = {side: [] for side in SIDES}

    def everybody() -> list[Worker]:
        return [worker for side in SIDES for worker in made[side]]

    def dismiss() -> None:
        for worker in everybody():
            worker.goodbye()

    with contextlib.ExitStack() as running:
        for _ in range(count):
            for side in SIDES:
                made[side].append(Worker(side, places[side], folders=folders))
                running.callback(made[side][-1].close)
        running.callback(dismiss)  # the last callback is the first to be called: all leave at the same time
        for worker in everybody():
            worker.greet()
        yield made


def fresh_worker(imports: Sequence[str] = ()) -> Worker:
    """A worker of this very environment, which has yet to greet. Raises WorkerError where the system has none left."""
    try:
        return Worker("fresh", Path(sys.executable), imports=imports)
    except UserError as error:  # of an option that names an environment, which this one was not named by
        raise WorkerError(str(error.__cause__)) from error
