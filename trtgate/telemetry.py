"""The machine's state around a round, never inside the timed window: who else used its processors."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import psutil

# Other processes using more than this share of one core, in the median round, are worth a note. Such rounds still
# count: the verdict rests on what both arms suffered alike.
OTHERS_NOTED = 0.1

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
    """Notes how much of the processors other processes used; it objects to no round."""

    def __init__(self) -> None:
        self._others: list[float] = []
        self._clocks: list[float] = []
        self._wall = self._own = 0.0
        self._busy: float | None = None

    def start(self) -> None:
        self._busy = _busy_seconds()
        self._own = time.process_time()
        self._wall = time.monotonic()

    def stop(self) -> str | None:
        busy = _busy_seconds()
        if busy is not None and self._busy is not None:
            foreign = busy - self._busy - (time.process_time() - self._own)
            self._others.append(max(0.0, foreign) / (time.monotonic() - self._wall))
        clock = psutil.cpu_freq()
        if clock is not None and clock.current > 0:
            self._clocks.append(clock.current)
        return None

    def notes(self) -> tuple[str, ...]:
        if not self._others or statistics.median(self._others) <= OTHERS_NOTED:
            return ()
        return (f"other processes used {statistics.median(self._others):.1f} of the cores meanwhile",)

    def clock_mhz(self) -> float | None:
        return statistics.median(self._clocks) if self._clocks else None
