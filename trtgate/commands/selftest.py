"""The gate proves itself on this machine: races whose right answer is known.

A/A races pit an engine against itself, so every REGRESSED is a false alarm. Slowed races pit it against itself with
waits of known length inside the timed region (a busy processor, on a GPU a kernel that spins): after every inference,
after every second one, or after one in fifty. There everything but REGRESSED is a miss.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtgate import judge
from trtgate.commands.common import (
    MISTAKE,
    is_written,
    percent,
    positive,
    require_own_outputs,
    settings_of,
)
from trtgate.engines import available, parse_spec
from trtgate.engines.base import Engine
from trtgate.expectations import Expectation, require_own, write_delta
from trtgate.kinds import Block, Device, UserError
from trtgate.measure.monitor import monitor_for
from trtgate.measure.race import SCHEDULES, TAIL_CALLS, Arm, Monitor, Race, Schedule, run_race
from trtgate.options import add_options, default_device
from trtgate.progress import SILENT, Progress, console_progress
from trtgate.records import from_race, verdict_to_json
from trtgate.report.page import Column, Table, cells
from trtgate.report.terminal import table_text
from trtgate.report.words import milliseconds
from trtgate.signature import Tensors
from trtgate.verdict.metrics import BY_NAME, decide
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.paired import LOOKS, Floats, decide_paired, interval
from trtgate.verdict.policy import EXIT_INCONCLUSIVE, GOOD, exit_status, worst
from trtgate.verdict.shape import STATISTICS
from trtgate.workbench import Workbench


def trial_of(schedule: Schedule) -> Schedule:
    """A trial's schedule: the engine is warm after its first race, and one process has nothing but more rounds to tell
    what they leave open."""
    return dataclasses.replace(
        schedule, warm_up_seconds=0.05, warm_up_limit_seconds=1.0, fewest_calls=TAIL_CALLS, rounds=max(LOOKS)
    )


# The smallest delta is the one at which this share of A/A races would have passed.
PASSING_SHARE = 0.95
STEP = 0.005
# What is decided on, as the gate does: the fastest calls, the typical ones, the slowest.
GATED = ("latency", "typical", "tail")


@dataclass(frozen=True)
class Slowdown:
    """What an arm's inferences suffer: `share` of them take longer by `by` of the latency (0.4 is 40 %).

    Which ones: every second for a half, else as a generator of random numbers chooses.
    """

    name: str
    share: float
    by: float

    def waits(self, latency: float) -> Iterator[float]:
        """Seconds to wait after each inference, without end."""
        random = np.random.default_rng(0)
        index = 0
        while True:
            slow = index % 2 == 0 if self.share == 0.5 else random.random() < self.share
            yield self.by * latency if slow else 0.0
            index += 1


# Fast, so that noise shows, and there wherever the device is.
SELFTEST_ENGINE: dict[Device, str] = {"cpu": "onnxruntime-int8", "cuda": "pytorch-fp16-graph"}

SAME = Slowdown("against itself", 0.0, 0.0)
HALF = Slowdown("every second call slower by 40 %", 0.5, 0.4)
STALL = Slowdown("one call in fifty twice as long", 0.02, 1.0)


def slowed(share: float) -> Slowdown:
    """Every inference slower by `share`."""
    return Slowdown(f"slowed by {share:.1%}", 1.0, share)


@dataclass(frozen=True)
class Trial:
    """One race with a known answer, and whether one look at it was not enough."""

    race: Race
    verdict: Verdict
    prolonged: bool

    @property
    def old(self) -> Floats:
        return self.race.round_latencies("old")

    @property
    def new(self) -> Floats:
        return self.race.round_latencies("new")


@dataclass(frozen=True)
class Selftest:
    """All trials of one engine, by what its second arm suffered. `delta` is a fraction (0.05 is 5 %), `absolute_floor`
    is in seconds; `left` are races that were not run any more."""

    model: str
    engine: str
    batch: int
    latency: float
    delta: float
    absolute_floor: float
    trials: Mapping[Slowdown, tuple[Trial, ...]]
    seconds: float
    left: int = 0

    def count(self, slowdown: Slowdown, outcome: Outcome) -> int:
        """How many of its trials came to that verdict."""
        return sum(trial.verdict.outcome is outcome for trial in self.trials[slowdown])

    @property
    def same(self) -> tuple[Trial, ...]:
        return self.trials[SAME]

    @property
    def slowdowns(self) -> tuple[Slowdown, ...]:
        """Those that have to be found."""
        return tuple(each for each in self.trials if each is not SAME)

    @property
    def false_alarms(self) -> int:
        return self.count(SAME, Outcome.REGRESSED)

    @property
    def passed_though_slower(self) -> int:
        """The misses that count most: the gate was green."""
        return sum(self.count(each, outcome) for each in self.slowdowns for outcome in GOOD)

    @property
    def smallest_delta(self) -> float:
        """The smallest delta, in steps of half a percent, at which PASSING_SHARE of the A/A races pass; infinite where
        no race could be finished."""
        highs = [interval(np.log(trial.new / trial.old))[2] for trial in self.same if trial.race.complete]
        if not highs:
            return math.inf
        quantile = float(np.quantile(highs, PASSING_SHARE, method="higher"))
        return round(max(STEP, math.ceil(math.expm1(quantile) / STEP) * STEP), 3)

    def status(self) -> Verdict:
        """Whether the gate can be relied on here: what it must not do it did not, and it could measure."""
        unmeasured = sum(not trial.race.complete for some in self.trials.values() for trial in some)
        open_ = sum(self.count(each, Outcome.INCONCLUSIVE) for each in self.trials)
        total = sum(map(len, self.trials.values()))
        if self.left:
            message = f"it was cut off after {total} of {total + self.left} races"
            return Verdict(Outcome.INVALID, Reason.NO_RECORDS, message)
        if unmeasured:
            message = (
                f"{unmeasured} of {total} races could not be finished undisturbed: this machine is not fit to gate on"
            )
            return Verdict(Outcome.INVALID, Reason.DISTURBED, message)
        if self.false_alarms or self.passed_though_slower:
            message = (
                f"{self.false_alarms} of {len(self.same)} races of an engine against itself were REGRESSED, and "
                f"{self.passed_though_slower} slowed ones passed: do not gate here at these limits"
            )
            return Verdict(Outcome.REGRESSED, Reason.SLOWER, message)
        if open_ > (1 - PASSING_SHARE) * total:
            message = f"{open_} of {total} races could not be told: a larger delta, or a quieter machine"
            return Verdict(Outcome.INCONCLUSIVE, Reason.INTERVAL_TOO_WIDE, message)
        return Verdict(Outcome.PASS, Reason.WITHIN_DELTA, "every slowdown was found and nothing else")


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


def slowed_arm(name: str, engine: Engine, batch: Tensors, waits: Iterator[float]) -> Arm:
    """An arm whose inferences are followed by waits; waits of no length still go the same way."""

    def block(n: int) -> Block:
        return engine.slowed_block(batch, [next(waits) for _ in range(n)])

    return Arm(name, block)


def decide_race(race: Race, expectation: Expectation) -> Verdict:
    """What the gate says of the arm "new" against "old": the worst of latency, typical and tail."""
    if not race.complete:
        return judge.unfinished(len(race.dropped), race.dropped[-1])
    old, new = ([from_race(race, "", arm, arm, 1, "").sample()] for arm in ("old", "new"))
    found = [decide(BY_NAME[name], old, new, expectation.limits(BY_NAME[name]), "interleaved") for name in GATED]
    return worst([each for each in found if each is not None])


def run_selftest(
    engine: Engine,
    batch: Tensors,
    *,
    model: str,
    size: int,
    races: tuple[int, int],
    slowdowns: Sequence[Slowdown],
    expectation: Expectation,
    schedule: Schedule,
    monitor: Callable[[], Monitor],
    progress: Progress = SILENT,
    cut_off: Callable[[Selftest], object] = lambda result: None,
) -> Selftest:
    """Run `races[0]` A/A races and `races[1]` of each slowdown, in turns so that all see the same hours.

    `size` is that of the batch. They are decided as the gate would by this `expectation`. What ends it early, as Ctrl-C
    does, is raised once `cut_off` has been given what was found until then, if anything was.
    """
    started = time.monotonic()
    plain = slowed_arm("old", engine, batch, SAME.waits(0.0))
    latency = run_race([plain], dataclasses.replace(schedule, rounds=3)).latency("old")
    counts = {SAME: races[0], **dict.fromkeys(slowdowns, races[1])}
    arms = {each: slowed_arm("new", engine, batch, each.waits(latency)) for each in counts}
    schedule = trial_of(schedule)
    trials: dict[Slowdown, list[Trial]] = {each: [] for each in counts}
    turns = [each for index in range(max(races)) for each, count in counts.items() if index < count]

    def undecided(race: Race) -> bool:
        return decide_race(race, expectation).outcome is Outcome.INCONCLUSIVE

    def result() -> Selftest:
        return Selftest(
            model,
            engine.spec.id,
            size,
            latency,
            expectation.number("delta"),
            expectation.absolute_floor,
            {kind: tuple(some) for kind, some in trials.items()},
            time.monotonic() - started,
            len(turns) - sum(map(len, trials.values())),
        )

    try:
        with progress.step(f"{model}: selftest of {engine.spec.id}, {len(turns)} races") as count:
            for index, kind in enumerate(turns):
                race = run_race([plain, arms[kind]], schedule, undecided=undecided, monitor=monitor())
                trials[kind].append(Trial(race, decide_race(race, expectation), race.rounds > schedule.looks[0]))
                count(index + 1, len(turns))
    except BaseException:
        if any(trials.values()):
            cut_off(result())
        raise
    return result()


@dataclass(frozen=True)
class StatisticRow:
    """What a block statistic would have said of the same races at the first look."""

    statistic: str
    width: float
    false_alarms: int
    passed: int
    caught: int
    open: int


def compare_statistics(result: Selftest) -> list[StatisticRow]:
    """Every block statistic on the raw iterations of the same races up to the first look, against itself and uniformly
    slowed: median interval width, and verdicts."""
    rows, first = [], Schedule().looks[0]
    kinds = [SAME, *(each for each in result.slowdowns if each.share == 1.0)]
    for name in STATISTICS:
        outcomes: dict[Slowdown, list[Outcome]] = {kind: [] for kind in kinds}
        widths = []
        for kind in kinds:
            for trial in result.trials[kind]:
                if not trial.race.complete:
                    continue
                old, new = (trial.race.round_latencies(arm, name)[:first] for arm in ("old", "new"))
                _, low, high = interval(np.log(new / old))
                widths.append(high - low)
                outcomes[kind].append(
                    decide_paired(old, new, delta=result.delta, absolute_floor=result.absolute_floor).outcome
                )
        slower = [outcome for kind in kinds[1:] for outcome in outcomes[kind]]
        rows.append(
            StatisticRow(
                name,
                float(np.median(widths)) if widths else math.nan,
                outcomes[SAME].count(Outcome.REGRESSED),
                outcomes[SAME].count(Outcome.PASS),
                slower.count(Outcome.REGRESSED),
                [*outcomes[SAME], *slower].count(Outcome.INCONCLUSIVE),
            )
        )
    return rows


def summary(result: Selftest) -> dict[str, object]:
    """The result as plain JSON values, with every trial's rounds."""
    return {
        "model": result.model,
        "engine": result.engine,
        "batch": result.batch,
        "latency": result.latency,
        "delta": result.delta,
        "absolute_floor": result.absolute_floor,
        "seconds": result.seconds,
        "false_alarms": result.false_alarms,
        "passed_though_slower": result.passed_though_slower,
        "smallest_delta": result.smallest_delta if math.isfinite(result.smallest_delta) else None,
        "decision": verdict_to_json(result.status()),
        "statistics": [vars(row) for row in compare_statistics(result)],
        "trials": {
            kind.name: [
                {
                    **verdict_to_json(trial.verdict),
                    "prolonged": trial.prolonged,
                    "old": list(map(float, trial.old)),
                    "new": list(map(float, trial.new)),
                    "dropped": list(trial.race.dropped),
                }
                for trial in trials
            ]
            for kind, trials in result.trials.items()
        },
    }


def add(commands: Any) -> None:
    parser = commands.add_parser("selftest", help="how often the gate is wrong on this machine")
    add_options(parser.add_argument)
    parser.add_argument(
        "--races", type=positive, default=60, help="A/A races (default 60); two thirds as many of each slowdown"
    )
    parser.add_argument("--slowdown", type=percent, default=0.10, help="of the slowed arm (default 10%%)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every round of every race")
    parser.add_argument("--write", action="store_true", help="write the smallest delta to expectations.toml")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    require_own_outputs(options)
    if not options.model:
        options.model = ["efficientnet_lite0"]
    if not options.engine:
        options.engine = [SELFTEST_ENGINE[options.device or default_device()]]
    settings = settings_of(options)
    for option, given in (
        ("--model", settings.models),
        ("--engine", dict.fromkeys(options.engine)),
        ("--batch-size", dict.fromkeys(options.batch_size)),
    ):
        if len(given) > 1:
            names = " and ".join(map(str, list(given)[:2]))
            raise UserError(f"{option}: a selftest is on one engine of one model, and not on {names}; give one")
    spec = parse_spec(options.engine[0])
    availability = available(spec, settings.device)
    if not availability.ok:
        raise UserError(f"--engine {spec.id}: {availability}")
    name = settings.models[0]
    if options.write:
        require_own(settings.expectations.path, name, spec.id)
    expectation = settings.expectations.of(name, spec.id)
    # A slowdown equal to delta would be found half of the time by any rule: its median is on the line.
    delta = min(expectation.number("delta"), options.slowdown / 2)
    progress = console_progress()

    def tell(result: Selftest) -> bool:
        for line in selftest_lines(result):
            print(line)
        print(result.status())
        return is_written("--json", options.json, lambda: json.dumps(summary(result), indent=1))

    with Workbench(name, settings, progress) as bench:
        result = run_selftest(
            bench.engine(spec),
            bench.batch(settings.batch_sizes[0]),
            model=name,
            size=settings.batch_sizes[0],
            races=(options.races, max(1, options.races * 2 // 3)),
            slowdowns=(slowed(options.slowdown), HALF, STALL),
            expectation=Expectation({**expectation.values, "delta": delta}),
            schedule=SCHEDULES[settings.device],
            monitor=monitor_for(settings.device),
            progress=progress,
            cut_off=tell,
        )
    verdict, written = result.status(), tell(result)
    smallest, path = result.smallest_delta, settings.expectations.path
    if verdict.outcome not in GOOD or smallest >= options.slowdown:
        if options.write:
            why = verdict.message if verdict.outcome not in GOOD else f"{smallest:.1%} is no less than the slowdown"
            print(f"trtgate: --write refused, {path} is as it was: {why}", file=sys.stderr)
        status = exit_status([verdict.outcome])
        return status or (MISTAKE if not written else EXIT_INCONCLUSIVE if options.write else 0)
    if options.write:
        write_delta(path, name, spec.id, smallest)
        print(f"wrote delta = {smallest:g} for {name} {spec.id} to {path}")
    else:
        print(f"--write puts delta = {smallest:g} for {name} {spec.id} into {path}")
    return 0 if written else MISTAKE


def selftest_lines(result: Selftest) -> list[str]:
    """What a selftest found: what each slowdown came to, and what block statistics would have said."""
    outcomes = (Outcome.PASS, Outcome.IMPROVED, Outcome.INCONCLUSIVE, Outcome.INVALID, Outcome.REGRESSED)
    rows = []
    for kind, trials in result.trials.items():
        counts = [result.count(kind, outcome) for outcome in outcomes]
        wrong = counts[-1] if kind is SAME else counts[0] + counts[1]
        rows.append(cells(kind.name, len(trials), *counts, f"{binomial_upper(wrong, len(trials)):.1%}"))
    names = ("races", *(outcome.value for outcome in outcomes), "wrong, at most")
    races = Table((Column("second arm", text=True), *map(Column, names)), tuple(rows), grouped=0)
    names = ("width", "false alarms", "A/A passed", "caught", "inconclusive")
    statistics = Table(
        (Column("block statistic, first look", text=True), *map(Column, names)),
        tuple(
            cells(row.statistic, f"{row.width:.2%}", row.false_alarms, row.passed, row.caught, row.open)
            for row in compare_statistics(result)
        ),
        grouped=0,
    )
    prolonged = sum(trial.prolonged for trials in result.trials.values() for trial in trials)
    return [
        f"{result.model} {result.engine} batch {result.batch}: latency {milliseconds(result.latency)} ms, "
        f"delta {result.delta:.1%}, {result.seconds:.0f} s, {prolonged} took more than the first look",
        table_text(races),
        "wrong: REGRESSED against itself, PASS of a slowed arm; the bound holds with 95 % confidence",
        f"the smallest delta this machine can gate at: {result.smallest_delta:.1%}",
        table_text(statistics),
    ]
