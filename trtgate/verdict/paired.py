"""Interleaved arms: the round is the sample, and the rounds of two arms are paired.

Method: the confidence interval of a median from order statistics, the inversion of the sign test (Conover, *Practical
Nonparametric Statistics*, 3rd ed., 3.2; Hettmansperger and McKean, *Robust Nonparametric Statistical Methods*, 1.3).
It assumes rounds that are exchangeable, no shape of noise; noise that both arms of a round share cancels in the ratio.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trtgate.verdict.outcome import Outcome, Reason, Verdict

Floats = npt.NDArray[np.float64]

# One-sided error of each bound.
ALPHA = 0.005
# A race that is open is looked at after each of these numbers of rounds, and ALPHA is spent over the looks (Lan and
# DeMets 1983): the 1st, 2nd, 6th, 17th and 41st smallest and largest have 0.39, 0.05 and 3 x 0.02 %, 0.49 % together.
# Most goes to the first, at which a quiet machine is done.
LOOKS: Mapping[int, float] = {8: 0.004, 15: 0.0005, 30: 0.0002, 60: 0.0002, 120: 0.0002}


def bound_error(rounds: int) -> float:
    """One-sided error of a bound from that many rounds: what the look at them may spend."""
    return LOOKS.get(rounds, ALPHA)


@functools.cache
def rank_of_bound(rounds: int, alpha: float | None = None) -> int:
    """k such that the k-th smallest of `rounds` samples lies above the median with probability <= `alpha`, by default
    `bound_error`; 0 if none.

    The number of samples below the median is Bin(rounds, 1/2); the k-th smallest exceeds it when fewer than k are.
    """
    alpha = bound_error(rounds) if alpha is None else alpha
    tail = 0.0
    for k in range(rounds + 1):
        tail += math.comb(rounds, k) / 2.0**rounds
        if tail > alpha:
            return k
    return rounds


def require_times(times: Floats) -> None:
    """Raises ValueError for NaN, infinite, zero or negative times: a clock that says so measured nothing."""
    if not np.all(np.isfinite(times)) or np.any(times <= 0):
        raise ValueError("times must be finite and positive")


def interval(samples: Floats, alpha: float | None = None) -> tuple[float, float, float]:
    """Median of float64[R] samples and the bounds of its interval.

    Raises ValueError when there are too few samples for any bound.
    """
    k = rank_of_bound(samples.size, alpha)
    if k == 0:
        raise ValueError(f"{samples.size} rounds give no bound")
    ordered = np.sort(samples)
    return float(np.median(ordered)), float(ordered[k - 1]), float(ordered[-k])


@dataclass(frozen=True)
class Words:
    """How a metric's change is told: what worse and better are called, and an amount of it.

    What is better when it is higher is compared by its `inverse`, and told as it is.
    """

    worse: str = "slower"
    better: str = "faster"
    scale: float = 1e6
    unit: str = "us"
    inverse: bool = False

    def amount(self, value: float) -> str:
        return f"{value * self.scale:.0f} {self.unit}"

    def change(self, log_ratio: float) -> str:
        """A log ratio of what was compared, as a signed percentage of the metric itself."""
        return change_text(-log_ratio if self.inverse else log_ratio)

    def interval(self, change: Bounds) -> str:
        """An estimate with its bounds, the lower one first."""
        bounds = sorted((change.low, change.high), reverse=self.inverse)
        return f"{self.change(change.estimate)} [{', '.join(map(self.change, bounds))}]"


SLOWER = Words()


def decide_paired(
    old: Floats, new: Floats, *, delta: float, absolute_floor: float = 0.0, words: Words = SLOWER
) -> Verdict:
    """Whether `new` is slower than `old` by more than `delta` (0.03 is 3 %), both float64[R] seconds, same rounds.

    With d_r = log(new_r / old_r), L and U the bounds of its median: REGRESSED iff L > 0 and the median is beyond
    log(1 + delta); IMPROVED is its mirror; PASS iff U < log(1 + delta). A difference below `absolute_floor` seconds is
    never a regression, and passes when its upper bound is below it, unless it is more than EXCUSED times delta. Else
    INCONCLUSIVE.

    Raises ValueError for arms of different lengths, and for NaN, zero or negative times.
    """
    if old.shape != new.shape or old.ndim != 1:
        raise ValueError("the arms must have the same rounds")
    require_times(old)
    require_times(new)
    if rank_of_bound(old.size) == 0:
        return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_ROUNDS, f"{old.size} rounds are too few for a verdict")
    changes = np.log(new / old)
    verdict = decide_by_bounds(
        Bounds(*interval(changes)),
        Bounds(*interval(new - old)),
        delta,
        absolute_floor,
        words=words,
    )
    return replace(verdict, p=sign_test(changes))


def sign_test(changes: Floats) -> float:
    """One-sided p of float64[R] changes against no change: as many that are not positive, from R fair coins."""
    fair = float(0.5**changes.size)
    return fair * sum(math.comb(changes.size, k) for k in range(int(np.sum(changes <= 0)) + 1))


# So many times delta is the most that an absolute floor excuses.
EXCUSED = 2.0


# Two logarithms of one number may differ by it, one of them taken in a vector of others.
ROUNDING = 1e-12


def most_excused(delta: float, words: Words) -> float:
    """The log ratio beyond which no change is too small to count, whatever the absolute floor.

    A floor in microseconds is for what a clock cannot tell, and hides nothing that is much more than delta. Those of
    other units are by what two processes differ, however much that is of a small one.
    """
    return math.log1p(EXCUSED * delta) if words.unit == SLOWER.unit else math.inf


@dataclass(frozen=True)
class Bounds:
    """An estimate with the bounds of its interval."""

    estimate: float
    low: float
    high: float


def decide_by_bounds(
    change: Bounds, absolute: Bounds, delta: float, absolute_floor: float, of: str = "", words: Words = SLOWER
) -> Verdict:
    """The rule that paired rounds and processes share: `change` as a log ratio, `absolute` in the metric's own unit.

    Larger is worse. `of` says what the bounds come from, for the message.
    """
    limit = math.log1p(delta)
    ratio: dict[str, Any] = {
        "estimate": math.exp(change.estimate),
        "low": math.exp(change.low),
        "high": math.exp(change.high),
    }
    text = f"{words.interval(change)}{of}"
    small = most_excused(delta, words)
    counts = absolute.estimate > absolute_floor or change.estimate > small
    if change.low > ROUNDING and change.estimate > limit and counts:
        return Verdict(Outcome.REGRESSED, Reason.SLOWER, f"{words.worse} by {text}, delta is {delta:.1%}", **ratio)
    if change.high < -ROUNDING and change.estimate < -limit and -absolute.estimate > absolute_floor:
        return Verdict(Outcome.IMPROVED, Reason.FASTER, f"{words.better}: {text}, delta is {delta:.1%}", **ratio)
    if change.high < limit:
        return Verdict(Outcome.PASS, Reason.WITHIN_DELTA, f"{text}, within {delta:.1%}", **ratio)
    if absolute.high < absolute_floor and change.high < small:
        message = f"{text}, at most {words.amount(absolute.high)} and below the absolute floor"
        return Verdict(Outcome.PASS, Reason.WITHIN_ABSOLUTE_FLOOR, message, **ratio)
    message = f"{text} neither excludes {delta:.1%} nor shows it"
    return Verdict(Outcome.INCONCLUSIVE, Reason.INTERVAL_TOO_WIDE, message, **ratio)


def decide_floor(reference: Floats, engine: Floats, *, floor: float | None) -> Verdict:
    """Whether the speedup reference / engine, float64[R] seconds each and paired by round, reaches `floor`.

    PASS iff the lower bound reaches it, REGRESSED iff the upper bound does not, else INCONCLUSIVE. Raises ValueError
    as `decide_paired` does.
    """
    if reference.shape != engine.shape or reference.ndim != 1:
        raise ValueError("the arms must have the same rounds")
    require_times(reference)
    require_times(engine)
    if rank_of_bound(reference.size) == 0:
        message = f"{reference.size} rounds are too few for a verdict"
        return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_ROUNDS, message)
    median, low, high = (math.exp(value) for value in interval(np.log(reference / engine)))
    ratio: dict[str, Any] = {"estimate": median, "low": low, "high": high}
    text = f"speedup {median:.2f} [{low:.2f}, {high:.2f}]"
    if floor is None:
        return Verdict(Outcome.PASS, Reason.NO_FLOOR, f"{text}, no floor is set", **ratio)
    if low >= floor:
        return Verdict(Outcome.PASS, Reason.FLOOR_MET, f"{text} reaches the floor {floor:g}", **ratio)
    if high < floor:
        return Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, f"{text} is below the floor {floor:g}", **ratio)
    return Verdict(Outcome.INCONCLUSIVE, Reason.INTERVAL_TOO_WIDE, f"{text} straddles the floor {floor:g}", **ratio)


def change_text(log_ratio: float) -> str:
    """A log ratio as a signed percentage, without a negative zero."""
    text = f"{math.expm1(log_ratio):+.1%}"
    return "+0.0%" if text == "-0.0%" else text
