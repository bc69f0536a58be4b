"""The gate proves itself on this machine: races whose right answer is known.

A/A races pit an engine against itself, so every REGRESSED is a false alarm. Slowed races pit it against itself with a
wait of known length inside the timed region (a busy processor, on a GPU a kernel that spins), so everything but
REGRESSED is a miss.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from trtgate import judge
from trtgate.engines.base import Batch, Block, Engine
from trtgate.progress import SILENT, Progress
from trtgate.race import BLOCK_STATISTICS, Arm, Monitor, Race, Schedule, race_until_decided, run_race
from trtgate.verdict.decision import Decision, Verdict
from trtgate.verdict.paired import Floats, decide_paired, interval


def short_warm_up(schedule: Schedule) -> Schedule:
    """The engine is warm after its first race; later ones only need to settle."""
    return dataclasses.replace(schedule, warm_up_seconds=0.05, warm_up_limit_seconds=1.0)


# The smallest delta is the one at which this share of A/A races would have passed.
PASSING_SHARE = 0.95
STEP = 0.005


@dataclass(frozen=True)
class Trial:
    """One race with a known answer: the rounds of both arms, and the verdict after at most one rerun."""

    old: Floats
    new: Floats
    decision: Decision
    reran: bool
    race: Race


@dataclass(frozen=True)
class Selftest:
    """All trials of one engine. `slowdown` and `delta` are fractions (0.05 is 5 %), `absolute_floor` is in seconds."""

    model: str
    engine: str
    batch: int
    latency: float
    delta: float
    absolute_floor: float
    slowdown: float
    same: tuple[Trial, ...]
    slowed: tuple[Trial, ...]
    seconds: float

    @property
    def false_alarms(self) -> int:
        return sum(trial.decision.verdict is Verdict.REGRESSED for trial in self.same)

    @property
    def caught(self) -> int:
        return sum(trial.decision.verdict is Verdict.REGRESSED for trial in self.slowed)

    @property
    def smallest_delta(self) -> float:
        """The smallest delta, in steps of half a percent, at which PASSING_SHARE of the A/A races pass."""
        highs = [interval(np.log(trial.new / trial.old))[2] for trial in self.same if trial.race.complete]
        if not highs:
            return math.inf
        quantile = float(np.quantile(highs, PASSING_SHARE, method="higher"))
        return round(max(STEP, math.ceil(math.expm1(quantile) / STEP) * STEP), 3)


def binomial_upper(k: int, n: int, alpha: float = 0.05) -> float:
    """Exact one-sided upper bound of a probability seen k times in n (Clopper and Pearson 1934), by bisection."""
    if k >= n:
        return 1.0
    low, high = k / n, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        below = sum(math.comb(n, i) * middle**i * (1 - middle) ** (n - i) for i in range(k + 1))
        low, high = (middle, high) if below > alpha else (low, middle)
    return high


def slowed_arm(name: str, engine: Engine, batch: Batch, seconds: float) -> Arm:
    """An arm whose every inference is followed by a wait; one of no length still goes the same way."""

    def block(n: int) -> Block:
        return engine.slowed_block(n, batch, seconds)

    return Arm(name, block)


def run_selftest(
    engine: Engine,
    batch: Batch,
    *,
    model: str,
    races: tuple[int, int],
    slowdown: float,
    delta: float,
    absolute_floor: float,
    schedule: Schedule,
    monitor: Callable[[], Monitor],
    progress: Progress = SILENT,
) -> Selftest:
    """Run `races[0]` A/A races and `races[1]` slowed ones, in turns so that both see the same hours.

    They are decided as the gate would with this `delta` and `absolute_floor` (seconds).
    """

    def decide(race: Race) -> Decision:
        if not race.complete:
            return judge.unfinished(len(race.dropped), race.dropped[-1])
        old, new = race.round_latencies("old"), race.round_latencies("new")
        return decide_paired(old, new, delta=delta, absolute_floor=absolute_floor)

    started = time.monotonic()
    plain = slowed_arm("old", engine, batch, 0.0)
    latency = run_race([plain], dataclasses.replace(schedule, rounds=3)).latency("old")
    arms = {
        "same": slowed_arm("new", engine, batch, 0.0),
        "slowed": slowed_arm("new", engine, batch, slowdown * latency),
    }
    schedule = short_warm_up(schedule)
    trials: dict[str, list[Trial]] = {"same": [], "slowed": []}
    turns = _turns(*races)
    with progress.step(f"{model}: selftest of {engine.spec.id}, {len(turns)} races") as count:
        for index, kind in enumerate(turns):
            trials[kind].append(_trial(plain, arms[kind], decide, schedule, monitor))
            count(index + 1, len(turns))
    return Selftest(
        model,
        engine.spec.id,
        len(batch),
        latency,
        delta,
        absolute_floor,
        slowdown,
        tuple(trials["same"]),
        tuple(trials["slowed"]),
        time.monotonic() - started,
    )


def _turns(same: int, slowed: int) -> list[str]:
    pairs = itertools.zip_longest(["same"] * same, ["slowed"] * slowed)
    return [kind for pair in pairs for kind in pair if kind]


def _trial(
    old: Arm, new: Arm, decide: Callable[[Race], Decision], schedule: Schedule, monitor: Callable[[], Monitor]
) -> Trial:
    """One race with its rerun, as the gate does it."""

    def undecided(race: Race) -> bool:
        return decide(race).verdict is Verdict.INCONCLUSIVE

    race = race_until_decided([old, new], undecided, schedule, monitor=monitor)
    reran = race.rounds > schedule.rounds
    return Trial(race.round_latencies("old"), race.round_latencies("new"), decide(race), reran, race)


@dataclass(frozen=True)
class StatisticRow:
    """What a block statistic would have said of the same races, without reruns."""

    statistic: str
    width: float
    false_alarms: int
    passed: int
    caught: int
    open: int


def compare_statistics(result: Selftest) -> list[StatisticRow]:
    """Every block statistic on the raw iterations of the same races: median interval width, and verdicts."""
    rows = []
    for name, statistic in BLOCK_STATISTICS.items():
        verdicts: dict[str, list[Verdict]] = {}
        widths = []
        for kind, trials in (("same", result.same), ("slowed", result.slowed)):
            verdicts[kind] = []
            for trial in trials:
                if not trial.race.complete:
                    continue
                old, new = (
                    np.array([statistic(block) for block in trial.race.blocks[arm]][: Schedule.rounds])
                    for arm in ("old", "new")
                )
                _, low, high = interval(np.log(new / old))
                widths.append(high - low)
                verdicts[kind].append(
                    decide_paired(old, new, delta=result.delta, absolute_floor=result.absolute_floor).verdict
                )
        both = verdicts["same"] + verdicts["slowed"]
        rows.append(
            StatisticRow(
                name,
                float(np.median(widths)) if widths else math.nan,
                verdicts["same"].count(Verdict.REGRESSED),
                verdicts["same"].count(Verdict.PASS),
                verdicts["slowed"].count(Verdict.REGRESSED),
                both.count(Verdict.INCONCLUSIVE),
            )
        )
    return rows


def summary(result: Selftest) -> dict[str, object]:
    """The result as plain JSON values, with every trial's rounds."""

    def trials(some: Sequence[Trial]) -> list[dict[str, object]]:
        return [
            {
                "verdict": trial.decision.verdict.value,
                "reason": trial.decision.reason.value,
                "message": trial.decision.message,
                "reran": trial.reran,
                "old": list(map(float, trial.old)),
                "new": list(map(float, trial.new)),
                "dropped": list(trial.race.dropped),
            }
            for trial in some
        ]

    return {
        "model": result.model,
        "engine": result.engine,
        "batch": result.batch,
        "latency": result.latency,
        "delta": result.delta,
        "absolute_floor": result.absolute_floor,
        "slowdown": result.slowdown,
        "seconds": result.seconds,
        "false_alarms": result.false_alarms,
        "caught": result.caught,
        "smallest_delta": result.smallest_delta,
        "statistics": [vars(row) for row in compare_statistics(result)],
        "same": trials(result.same),
        "slowed": trials(result.slowed),
    }
