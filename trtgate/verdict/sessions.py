"""Old and new stack that cannot be interleaved: the session is the sample.

Method: the exact one-sided Mann-Whitney test, which is the permutation test on ranks, inverted into an interval for
the shift of log latency (Hodges and Lehmann 1963; Bauer 1972; Hollander, Wolfe and Chicken, *Nonparametric Statistical
Methods*, 3rd ed., 4.2-4.3): the bounds are ordered pairwise differences. It assumes that sessions are exchangeable on
one stack, so what differs between processes (addresses, thread placement, the hour) is part of the spread.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from trtgate.verdict.decision import Decision, Reason, Verdict
from trtgate.verdict.paired import Bounds, change_text, decide_by_bounds, require_times

Floats = npt.NDArray[np.float64]

# One-sided error of each bound, as for rounds: 5 against 5 sessions reach 1/252 = 0.4 %, when all of one side lie above
# the other; 4 against 4 only 1/70 = 1.4 %.
ALPHA = 0.005
MIN_SESSIONS = 5
# With fewer sessions a change must exceed delta by this many times the widest spread that the baseline itself shows.
FAR = 3.0


@functools.cache
def _ways(m: int, n: int, u: int) -> int:
    """In how many orders of m + n distinct values the Mann-Whitney statistic is u (Mann and Whitney 1947, eq. 4)."""
    if u < 0:
        return 0
    if m == 0 or n == 0:
        return int(u == 0)
    return _ways(m - 1, n, u - n) + _ways(m, n - 1, u)


def rank_of_bound(m: int, n: int, alpha: float = ALPHA) -> int:
    """k such that the k-th smallest of m * n pairwise differences exceeds the shift with probability <= alpha; 0 if
    none does."""
    total = math.comb(m + n, n)
    below = 0
    for k in range(m * n + 1):
        below += _ways(m, n, k)
        if below / total > alpha:
            return k
    return m * n


def decide_sessions(
    old: Floats, new: Floats, *, delta: float, absolute_floor: float = 0.0, within_spread: float = 0.0
) -> Decision:
    """Whether `new`, seconds of float64[n] sessions, is slower than `old`, float64[m], by more than `delta`.

    From 5 sessions a side on the rule is that of `paired.decide_paired` with the bounds of the shift. With fewer the
    answer is REGRESSED for a shift beyond delta plus FAR times the baseline's spread, else INCONCLUSIVE
    (underpowered): never PASS. `within_spread` is the spread of log latency inside the baseline's sessions, the only
    one there is when the baseline is a single session.

    Raises ValueError for an empty side, and for NaN, zero or negative times.
    """
    if not old.size or not new.size:
        raise ValueError("both sides need a session")
    require_times(old)
    require_times(new)
    before, after = np.log(old), np.log(new)
    differences = np.sort((after[:, None] - before[None, :]).ravel())
    shift = float(np.median(differences))
    absolute = float(np.median((new[:, None] - old[None, :]).ravel()))
    limit = math.log1p(delta)
    sessions = f"{new.size} against {old.size} sessions"
    k = rank_of_bound(old.size, new.size)
    if min(old.size, new.size) < MIN_SESSIONS or k == 0:
        spread = max(within_spread, float(np.ptp(before)))
        beyond = float(differences[0]) > 0 and shift > limit + FAR * spread and absolute > absolute_floor
        ratio = {"estimate": math.exp(shift)}
        if beyond:
            message = f"slower by {change_text(shift)}, far beyond the baseline's spread of {spread:.1%} ({sessions})"
            return Decision(Verdict.REGRESSED, Reason.FAR_BEYOND_SPREAD, message, **ratio)
        message = f"{change_text(shift)} from {sessions}: {MIN_SESSIONS} a side are needed to tell it from noise"
        return Decision(Verdict.INCONCLUSIVE, Reason.UNDERPOWERED, message, **ratio)
    seconds = np.sort((new[:, None] - old[None, :]).ravel())
    return decide_by_bounds(
        Bounds(shift, float(differences[k - 1]), float(differences[-k])),
        Bounds(absolute, float(seconds[k - 1]), float(seconds[-k])),
        delta,
        absolute_floor,
        f" from {sessions}",
    )
