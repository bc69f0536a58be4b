"""Workers take turns: what those do meanwhile whose turn it is not, which should be nothing."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence

import numpy as np

from trtgate.measure.monitor import cpu_seconds
from trtgate.measure.race import Monitor

# Workers whose turn it is not may use this share of a core: more, and they disturb the one whose turn it is.
IDLE_SHARE = 0.1


class Turns:
    """Whose turn it is, and what the other workers do meanwhile, which should be nothing."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = pids
        self.idle_seconds = self.wall_seconds = 0.0

    def reset(self) -> None:
        """A round begins."""
        self.idle_seconds = self.wall_seconds = 0.0

    @property
    def share(self) -> float:
        """Of a core, what the workers used while it was not their turn."""
        return self.idle_seconds / self.wall_seconds if self.wall_seconds else 0.0

    @contextlib.contextmanager
    def of(self, pid: int) -> Iterator[None]:
        """This worker's turn."""
        others = [other for other in self._pids if other != pid]
        before, start = sum(map(cpu_seconds, others)), time.monotonic()
        yield
        self.idle_seconds += sum(map(cpu_seconds, others)) - before
        self.wall_seconds += time.monotonic() - start


class TurnMonitor:
    """The machine's monitor, which also objects to a round in which workers were busy out of turn."""

    def __init__(self, machine: Monitor, turns: Turns) -> None:
        self._machine = machine
        self._turns = turns
        self._shares: list[float] = []

    def start(self) -> None:
        self._turns.reset()
        self._machine.start()

    def sample(self) -> None:
        self._machine.sample()

    def stop(self) -> str | None:
        objection = self._machine.stop()
        self._shares.append(self._turns.share)
        if self._turns.share > IDLE_SHARE:
            return f"workers whose turn it was not used {self._turns.share:.0%} of a core"
        return objection

    def notes(self) -> tuple[str, ...]:
        return self._machine.notes()

    def disturbed(self) -> str:
        return self._machine.disturbed()

    def readings(self) -> dict[str, float]:
        return {**self._machine.readings(), "idle_share": float(np.median(self._shares))}
