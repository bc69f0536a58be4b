"""Several processes a side, all raced in the same rounds: the rounds and the processes are both samples.

Two processes that run the same plan differ by more than their rounds show: in addresses, in thread placement and, where
each has a plan of its own, in the kernels that its builder chose by timing them. Rounds within one pair of processes
cannot tell that from a new version. So a round's number of a side is the median over its processes, the paired rule
gives an interval from the rounds, and the Hodges-Lehmann bounds (as in `sessions`) one from the processes. The
verdict rests on the wider bound at either end.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from trtgate.verdict import sessions
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.paired import (
    SLOWER,
    Bounds,
    Floats,
    Words,
    change_text,
    decide_by_bounds,
    decide_paired,
    interval,
)

# One-sided error of a bound from processes. The rounds' own bounds are at 0.5 %: these here need not prove a change,
# only exclude that a few processes made it. 6 a side then bear one that is far off; 3 a side bear none.
ALPHA = 0.05


def medians(processes: Sequence[Floats]) -> Floats:
    """Median seconds, float64[P], of P processes of float64[R] rounds each."""
    return np.array([np.median(rounds) for rounds in processes])


def spread_text(seconds: Floats) -> str:
    """From the fastest to the slowest, in milliseconds."""
    return f"{seconds.min() * 1e3:.3f} to {seconds.max() * 1e3:.3f} ms"


def decide_processes(
    old: Sequence[Floats],
    new: Sequence[Floats],
    *,
    delta: float,
    absolute_floor: float = 0.0,
    words: Words = SLOWER,
) -> Verdict:
    """Whether the new side is slower than the old one by more than `delta`, each side P times float64[R] seconds.

    With one process a side this is `decide_paired`. What the rounds alone would decide, and the processes do not bear
    out, is INCONCLUSIVE (process_spread). Raises ValueError as `decide_paired` does, and for an empty side.
    """
    if not old or not new:
        raise ValueError("both sides need a process")
    before, after = np.median(np.stack(old), 0), np.median(np.stack(new), 0)
    by_rounds = decide_paired(before, after, delta=delta, absolute_floor=absolute_floor, words=words)
    if by_rounds.low is None:
        return by_rounds
    return decide_interleaved(
        by_rounds, medians(old), medians(new), delta, absolute_floor, words, interval(after - before)
    )


def decide_interleaved(
    by_rounds: Verdict,
    old: Floats,
    new: Floats,
    delta: float,
    absolute_floor: float,
    words: Words = SLOWER,
    amounts: tuple[float, float, float] | None = None,
) -> Verdict:
    """What the rounds decided, `by_rounds`, on the wider of their bounds and those of float64[P] processes a side.

    `amounts` are the rounds' estimate and bounds of the difference in the metric's unit; without them the processes'
    alone are held against `absolute_floor`.
    """
    if by_rounds.low is None or by_rounds.estimate is None or by_rounds.high is None or min(old.size, new.size) == 1:
        return by_rounds
    rank = sessions.rank_of_bound(old.size, new.size, ALPHA)
    processes = f"(old {spread_text(old)}, new {spread_text(new)} over {new.size} processes)"
    if rank == 0:
        message = f"{new.size} processes a side are too few for a bound {processes}"
        return dataclasses.replace(by_rounds, outcome=Outcome.INCONCLUSIVE, reason=Reason.UNDERPOWERED, message=message)
    differences = new[:, None] - old
    change = (math.log(by_rounds.estimate), math.log(by_rounds.low), math.log(by_rounds.high))
    verdict = decide_by_bounds(
        _wider(change, np.log(new)[:, None] - np.log(old), rank),
        _wider(amounts or (float(np.median(differences)), math.inf, -math.inf), differences, rank),
        delta,
        absolute_floor,
        words=words,
    )
    by_processes = sessions.shift_test(np.log(old), np.log(new))
    known = [p for p in (by_rounds.p, by_processes) if p is not None]
    verdict = dataclasses.replace(verdict, p=max(known, default=None))
    if verdict.outcome is Outcome.INCONCLUSIVE and by_rounds.outcome is not Outcome.INCONCLUSIVE:
        message = f"{verdict.message}: processes of one side differ as much {processes}"
        return dataclasses.replace(verdict, reason=Reason.PROCESS_SPREAD, message=message)
    return verdict


def _wider(by_rounds: tuple[float, float, float], differences: Floats, rank: int) -> Bounds:
    """The rounds' estimate, between the outer ones of the rounds' bounds and those of all pairs of processes."""
    estimate, low, high = by_rounds
    ordered = np.sort(differences.ravel())
    return Bounds(estimate, min(low, float(ordered[rank - 1])), max(high, float(ordered[-rank])))


def unlucky_builds(builds: Sequence[Floats], delta: float) -> list[str]:
    """A sentence for every build, float64[R] seconds, that is beyond its side's median build by more than `delta`."""
    seconds = medians(builds)
    middle = float(np.median(seconds))
    return [
        f"build {index + 1} of {len(builds)} is slower than its side's median build by "
        f"{change_text(math.log(each / middle))}: an unlucky choice of kernels, not the version"
        for index, each in enumerate(seconds)
        if math.log(each / middle) > math.log1p(delta)
    ]
