"""The slowest calls of two interleaved arms.

Few rounds, or short ones, have no tail of their own, and cannot be the sample. They are what is drawn with replacement,
both arms of a round together (the cluster bootstrap: Davison and Hinkley, *Bootstrap Methods and their Application*,
3.8), and the tail is taken over all iterations of what was drawn. The percentile interval of a few rounds is too short,
as one with a normal quantile and the variance of n in place of n - 1 would be; it is stretched by what that lacks (the
expanded percentile interval: Hesterberg, *What Teachers Should Know About the Bootstrap*, The American Statistician
2015).

Where the rounds are many and long enough, each group of them has a tail, too, and the groups are judged as rounds are
elsewhere: rare stalls that lie in every third group widen a mean's interval, and a median's hardly. So a slowdown is
asked for both ways, each with half of what may err. A median is blind to what is in a few rounds of one arm alone, so
it is not asked whether there is none.

Arms take turns within a round, and what makes both of them slow there is the machine's: such rounds are left out, as
those are that the monitor saw somebody in.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.paired import (
    SLOWER,
    Bounds,
    Words,
    bound_error,
    decide_by_bounds,
    interval,
    require_times,
    sign_test,
)
from trtgate.verdict.sessions import student_tail
from trtgate.verdict.shape import TAIL_CAP, TAIL_SHARE, midmean, tail_mean

Floats = npt.NDArray[np.float64]

# Enough for the 0.4 % quantile of 8 rounds to move by less than a tenth of the interval between seeds; the later looks'
# quantiles then lie among the outermost draws.
DRAWS = 2000
# A group of rounds has a tail of its own from so many calls of each arm on; and so few groups have bounds that are not
# their outermost, at any look.
GROUP_CALLS = 80
FEWEST_GROUPS = 30
# Beyond the upper quartile by so many times what lies between the quartiles: far out (Tukey 1977).
FAR_OUT = 3.0
# Where more of the rounds are so in both arms it is no exception; where one arm is by so many times more than the
# other, the machine alone did not do it.
MOST_LEFT_OUT = 0.05
MOST_UNLIKE = 8.0
# Fewer rounds hardly differ from one another, and the interval would be too short.
MIN_ROUNDS = 8


def decide_tails(
    old: Sequence[Floats],
    new: Sequence[Floats],
    *,
    delta: float,
    absolute_floor: float = 0.0,
    words: Words = SLOWER,
) -> Verdict:
    """Whether the slowest calls of `new` became slower by more than `delta`: R blocks of seconds a side, same rounds.

    The blocks of a side may come from several processes that took turns in the same rounds. Raises ValueError for
    sides of different lengths, and for NaN, zero or negative times.
    """
    if len(old) != len(new):
        raise ValueError("the arms must have the same rounds")
    if len(old) < MIN_ROUNDS:
        return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_ROUNDS, f"{len(old)} rounds are too few for a verdict")
    for block in (*old, *new):
        require_times(block)
    together = -(-GROUP_CALLS // min(block.size for block in (*old, *new)))
    error = bound_error(len(old))
    if len(old) // together < FEWEST_GROUPS:
        return _decided(_by_drawing(old, new, _plain(old, new), error), delta, absolute_floor, words)
    calm, whole = ~_disturbed(old, new), _plain(old, new)
    left_out, plain = int(np.sum(~calm)), whole
    if left_out:
        old, new = ([side[int(index)] for index in np.flatnonzero(calm)] for side in (old, new))
        plain = _plain(old, new)
    # Each may err by half.
    drawn, grouped = (
        _decided(found, delta, absolute_floor, words)
        for found in (
            _up_to(whole, _by_drawing(old, new, plain, error / 2)),
            _by_groups(old, new, plain, len(old) // together, error / 2),
        )
    )
    chosen = grouped if grouped.outcome is Outcome.REGRESSED else drawn
    known = [verdict.p for verdict in (drawn, grouped) if verdict.p is not None]
    told = f"; without {left_out} of {len(calm)} rounds, in which both were disturbed" if left_out else ""
    return replace(chosen, message=chosen.message + told, p=min(1.0, 2 * min(known)) if known else None)


def _disturbed(old: Sequence[Floats], new: Sequence[Floats]) -> npt.NDArray[np.bool_]:
    """The rounds in which the slowest calls of both arms are far longer than they usually are, and about as much; none
    where many are."""
    one, other = _slowness(old), _slowness(new)
    alike = np.maximum(one, other) <= MOST_UNLIKE * np.minimum(one, other)
    found: npt.NDArray[np.bool_] = _far_out(one) & _far_out(other) & alike
    return found if found.mean() <= MOST_LEFT_OUT else np.zeros(len(old), bool)


def _slowness(blocks: Sequence[Floats]) -> Floats:
    """float64[R], in midmeans: how far each round's calls are beyond where the arm's tail begins, on the average."""
    times = np.concatenate(blocks)
    middle = midmean(times)
    begins, most = np.quantile(times, 1 - TAIL_SHARE), TAIL_CAP * middle
    return np.array([np.clip(np.minimum(block, most) - begins, 0.0, None).mean() for block in blocks]) / middle


def _far_out(values: Floats) -> npt.NDArray[np.bool_]:
    low, high = np.quantile(values, [0.25, 0.75])
    found: npt.NDArray[np.bool_] = values > high + FAR_OUT * (high - low)
    return found


def _plain(old: Sequence[Floats], new: Sequence[Floats]) -> tuple[float, float]:
    """The change over all iterations, as a log ratio and in seconds."""
    first, second = (tail_mean(np.concatenate(side)) for side in (old, new))
    return math.log(second / first), second - first


@dataclass(frozen=True)
class _Found:
    """How much longer the slowest calls take: as a log ratio, in seconds, and the p of no change."""

    change: Bounds
    amount: Bounds
    p: float | None


def _decided(found: _Found, delta: float, absolute_floor: float, words: Words) -> Verdict:
    return replace(decide_by_bounds(found.change, found.amount, delta, absolute_floor, words=words), p=found.p)


def _up_to(whole: tuple[float, float], found: _Found) -> _Found:
    """What was found without some rounds, with the plain change of all of them within its upper bounds: stalls of the
    engine's own may be in the same rounds of both arms, and have grown."""
    change, amount = (
        replace(bounds, high=max(bounds.high, most))
        for bounds, most in zip((found.change, found.amount), whole, strict=True)
    )
    return replace(found, change=change, amount=amount)


def _by_groups(
    old: Sequence[Floats], new: Sequence[Floats], plain: tuple[float, float], groups: int, alpha: float
) -> _Found:
    """By the ratios of groups of rounds."""
    before, after = (_by_group(side, groups) for side in (old, new))
    changes = np.log(after / before)
    return _Found(_around(changes, plain[0], alpha), _around(after - before, plain[1], alpha), sign_test(changes))


def _by_group(blocks: Sequence[Floats], groups: int) -> Floats:
    """The tail of each group of rounds, which lie as far apart as they can: what lasts is in all of them."""
    return np.array([tail_mean(np.concatenate(blocks[start::groups])) for start in range(groups)])


def _around(changes: Floats, plain: float, alpha: float) -> Bounds:
    """The groups' median and its bounds, with the plain change within them."""
    estimate, low, high = interval(changes, alpha)
    return Bounds(estimate, min(low, plain), max(high, plain))


def _by_drawing(old: Sequence[Floats], new: Sequence[Floats], plain: tuple[float, float], alpha: float) -> _Found:
    """By the bootstrap, around the `plain` change."""
    rng = np.random.default_rng(0)
    draws = rng.integers(len(old), size=(DRAWS, len(old)))
    before, after = _tails(old, draws), _tails(new, draws)
    changes, rounds = np.log(after / before), len(old)
    spread = float(np.std(changes)) * math.sqrt(rounds / (rounds - 1))
    return _Found(
        _stretched(plain[0], changes, rounds, alpha),
        _stretched(plain[1], after - before, rounds, alpha),
        student_tail(float(np.mean(changes)) / spread, rounds - 1) if spread else None,
    )


def _stretched(estimate: float, drawn: Floats, rounds: int, alpha: float) -> Bounds:
    low, high = (estimate + stretch(rounds, alpha) * (float(each) - estimate)
                 for each in np.quantile(drawn, [alpha, 1 - alpha]))  # fmt: skip
    return Bounds(estimate, low, high)


@functools.cache
def stretch(rounds: int, alpha: float) -> float:
    """How much longer than the percentile interval one with Student's t and the unbiased variance is, at that one-sided
    error: 1.5 of 8 rounds, 1.1 of 60."""
    low, high = 0.0, 1e4
    while high - low > 1e-9 * high:
        middle = (low + high) / 2
        low, high = (middle, high) if student_tail(middle, rounds - 1) > alpha else (low, middle)
    return high / NormalDist().inv_cdf(1 - alpha) * math.sqrt(rounds / (rounds - 1))


def _tails(blocks: Sequence[Floats], draws: npt.NDArray[np.int64]) -> Floats:
    return np.array([tail_mean(np.concatenate([blocks[index] for index in draw])) for draw in draws])
