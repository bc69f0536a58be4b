"""The slowest calls of two interleaved arms: all iterations of both, resampled by rounds.

A round is too short to have a tail, so the rounds cannot be the sample. They are what is drawn with replacement, both
arms of a round together (the cluster bootstrap: Davison and Hinkley, *Bootstrap Methods and their Application*, 3.8),
and the tail is taken over all iterations of what was drawn. The percentile interval of a few rounds is too short, as
one with a normal quantile and the variance of n in place of n - 1 would be; it is stretched by what that lacks (the
expanded percentile interval: Hesterberg, *What Teachers Should Know About the Bootstrap*, The American Statistician
2015).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.paired import SLOWER, Bounds, Words, bound_error, decide_by_bounds, require_times
from trtgate.verdict.sessions import student_tail
from trtgate.verdict.shape import tail_mean

Floats = npt.NDArray[np.float64]

# Enough for the 0.4 % quantile of 8 rounds to move by less than a tenth of the interval between seeds; the later looks'
# quantiles then lie among the outermost draws.
DRAWS = 2000
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
    rng = np.random.default_rng(0)
    draws = rng.integers(len(old), size=(DRAWS, len(old)))
    before, after = _tails(old, draws), _tails(new, draws)
    plain = np.arange(len(old))[None, :]
    first, second = _tails(old, plain)[0], _tails(new, plain)[0]
    changes, amounts = np.log(after / before), after - before
    verdict = decide_by_bounds(
        _bounds(float(np.log(second / first)), changes, len(old)),
        _bounds(float(second - first), amounts, len(old)),
        delta,
        absolute_floor,
        words=words,
    )
    spread = float(np.std(changes)) * math.sqrt(len(old) / (len(old) - 1))
    return replace(verdict, p=student_tail(float(np.mean(changes)) / spread, len(old) - 1) if spread else None)


def _bounds(estimate: float, drawn: Floats, rounds: int) -> Bounds:
    alpha = bound_error(rounds)
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
