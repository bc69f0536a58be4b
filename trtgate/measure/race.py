"""Racing arms against each other: warm-up, block calibration, interleaved rounds.

Pure scheduling: an arm is a name and a function that times n back-to-back inferences. What the times mean is
`verdict`'s business.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from trtgate.kinds import Block, Device, Seconds
from trtgate.verdict.paired import LOOKS
from trtgate.verdict.shape import by_block

# How the names of arms begin that are no engines but fixed work.
CONTROL = "control-"
# The one of them that is the host's, beside a GPU: it says nothing of engines that keep the GPU busy by themselves.
HOST_CONTROL = "control-host"
# One number for a block. On a CPU the minimum is the choice of a measurement, not of taste: with the other core busy
# the typical iteration is a preempted one, and only the fastest still say how fast the engine is. It is blind to a
# change that leaves the fastest iterations alone; the midmean and the tail are gated beside it.
BLOCK_STATISTIC: Mapping[Device, str] = {"cpu": "minimum", "cuda": "median"}


# A race that ends before this may still lose as many rounds as one of this length.
FEWEST_ROUNDS = 15
# Of the calls of two stacks: of 270, the first look's at 3 ms, 2 % are two or fewer once in ten times, and a stall of
# those passed in 2 of 40 races; of so many once in seventy.
TAIL_CALLS = 400


@dataclass(frozen=True)
class Schedule:
    """The constants of a race, and why they are what they are.

    They bound noise, they do not remove it: a race says nothing about a slow drift between two processes.
    """

    # At most; it is looked at after each of the numbers of `paired.LOOKS` below this one, and ends with the first at
    # which nothing is open.
    rounds: int = 60
    # Long enough that one preemption of a few milliseconds is a small part of a block.
    block_seconds: float = 0.1
    block_iterations: int = 10
    # A block of those, of an engine so slow that it would take longer, has fewer, down to the fewest.
    block_limit_seconds: float = float("inf")
    fewest_iterations: int = 3
    # An arm's block is run in this many parts, there and back again (old new new old), so that a drift within the
    # round weighs on both arms alike. Against one part: intervals a fifth narrower (docs/how-it-decides.md).
    passes: int = 2
    # Caches, frequency and thread pools belong to the arm that ran before; the first calls of a block pay for that: at
    # 12 ms the first one 13 % and the second 6 %, at 46 and 90 ms the first 0.3 and 1.8 % and the second 0.2 % at most.
    # So one call is enough of an engine that is slower than this.
    lead_in_iterations: int = 2
    lead_in_seconds: float = 0.04
    # Two threads that woke on one core are parted at the scheduler's next tick, 4 ms later where it has 250 a second:
    # of an engine of 0.5 ms, raced in turns of processes, every tenth block had a call of 4 ms and more just there.
    settling_seconds: float = 0.01
    warm_up_iterations: int = 10
    warm_up_seconds: float = 0.5
    warm_up_limit_seconds: float = 5.0
    # Warm when two windows in a row agree this well: tighter is never reached on a shared machine.
    warm_up_agreement: float = 0.05
    # With more rounds lost than this the machine is not fit to measure on, and what is left is a biased sample.
    dropped_share: float = 0.2
    statistic: str = BLOCK_STATISTIC["cpu"]
    # A look before FEWEST_ROUNDS counts only with so many calls of each arm, where the slowest calls are decided on.
    fewest_calls: int = 0
    # All arms are one engine: their blocks are equally long, since the minimum of more iterations is a smaller one.
    alike: bool = False

    @property
    def looks(self) -> tuple[int, ...]:
        """After how many rounds it is looked at."""
        return (*(look for look in LOOKS if look < self.rounds), self.rounds)


# A block of an engine that is slow, where its floors are decided on or where the process is the sample: the time goes
# into other processes, or to whoever waits. Two cores take 60 ms for an eager ResNet-50.
FEW_ITERATIONS = 6


def briefly(schedule: Schedule) -> Schedule:
    """The schedule with fewer iterations of slow engines, a shorter warm-up, and blocks in one part."""
    return replace(
        schedule,
        block_iterations=FEW_ITERATIONS,
        passes=1,
        warm_up_iterations=FEW_ITERATIONS,
        warm_up_seconds=schedule.warm_up_seconds / 4,
    )


# A GPU's iterations are short, and nothing but its clock and its own scheduler comes between them.
SCHEDULES: Mapping[Device, Schedule] = {
    "cpu": Schedule(),
    "cuda": Schedule(block_seconds=0.05, warm_up_seconds=0.2, settling_seconds=0.0, statistic=BLOCK_STATISTIC["cuda"]),
}


@dataclass(frozen=True)
class Arm:
    """One engine in a race; `block(n)` times n back-to-back inferences.

    `share` is how much of a block's usual time it gets. `led(k, n)` does the same after k that do not count, where that
    is one piece.
    """

    name: str
    block: Callable[[int], Block]
    share: float = 1.0
    led: Callable[[int, int], Block] | None = None

    @classmethod
    def elsewhere(cls, name: str, led: Callable[[int, int], Block], share: float = 1.0) -> Arm:
        """An arm in another process, which would sleep between lead-in and block, and whose threads would be placed
        anew."""
        return cls(name, lambda n: led(0, n), share, led)

    def after(self, lead_in: int, n: int) -> Block:
        """A block of n after `lead_in` inferences that do not count."""
        if self.led is not None:
            return self.led(lead_in, n)
        if lead_in:
            self.block(lead_in)
        return self.block(n)


class Monitor(Protocol):
    """Watches the machine around blocks, never inside the timed window."""

    def start(self) -> None:
        """A round begins."""

    def sample(self) -> None:
        """A block is over and the next has not begun."""

    def stop(self) -> str | None:
        """The round is over: why it must not count, or None."""

    def notes(self) -> tuple[str, ...]:
        """After the race: what makes its measurement less sure without making it invalid."""

    def disturbed(self) -> str:
        """After the race: why nothing that is not interleaved may rest on it; empty if it may."""

    def readings(self) -> dict[str, float]:
        """After the race: medians over its blocks by name with unit, such as "clock_mhz" of the processor that did the
        work; what nobody tells is left out."""


class NoMonitor:
    """Sees nothing."""

    def start(self) -> None:
        return None

    def sample(self) -> None:
        return None

    def stop(self) -> str | None:
        return None

    def notes(self) -> tuple[str, ...]:
        return ()

    def disturbed(self) -> str:
        return ""

    def readings(self) -> dict[str, float]:
        return {}


@dataclass(frozen=True)
class Race:
    """All iterations of all rounds that counted: `blocks[arm][r]` is float64[n] of seconds.

    `end_to_end` holds the second series in the same way, for the arms that have one.
    """

    blocks: Mapping[str, tuple[Seconds, ...]]
    warm: Mapping[str, bool]
    dropped: tuple[str, ...] = ()
    complete: bool = True
    notes: tuple[str, ...] = ()
    readings: Mapping[str, float] = field(default_factory=dict)
    statistic: str = BLOCK_STATISTIC["cpu"]
    end_to_end: Mapping[str, tuple[Seconds, ...]] = field(default_factory=dict)
    disturbed: str = ""

    @property
    def rounds(self) -> int:
        return len(next(iter(self.blocks.values())))

    def round_latencies(self, arm: str, statistic: str = "") -> Seconds:
        """Seconds, float64[R]: one number per round, by one of `shape.STATISTICS`, the schedule's unless another."""
        return by_block(self.blocks[arm], statistic or self.statistic)

    def round_end_to_end(self, arm: str) -> Seconds:
        """Seconds, float64[R], of the second series; float64[0] for an arm that has none."""
        return by_block(self.end_to_end.get(arm, ()), self.statistic)

    def latency(self, arm: str) -> float:
        """The arm's latency in seconds: the median of its rounds' block statistics."""
        return float(np.median(self.round_latencies(arm)))

    def variation(self, arm: str) -> float:
        """Coefficient of variation of the arm's rounds."""
        rounds = self.round_latencies(arm)
        return float(np.std(rounds, ddof=1) / np.mean(rounds)) if rounds.size > 1 else 0.0


def run_race(
    arms: Sequence[Arm],
    schedule: Schedule = Schedule(),
    *,
    undecided: Callable[[Race], bool] = lambda race: True,
    monitor: Monitor | None = None,
    rest: Callable[[], object] = lambda: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Race:
    """Warm up every arm, size its blocks, and run the rounds, odd ones in reverse order.

    `rest` returns once nothing of the arm before runs any more: ONNX Runtime's threads spin on after their last work,
    and made the first tenth of the next engine's calls up to three times as long.

    It ends with the first of the schedule's looks at which it is not `undecided`, or with the last; then it fails
    closed. A round that the monitor objects to is dropped whole and redone; once more than `schedule.dropped_share` of
    the rounds up to the next look (of 15, before that) are lost the race stops with `complete=False`.
    """
    watch = monitor or NoMonitor()
    lengths, lead_ins, warm = {}, {}, {}
    for arm in arms:
        rest()
        latency, warm[arm.name] = warm_up(arm, schedule)
        lengths[arm.name] = block_length(latency, schedule, arm.share)
        lead_ins[arm.name] = lead_in(latency, schedule)
    if schedule.alike:
        lengths = dict.fromkeys(lengths, max(lengths.values()))
    kept: dict[str, list[Block]] = {arm.name: [] for arm in arms}
    dropped: list[str] = []
    done = attempt = 0

    def race(complete: bool) -> Race:
        return Race(
            {name: tuple(block.seconds for block in blocks) for name, blocks in kept.items()},
            warm,
            tuple(dropped),
            complete,
            watch.notes(),
            watch.readings(),
            schedule.statistic,
            {
                name: tuple(block.end_to_end for block in blocks if block.end_to_end is not None)
                for name, blocks in kept.items()
                if any(block.end_to_end is not None for block in blocks)
            },
            watch.disturbed(),
        )

    for look in schedule.looks:
        while done < look:
            order: Iterable[Arm] = arms if attempt % 2 == 0 else reversed(arms)
            attempt += 1
            watch.start()
            blocks = _timed_round(list(order), lengths, lead_ins, schedule, watch.sample, rest)
            objection = watch.stop()
            if objection is not None:
                dropped.append(objection)
                if len(dropped) > schedule.dropped_share * max(look, min(schedule.rounds, FEWEST_ROUNDS)):
                    return race(False)
                continue
            for name, block in blocks.items():
                kept[name].append(block)
            done += 1
            progress(done, look)
        found = race(True)
        calls = min((sum(block.seconds.size for block in kept[arm.name]) for arm in arms if arm.share == 1), default=0)
        enough = done >= FEWEST_ROUNDS or calls >= schedule.fewest_calls
        if enough and not undecided(found):
            return found
    return found


def _timed_round(
    order: Sequence[Arm],
    lengths: Mapping[str, int],
    lead_ins: Mapping[str, int],
    schedule: Schedule,
    sample: Callable[[], None],
    rest: Callable[[], object],
) -> dict[str, Block]:
    """Every arm's block, in `schedule.passes` parts: through the arms in order, back, and so on."""
    parts: dict[str, list[Block]] = {arm.name: [] for arm in order}
    for index in range(schedule.passes):
        for arm in order if index % 2 == 0 else reversed(order):
            rest()
            parts[arm.name].append(arm.after(lead_ins[arm.name], -(-lengths[arm.name] // schedule.passes)))
            sample()
    return {name: _joined(some) for name, some in parts.items()}


def _joined(parts: Sequence[Block]) -> Block:
    second = [part.end_to_end for part in parts if part.end_to_end is not None]
    return Block(np.concatenate([part.seconds for part in parts]), np.concatenate(second) if second else None)


def warm_up(arm: Arm, schedule: Schedule) -> tuple[float, bool]:
    """Run an arm until two windows' medians agree; its latency in seconds, and whether it became steady in time."""
    total = 0.0
    iterations = 0
    window = max(1, schedule.warm_up_iterations // 2)
    previous = float("inf")
    while True:
        block = arm.block(window)
        times = block.seconds
        total += float(times.sum()) + (0.0 if block.end_to_end is None else float(block.end_to_end.sum()))
        iterations += window
        median = float(np.median(times))
        steady = abs(median - previous) <= schedule.warm_up_agreement * previous
        enough = iterations >= schedule.warm_up_iterations and total >= arm.share * schedule.warm_up_seconds
        if enough and steady:
            return median, True
        if total >= schedule.warm_up_limit_seconds:
            return median, False
        previous = median
        # Windows of a quarter of the minimum time, so that two of them fit with room to spare.
        with contextlib.suppress(OverflowError, ZeroDivisionError):
            window = max(window, int(schedule.warm_up_seconds / 4 / median))


def block_length(latency: float, schedule: Schedule, share: float = 1.0) -> int:
    """Iterations per block for an arm of that latency in seconds and that share of a block's time."""
    least = schedule.block_iterations
    if least * latency > schedule.block_limit_seconds:
        least = min(least, max(schedule.fewest_iterations, int(schedule.block_limit_seconds / latency)))
    return max(least, int(np.ceil(share * schedule.block_seconds / latency)))


def lead_in(latency: float, schedule: Schedule) -> int:
    """Iterations that come before each block of an arm of that latency in seconds, and do not count."""
    if latency >= schedule.lead_in_seconds:
        return min(schedule.lead_in_iterations, 1)
    settling = math.ceil(schedule.settling_seconds / latency) if latency > 0 else 0
    return max(schedule.lead_in_iterations, settling)
