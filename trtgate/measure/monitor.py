"""The machine's state between blocks, never inside the timed window: clocks, throttling, who else used it."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from trtgate.kinds import CLOCK_MOVED, OTHERS_ON_CPU, Device
from trtgate.measure.race import Monitor
from trtgate.nvml import Gpu, Reading, current_gpu
from trtgate.stack import cpu_quota, quota_note, usable_threads

# Other processes using more than this share of one core, in the median round, are worth a note. Such rounds still
# count: the verdict rests on what both arms suffered alike.
OTHERS_NOTED = 0.1

_TICK = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def _busy_seconds() -> float | None:
    """CPU seconds that all processes have used on the cores this process may run on, and the hypervisor took from them;
    None without /proc."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return None
    allowed = {f"cpu{index}" for index in os.sched_getaffinity(0)}
    total = 0
    for line in lines:
        name, *fields = line.split()
        if name in allowed:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
            total += user + nice + system + irq + softirq + steal
    return total / _TICK


def cpu_seconds(pid: int) -> float:
    """CPU seconds that a process has used; 0 for one that is gone."""
    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.NoSuchProcess:
        return 0.0
    return float(times.user + times.system)


class CpuMonitor:
    """Notes how much of the processors processes other than this one and its `workers` used; it objects to no round."""

    def __init__(self, workers: Sequence[int] = ()) -> None:
        self._workers = workers
        self._others: list[float] = []
        self._clocks: list[float] = []
        self._wall = self._own = 0.0
        self._busy: float | None = None

    def _own_seconds(self) -> float:
        return time.process_time() + sum(map(cpu_seconds, self._workers))

    def start(self) -> None:
        self._busy = _busy_seconds()
        self._own = self._own_seconds()
        self._wall = time.monotonic()

    def sample(self) -> None:
        return None

    def stop(self) -> str | None:
        busy = _busy_seconds()
        if busy is not None and self._busy is not None:
            foreign = busy - self._busy - (self._own_seconds() - self._own)
            self._others.append(max(0.0, foreign) / (time.monotonic() - self._wall))
        clock = psutil.cpu_freq()
        if clock is not None and clock.current > 0:
            self._clocks.append(clock.current)
        return None

    def others(self) -> float:
        """Cores' worth that other processes used, in the median round."""
        return statistics.median(self._others) if self._others else 0.0

    def notes(self) -> tuple[str, ...]:
        quota = quota_note(cpu_quota(), usable_threads())
        notes = (quota,) if quota else ()
        if self.others() <= OTHERS_NOTED:
            return notes
        return (
            *notes,
            f"other processes used {self.others():.1f} of the cores meanwhile",
        )

    def disturbed(self) -> str:
        others = self.others()
        return f"other processes used {others:.1f} of the cores" if others > OTHERS_ON_CPU else ""

    def readings(self) -> dict[str, float]:
        clocks = {"clock_mhz": statistics.median(self._clocks)} if self._clocks else {}
        return {**clocks, "others_cores": self.others()}


# Something made the GPU slower than its settings would: such a round must not count. A power cap is not among them, it
# is the steady state of small cards (T4, L4) under load; it is noted.
THROTTLING = frozenset({"hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown"})
# Another process that keeps more than this percentage of the multiprocessors busy disturbs a round.
OTHERS_DISTURB = 1


class GpuMonitor:
    """Objects to rounds in which the GPU throttled or another process used it; notes what else moves its clock, and who
    else used the host.

    Another process is one that is neither this one nor one of its `workers`.
    """

    def __init__(self, gpu: Gpu, workers: Sequence[int] = ()) -> None:
        self._gpu = gpu
        self._workers = workers
        self._host = CpuMonitor([worker for worker in workers if worker != os.getpid()])
        self._round: list[Reading] = []
        self._readings: list[Reading] = []
        self._seen = 0
        self._others_share = 0
        self.start()

    def start(self) -> None:
        self._host.start()
        self._round = []
        share, self._seen = self._gpu.used_by_others(self._seen, self._workers)
        if self._readings:  # what the driver told late is of the round before
            self._others_share = max(self._others_share, share)

    def sample(self) -> None:
        self._round.append(self._gpu.read())

    def stop(self) -> str | None:
        self._host.stop()
        self._readings += self._round
        throttled = THROTTLING & frozenset[str]().union(*(reading.reasons for reading in self._round))
        if throttled:
            return f"the GPU throttled: {', '.join(sorted(throttled))}"
        share, self._seen = self._gpu.used_by_others(self._seen, self._workers)
        self._others_share = max(self._others_share, share)
        if share > OTHERS_DISTURB:
            return f"another process used {share} % of the GPU"
        return None

    def notes(self) -> tuple[str, ...]:
        notes = []
        capped = sum("sw_power_cap" in reading.reasons for reading in self._readings)
        if capped:
            notes.append(f"the power cap held the clock down after {capped} of {len(self._readings)} blocks")
        clocks = [reading.sm_mhz for reading in self._readings if reading.sm_mhz]
        if clocks and max(clocks) > (1 + CLOCK_MOVED) * min(clocks):
            notes.append(f"the SM clock moved between {min(clocks):.0f} and {max(clocks):.0f} MHz; lock it")
        others = self._gpu.other_processes(self._workers)
        if others:
            notes.append(f"{len(others)} other compute processes hold the GPU")
        return tuple(notes)

    def disturbed(self) -> str:
        # The driver tells what a process used once a second or so: a round seldom sees it, the race does. One that
        # only holds the GPU counts too: the first other context made a captured ResNet-50 11 % faster on an H100
        # (0.869 to 0.769 ms), for good, and left a matrix product and a copy alone.
        if self._others_share > OTHERS_DISTURB:
            return f"another process used {self._others_share} % of the GPU"
        others = self._gpu.other_processes(self._workers)
        return f"{len(others)} other compute processes held the GPU" if others else ""

    def readings(self) -> dict[str, float]:
        series: dict[str, Callable[[Reading], float | None]] = {
            "clock_mhz": lambda reading: reading.sm_mhz,
            "memory_mhz": lambda reading: reading.memory_mhz,
            "watts": lambda reading: reading.watts,
            "celsius": lambda reading: reading.celsius,
        }
        found = {
            name: [value for each in self._readings if (value := read(each)) is not None]
            for name, read in series.items()
        }
        medians = {name: float(statistics.median(values)) for name, values in found.items() if values}
        return {**medians, "others_cores": self._host.others()}


def monitor_for(device: Device, workers: Sequence[int] = ()) -> Callable[[], Monitor]:
    """What makes a monitor of that kind of processor, one for each race that this process and its `workers` run."""
    gpu = current_gpu() if device == "cuda" else None
    return (lambda: CpuMonitor(workers)) if gpu is None else lambda: GpuMonitor(gpu, workers)
