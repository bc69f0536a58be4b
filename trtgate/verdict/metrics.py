"""Every number that is gated, as data: its unit, its direction, its rule and where its limit stands.

One more metric is one entry of METRICS, a value in a record's `series` and, where it is to be gated, a key of
expectations.toml. Tables, JSON, comparison and exit status follow from the entry.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Literal, overload

import numpy as np
import numpy.typing as npt

from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.paired import SLOWER, Words, change_text
from trtgate.verdict.processes import ALPHA as INTERLEAVED_ALPHA
from trtgate.verdict.processes import decide_interleaved, decide_processes
from trtgate.verdict.sessions import ALPHA as SESSION_ALPHA
from trtgate.verdict.sessions import LOOK_ALPHA, beyond_all, decide_sessions, fewest, more_are_odd
from trtgate.verdict.shape import tail_mean, tail_means
from trtgate.verdict.tails import decide_tails

Floats = npt.NDArray[np.float64]
# How the sides were measured: round by round in turns, or one after the other, in sessions of one process each or in
# processes that a run may add to while it compares.
Pairing = Literal["interleaved", "sessions", "processes"]


NOTHING: Floats = np.empty(0)


class Blocks(Sequence[Floats]):
    """Blocks of iterations, one after the other in `times`, float64[N]; each is cut out when it is asked for."""

    def __init__(self, times: Floats, lengths: Sequence[int]) -> None:
        self.times, self.lengths = times, lengths

    @functools.cached_property
    def ends(self) -> list[int]:
        """Where each block ends."""
        return list(accumulate(self.lengths))

    @classmethod
    def of(cls, blocks: Sequence[Floats]) -> Blocks:
        """Blocks that lie wherever they do."""
        return blocks if isinstance(blocks, cls) else cls(np.concatenate(blocks), [each.size for each in blocks])

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Floats: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Floats]: ...
    def __getitem__(self, index: int | slice) -> Floats | Sequence[Floats]:
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        end = self.ends[index]
        return self.times[end - self.lengths[index] : end]


@dataclass(frozen=True)
class Sample:
    """What one process measured of one engine: numbers by name, and the iterations of each round of two series.

    `series` maps a name to float64[R] rounds, or to a single number; `blocks` maps "latency" and "end_to_end" to R
    blocks of float64[n] seconds. What was not measured is left out, and NaN where it is one of several processes that
    has not measured it.
    """

    series: Mapping[str, Floats]
    blocks: Mapping[str, Sequence[Floats]]

    def get(self, name: str) -> Floats:
        """A series, float64[0] where it was not measured."""
        return self.series.get(name, NOTHING)

    def require_split(self, rounds: Sequence[int]) -> None:
        """Raises ValueError for a series that has neither one number, nor one for each round or process."""
        for name, values in self.series.items():
            if values.size not in {1, len(rounds), sum(rounds)}:
                raise ValueError(f"{name} fits neither {sum(rounds)} rounds nor {len(rounds)} processes")

    def split(self, rounds: Sequence[int]) -> tuple[Sample, ...]:
        """A sample for each process, given how many of the rounds were whose.

        A series has a number for each round or for each process; one that has a single number is everybody's. Raises
        ValueError for a series of another length.
        """
        self.require_split(rounds)
        ends = np.cumsum(rounds)
        series = [
            {name: _of(values, index, len(rounds), end - count, end) for name, values in self.series.items()}
            for index, (count, end) in enumerate(zip(rounds, ends, strict=True))
        ]
        blocks = [
            {name: some[end - count : end] for name, some in self.blocks.items()}
            for count, end in zip(rounds, ends, strict=True)
        ]
        return tuple(map(Sample, series, blocks))


def _of(values: Floats, index: int, processes: int, start: int, end: int) -> Floats:
    """What is one process's of a series, nothing where it has not measured it."""
    if values.size == 1:
        return values
    own = values[index : index + 1] if values.size == processes else values[start:end]
    return NOTHING if np.isnan(own).any() else own


@dataclass(frozen=True)
class Limits:
    """What the file says of one metric of one engine.

    `delta` is how much worse it may get (0.05 is 5 %; None: it is shown, not gated), `absolute_floor` in its own unit,
    `spread` the difference of two sessions of one stack (0.03 is 3 %).
    """

    delta: float | None
    absolute_floor: float = 0.0
    spread: float | None = None


@dataclass(frozen=True)
class Metric:
    """One gated number.

    `read` gives a process's rounds, or its single number, or nothing. `limit` is its key in expectations.toml and
    `delta` what holds without one. `least` is the smallest change that counts, in the metric's unit; None takes the
    file's `absolute_floor_us`, in seconds; `amount` is the metric that a change of one with another unit is a share of,
    `share_of` the one that the limit is a share of, where that is another. `of_host` says that beside a GPU it is the
    host's number, too ("handed over": of an engine of which handing its work over is most of it), but for the GPU's own
    time, `of_gpu`, where that is in it.
    """

    name: str
    unit: Literal["s", "bytes", "1/s", "x"]
    about: str
    read: Callable[[Sample], Floats]
    limit: str
    delta: float | None
    rule: Literal["rounds", "tail", "number", "builds"] = "rounds"
    higher_is_better: bool = False
    least: float | None = None
    amount: str | None = None
    share_of: str | None = None
    of_host: Literal["", "always", "handed over"] = ""
    of_gpu: str | None = None
    blocks: str = "latency"
    words: Words = SLOWER

    def value(self, sample: Sample) -> float | None:
        """The process's number; None where it was not measured."""
        found = self.read(sample)
        known = found[~np.isnan(found)]
        return median(known.tolist()) if known.size else None


def median(values: Iterable[float]) -> float:
    """The median of a few numbers; numpy's own takes ten times as long for them."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return float(ordered[middle]) if len(ordered) % 2 else float(ordered[middle - 1] + ordered[middle]) / 2


# One number for each process, float64[P], by the name of its metric; NaN where that process has not measured it, and
# nothing where none has.
Numbers = Mapping[str, Floats]


def numbers_of(samples: Sequence[Sample]) -> dict[str, Floats]:
    """What all metrics come to in these processes."""
    some = [metric for metric in METRICS if any(metric.read(sample).size for sample in samples)]
    found = {metric.name: [metric.value(sample) for sample in samples] for metric in some}
    return {
        name: np.array([np.nan if value is None else value for value in values], np.float64)
        for name, values in found.items()
    }


def numbers_of_processes(whole: Sample, rounds: Sequence[int]) -> dict[str, Floats]:
    """`numbers_of(whole.split(rounds))`; all processes at once where each has as many rounds, as most sessions have."""
    count = len(rounds)
    if count < 2 or len(set(rounds)) > 1 or rounds[0] < 2:
        return numbers_of(whole.split(rounds) if rounds else [whole])
    found = {}
    for metric in METRICS:
        some = whole.blocks.get(metric.blocks, ()) if metric.rule == "tail" else ()
        if len(some):
            blocks = Blocks.of(some)
            if len(blocks) < rounds[0]:
                raise ValueError(f"{metric.name} has {len(blocks)} rounds where a process has {rounds[0]}")
            ends = blocks.ends[rounds[0] - 1 :: rounds[0]]
            times = blocks.times[: ends[-1]]
            if ends == list(range(ends[0], ends[-1] + 1, ends[0])):
                found[metric.name] = tail_means(times.reshape(len(ends), -1))
            else:
                found[metric.name] = np.array([tail_mean(each) for each in np.split(times, ends[:-1])])
            continue
        values = metric.read(whole)
        if values.size not in {0, 1, count, count * rounds[0]}:
            raise ValueError(f"{metric.name} fits neither {count * rounds[0]} rounds nor {count} processes")
        if values.size == count * rounds[0]:
            ordered = np.sort(values.reshape(count, -1), 1)
            middle = rounds[0] // 2
            values = ordered[:, middle] if rounds[0] % 2 else (ordered[:, middle - 1] + ordered[:, middle]) / 2
        if values.size:
            found[metric.name] = np.full(count, values[0]) if values.size == 1 else values
    return found


def joined_numbers(some: Sequence[Numbers]) -> dict[str, Floats]:
    """Those of several sessions, one after the other; each has at least one metric."""
    sizes = [next(iter(each.values())).size for each in some]
    return {
        name: np.concatenate([each.get(name, np.full(size, np.nan)) for each, size in zip(some, sizes, strict=True)])
        for name in dict.fromkeys(chain.from_iterable(some))
    }


def _series(name: str) -> Callable[[Sample], Floats]:
    return lambda sample: sample.get(name)


def _tail(name: str) -> Callable[[Sample], Floats]:
    def read(sample: Sample) -> Floats:
        blocks = sample.blocks.get(name, ())
        return np.array([tail_mean(np.concatenate(blocks))]) if len(blocks) else sample.get(TAIL_OF[name])

    return read


TAIL_OF = {"latency": "tail", "end_to_end": "end_to_end_tail"}


def _speedup(sample: Sample) -> Floats:
    reference, own = sample.get("reference_latency"), sample.get("latency")
    return reference / own if reference.size == own.size else NOTHING


def _cycles(sample: Sample) -> Floats:
    clock = sample.get("clock_hz")
    return sample.get("latency") * clock[0] if clock.size else NOTHING


MEGABYTES = Words("more", "less", 1e-6, "MB")
SECONDS = Words("slower", "faster", 1.0, "s")
HIGHER = Words("lower", "higher", inverse=True)

METRICS: tuple[Metric, ...] = (
    Metric(
        "latency",
        "s",
        "fastest iteration of a block (GPU: median), median over rounds",
        _series("latency"),
        "delta",
        0.05,
    ),
    Metric(
        "typical",
        "s",
        "mean of the middle half of a block's iterations, median over rounds",
        _series("typical"),
        "typical",
        0.10,
    ),
    Metric(
        "tail",
        "s",
        "mean of the slowest 5 % of all iterations",
        _tail("latency"),
        "tail",
        0.25,
        rule="tail",
        # On a loud machine the slowest calls take half as long again as the typical one anyway; there a quarter of
        # their own length would let 2 % of the calls take twice as long.
        share_of="typical",
    ),
    Metric(
        "end_to_end",
        "s",
        "with both copies, by the host's clock (GPU)",
        _series("end_to_end"),
        "end_to_end",
        0.10,
        of_host="always",
        of_gpu="latency",
    ),
    Metric(
        "end_to_end_tail",
        "s",
        "mean of the slowest 5 % of all end-to-end iterations (GPU)",
        _tail("end_to_end"),
        "end_to_end_tail",
        0.50,
        rule="tail",
        share_of="end_to_end",
        of_host="always",
        of_gpu="latency",
        blocks="end_to_end",
    ),
    Metric(
        "cycles",
        "x",
        "latency times the clock, where the clock is known",
        _cycles,
        "delta",
        0.05,
        amount="latency",
    ),
    Metric(
        "speedup",
        "x",
        "eager PyTorch's latency over the engine's, round by round",
        _speedup,
        "speedup_delta",
        None,
        higher_is_better=True,
        amount="latency",
        words=HIGHER,
    ),
    Metric(
        "throughput",
        "1/s",
        "images per second of several streams",
        _series("throughput"),
        "throughput",
        0.05,
        rule="number",
        higher_is_better=True,
        of_host="handed over",
        least=0.0,
        words=HIGHER,
    ),
    Metric(
        "device_memory",
        "bytes",
        "on the GPU after weights, context and first run, from the driver",
        _series("device_memory"),
        "device_memory",
        0.05,
        rule="number",
        least=8e6,
        words=MEGABYTES,
    ),
    Metric(
        "host_memory",
        "bytes",
        "of a fresh process after load and first run",
        _series("host_memory"),
        "host_memory",
        0.05,
        rule="number",
        least=32e6,  # in processes of one stack on an H100 the same load took 58 or 87 MB, as the allocator chose
        words=MEGABYTES,
    ),
    Metric(
        "cold_start",
        "s",
        "load and first inference in a fresh process",
        _series("cold_start"),
        "cold_start",
        1.00,
        rule="number",
        of_host="always",
        least=0.1,
        words=SECONDS,
    ),
    Metric(
        "build_seconds",
        "s",
        "building the plan",
        _series("build_seconds"),
        "build_seconds",
        0.50,
        rule="builds",
        of_host="always",
        least=1.0,
        words=SECONDS,
    ),
    Metric(
        "plan_bytes",
        "bytes",
        "the plan on disk",
        _series("plan_bytes"),
        "plan_bytes",
        0.05,
        rule="builds",
        least=1e6,
        words=MEGABYTES,
    ),
)
BY_NAME: Mapping[str, Metric] = {metric.name: metric for metric in METRICS}


def limits_on(metric: Metric, limits: Limits, old: Numbers) -> Limits:
    """The limits as shares of the metric itself, given what the old side measured."""
    of, own = (old.get(name, NOTHING) for name in (metric.share_of or "", metric.name))
    of, own = of[~np.isnan(of)], own[~np.isnan(own)]
    if limits.delta is None or not of.size or not own.size:
        return limits
    return replace(limits, delta=limits.delta * min(1.0, float(np.median(of) / np.median(own))))


def decide(
    metric: Metric, old: Sequence[Sample], new: Sequence[Sample], limits: Limits, pairing: Pairing
) -> Verdict | None:
    """The verdict on one metric of one engine; None where the old side has not measured it.

    Each sample is a process. A metric that the old side has and the new one lacks is REGRESSED (missing). Without a
    limit the verdict is what the rule finds at a delta of 5 %, and `gated` of the comparison says that it decides
    nothing.
    """
    before, after = ([sample for sample in side if metric.read(sample).size] for side in (old, new))
    if pairing == "interleaved" and metric.rule in {"rounds", "tail"} and before and len(after) == len(new):
        own = limits_on(metric, limits, numbers_of(before)) if metric.share_of else limits
        return replace(_decide_interleaved(metric, before, after, own), metric=metric.name)
    return decide_numbers(metric, numbers_of(old), numbers_of(new), limits, pairing, lambda: within(metric, before))


def decide_numbers(
    metric: Metric, old: Numbers, new: Numbers, limits: Limits, pairing: Pairing, within: Callable[[], float]
) -> Verdict | None:
    """`decide` on what is not interleaved round by round, where one number of each process is enough.

    `within` tells how far the rounds of one old process lie apart, where few processes make that count.
    """
    processes = max((values.size for values in new.values()), default=0)
    before, after = (side.get(metric.name, NOTHING) for side in (old, new))
    known = ~np.isnan(before)
    before, after = before[known], after[~np.isnan(after)]
    if not before.size:
        return None
    # What as large a share of the old side's processes has not measured either is no upgrade's.
    if (processes - after.size) * known.size > (known.size - before.size) * processes or not after.size:
        missing = "was measured before and is not now"
        what = f"is missing in {processes - after.size} of {processes}" if after.size else missing
        return Verdict(Outcome.REGRESSED, Reason.MISSING, f"{metric.name} {what}", metric=metric.name)
    delta, floor = _limits(metric, limits_on(metric, limits, old))
    if metric.rule == "builds":
        return replace(_decide_builds(metric, before, after, delta, floor), metric=metric.name)
    alpha = SAMPLE_ALPHA[pairing]
    # What has no seconds of its own is held against the floor as the seconds that its change amounts to.
    amount = old[metric.amount][known] if metric.amount else before
    before, after = (side ** (-1 if metric.higher_is_better else 1) for side in (before, after))
    scale = float(np.median(amount) / np.median(before)) if metric.amount else 1.0
    few = min(before.size, after.size) < fewest(alpha)
    verdict = decide_sessions(
        before,
        after,
        delta=delta,
        absolute_floor=floor,
        spread=max(limits.spread, within()) if few and limits.spread is not None else None,
        amounts=(scale * before, scale * after),
        words=metric.words,
        alpha=alpha,
        pass_alpha=TAIL_ALPHA if metric.rule == "tail" and pairing == "processes" else None,
        of="sessions" if pairing == "sessions" else "processes",
    )
    return replace(_told(verdict) if metric.higher_is_better else verdict, metric=metric.name)


# Of the new side's processes so many may be left out for a machine that was slow, as so many may be lost.
LEFT_OUT_SHARE = 0.2


def uncounted_doubts(
    metric: Metric,
    verdict: Verdict,
    counted: tuple[Numbers, Numbers],
    uncounted: tuple[Numbers, Numbers],
    limits: Limits,
) -> Verdict:
    """A good verdict on a metric, opened where too many of the new side's processes do not count and are worse than all
    of the old side, even than those of it that do not count: what moved fixed work and slowed the engine in a
    part of the processes may be the stack. Each pair is of the old side and the new one.

    What is made of a latency goes with that.
    """
    if limits.delta is None or metric.amount:
        return verdict
    delta, floor = _limits(metric, limits_on(metric, limits, counted[0]))
    before, slow = (_worse(metric, side) for side in ([counted[0], uncounted[0]], [uncounted[1]]))
    beyond = beyond_all((np.log(before), np.log(slow)), (before, slow), delta, floor, metric.words)
    processes = slow.size + counted[1][metric.name].size
    most, told = max(1.0, LEFT_OUT_SHARE * processes), "than all before by more"
    if beyond <= most:
        usual, left = (_worse(metric, [side[0]]) for side in (counted, uncounted))
        typical, sizes = (float(np.median(np.log(usual))), float(np.median(usual))), (before.size, processes)
        odd = more_are_odd((np.log(left), np.log(slow)), (left, slow), typical, sizes, delta, floor, metric.words)
        if odd is None or odd[1] <= most:
            return verdict
        beyond, told = odd[1], f"by more than {2 * delta:.0%}, as {odd[0]} of {before.size} were before"
    message = (
        f"{verdict.message}; but {beyond} of {processes} processes do not count, since fixed work took another time, "
        f"and they are {metric.words.worse} {told}: the machine, or the stack? Measure again"
    )
    return replace(verdict, outcome=Outcome.INCONCLUSIVE, reason=Reason.PROCESS_SPREAD, message=message)


def _worse(metric: Metric, some: Sequence[Numbers]) -> Floats:
    """What was measured of a metric, the larger the worse."""
    found = np.concatenate([each.get(metric.name, NOTHING) for each in some])
    worse: Floats = found[~np.isnan(found)] ** (-1 if metric.higher_is_better else 1)
    return worse


def _told(verdict: Verdict) -> Verdict:
    """A verdict on the inverse of a metric, with the ratios of the metric itself."""
    estimate, high, low = (1 / each if each else None for each in (verdict.estimate, verdict.low, verdict.high))
    return replace(verdict, estimate=estimate, low=low, high=high)


def _limits(metric: Metric, limits: Limits) -> tuple[float, float]:
    """By how much a metric may get worse, as a share and in its own unit."""
    delta = NO_LIMIT_DELTA if limits.delta is None else limits.delta
    return delta, limits.absolute_floor if metric.least is None else metric.least


def _decide_interleaved(metric: Metric, old: Sequence[Sample], new: Sequence[Sample], limits: Limits) -> Verdict:
    delta, floor = _limits(metric, limits)
    if metric.rule == "rounds":
        return decide_processes(
            [metric.read(each) for each in old],
            [metric.read(each) for each in new],
            delta=delta,
            absolute_floor=floor,
            words=metric.words,
        )
    tails = decide_tails(
        _joined(old, metric.blocks),
        _joined(new, metric.blocks),
        delta=delta,
        absolute_floor=floor,
        words=metric.words,
    )
    before, after = (np.array([metric.value(each) for each in side], np.float64) for side in (old, new))
    return decide_interleaved(tails, before, after, delta, floor, metric.words)


SAMPLE_ALPHA: Mapping[Pairing, float] = {
    "interleaved": INTERLEAVED_ALPHA,
    "sessions": SESSION_ALPHA,
    "processes": LOOK_ALPHA,
}
# Of processes of a third of a second, whose slowest calls differ by 5 to 20 % (standard deviation): at LOOK_ALPHA all
# tails of 16 against 8 passed in one of ten runs. What is to be seen lies far beyond the limit.
TAIL_ALPHA = 0.05
# What an ungated metric is described at.
NO_LIMIT_DELTA = 0.05


def _joined(samples: Sequence[Sample], name: str) -> list[Floats]:
    """The iterations of each round, of all processes that took turns in it."""
    return [np.concatenate(blocks) for blocks in zip(*(sample.blocks[name] for sample in samples), strict=True)]


def within(metric: Metric, samples: Sequence[Sample]) -> float:
    """How far the rounds of one process lie apart, from the first to the ninth decile, as a log ratio: the widest."""
    rounds = [values for values in map(metric.read, samples) if values.size]
    spans = [np.diff(np.percentile(np.log(values), [10, 90]))[0] for values in rounds]
    return max(map(float, spans), default=0.0)


# By how much the times of two builds of one plan differ on a machine that others use too, as a share.
BUILD_SPREAD = 0.3


def _decide_builds(metric: Metric, old: Floats, new: Floats, delta: float, floor: float) -> Verdict:
    """What a build costs or weighs, of which sessions that share a plan know one: each distinct number is a build.

    PASS when none of the new builds is beyond all of the old ones by more than the limit, where one old one of three or
    more that is so itself excuses none. Else sizes, which are the same every time, are REGRESSED once all are; of times
    the rule is that of sessions: five builds a side for a bound, and with fewer only what is far beyond what builds
    differ by.
    """
    before, after = (np.unique(side) for side in (old, new))
    last = np.sort(old)[-2:] if old.size > 2 else before[-1:]
    usual = last[0] if last[-1] > last[0] * (1 + delta) else last[-1]
    change, more = float(np.log(after[-1] / usual)), float(after[-1] - usual)
    builds = f"from {after.size} against {before.size} builds"
    largest = f"{change_text(change)} ({metric.words.amount(more)}) at most, {builds}"
    estimate = float(np.median(after) / np.median(before))
    if change <= np.log1p(delta) or more <= floor:
        return Verdict(Outcome.PASS, Reason.WITHIN_DELTA, f"{largest}, within {delta:.0%}", estimate=estimate)
    if metric.unit == "bytes":
        if after[0] > before[-1]:
            message = f"{metric.words.worse} by {largest}, delta is {delta:.0%}"
            return Verdict(Outcome.REGRESSED, Reason.SLOWER, message, estimate=estimate)
        message = f"{largest}, beyond {delta:.0%}, and others are not; build more"
        return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_BUILDS, message, estimate=estimate)
    verdict = decide_sessions(
        before, after, delta=delta, absolute_floor=floor, spread=BUILD_SPREAD, words=metric.words, of="builds"
    )
    if verdict.reason is not Reason.UNDERPOWERED:
        return verdict
    return replace(verdict, reason=Reason.TOO_FEW_BUILDS, message=f"{largest}, beyond {delta:.0%}; build more")
