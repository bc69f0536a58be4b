"""The machine's state around a round, never inside the timed window: who else used its processors."""

from __future__ import annotations

import os
import time
from pathlib import Path

# Other processes may use this share of one core on average over a round before it is dropped: a background service
# does not reach it, a compiler on the other core does.
OTHERS_SHARE = 0.5

_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def _busy_seconds() -> float | None:
    """CPU seconds that all processes have used on the cores this process may run on, or None without /proc."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    allowed = {f"cpu{index}" for index in os.sched_getaffinity(0)}
    total = 0
    for line in lines:
        name, *fields = line.split()
        if name in allowed:
            user, nice, system, _idle, _iowait, irq, softirq, _steal = map(int, fields[:8])
            total += user + nice + system + irq + softirq
    return total / _TICK


class CpuMonitor:
    """Objects to a round in which other processes used more than OTHERS_SHARE of a core."""

    def __init__(self) -> None:
        self.others: list[float] = []
        self._wall = self._own = 0.0
        self._busy: float | None = None

    def start(self) -> None:
        self._busy = _busy_seconds()
        self._own = time.process_time()
        self._wall = time.monotonic()

    def stop(self) -> str | None:
        busy = _busy_seconds()
        if busy is None or self._busy is None:
            return None
        wall = time.monotonic() - self._wall
        others = max(0.0, busy - self._busy - (time.process_time() - self._own)) / wall
        self.others.append(others)
        return None
