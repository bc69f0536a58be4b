"""Old and new stack that cannot be interleaved: the process is the sample.

Method: the exact one-sided Mann-Whitney test, which is the permutation test on ranks, inverted into an interval for
the shift of log latency (Hodges and Lehmann 1963; Bauer 1972; Hollander, Wolfe and Chicken, *Nonparametric Statistical
Methods*, 3rd ed., 4.2-4.3): the bounds are ordered pairwise differences. It assumes that sessions are exchangeable on
one stack, so what differs between processes (addresses, thread placement, the hour) is part of the spread.
"""

from __future__ import annotations

import functools
import itertools
import math
from dataclasses import replace
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.paired import SLOWER, Bounds, Words, decide_by_bounds, most_excused, require_times
from trtgate.verdict.places import at_least
from trtgate.verdict.policy import GOOD

Floats = npt.NDArray[np.float64]

# One-sided error of each bound, as for rounds: 5 against 5 sessions reach 1/252 = 0.4 %, when all of one side lie above
# the other; 4 against 4 only 1/70 = 1.4 %.
ALPHA = 0.005
# A run that compares looks twice at its processes: at as many as were planned, and where something is still open at
# twice as many. The looks share the error; 6 against 6 processes reach 1/924 = 0.11 %.
LOOKS = 2
LOOK_ALPHA = ALPHA / LOOKS
# With fewer sessions a change must exceed delta by this many times the spread between two sessions of one stack.
FAR = 3.0
# Of the new side's sessions so many may lie beyond all of the old one's by more than delta: one is bad luck. More are a
# mixture, which no bound of a shift sees: with 4 of 16 twice as slow, that of 16 against 8 is the others'.
STRAYS = 1
# Of many old sessions one lies far off by bad luck, too, and would excuse any number of new ones. Whether more of these
# do than did is told by Fisher's exact test, at this error.
STRAYS_ALPHA = 0.05
# Where a wider error is allowed for a PASS that one is bad luck only among ten: of fewer it asks for the second look.
STRAY_SHARE = 0.1
# Above this much counting (79 against 79) the normal approximation is off by less than one rank, and rounded down.
EXACT_WORK = 500_000


@functools.cache
def _counts(m: int, n: int) -> tuple[int, ...]:
    """In how many orders of m + n distinct values the Mann-Whitney statistic is 0, 1, ... m * n.

    The coefficients of the Gaussian binomial: the product over i of (1 - x^(n+i)) / (1 - x^i) (Andrews, *The Theory of
    Partitions*, 3.2), term by term.
    """
    ways = [1] + [0] * (m * n)
    for i in range(1, m + 1):
        for u in range(m * n, n + i - 1, -1):
            ways[u] -= ways[u - n - i]
        for u in range(i, m * n + 1):
            ways[u] += ways[u - i]
    return tuple(ways)


@functools.cache
def rank_of_bound(m: int, n: int, alpha: float = ALPHA) -> int:
    """k such that the k-th smallest of m * n pairwise differences exceeds the shift with probability <= alpha; 0 if
    none does."""
    m, n = min(m, n), max(m, n)
    if m * m * n > EXACT_WORK:
        z = NormalDist().inv_cdf(1 - alpha)
        return max(0, math.floor(m * n / 2 - z * math.sqrt(m * n * (m + n + 1) / 12)) - 1)
    total = math.comb(m + n, n)
    below = 0
    for k, ways in enumerate(_counts(m, n)):
        below += ways
        if below / total > alpha:
            return k
    return m * n


@functools.cache
def fewest(alpha: float = ALPHA) -> int:
    """How many a side it takes for a bound at `alpha`: 5 at the usual one."""
    return next(count for count in itertools.count(1) if rank_of_bound(count, count, alpha))


def student_tail(t: float, degrees: int) -> float:
    """P(T > t) of Student's t with a whole number of degrees of freedom: the finite sums of Abramowitz and Stegun,
    26.7.3 and 26.7.4."""
    odd = degrees % 2
    theta = math.atan2(t, math.sqrt(degrees))
    cosine, sine = math.cos(theta), math.sin(theta)
    term = total = cosine if odd else 1.0
    for j in range(2 if odd else 1, degrees - 1, 2):
        term *= cosine * cosine * j / (j + 1)
        total += term
    within = 2 / math.pi * (theta + (sine * total if degrees > 1 else 0.0)) if odd else sine * total
    return max(0.0, (1 - within) / 2)


def shift_bounds(old: Floats, new: Floats, alpha: float = ALPHA) -> tuple[float, float] | None:
    """Bounds of the shift from float64[m] to float64[n], each with that one-sided error; None of too few values."""
    k = rank_of_bound(old.size, new.size, alpha)
    return _shift(old, new, k)[1:3] if k else None


def shift_test(before: Floats, after: Floats) -> float | None:
    """One-sided p of float64[m] against float64[n] log values: Student's t with the pooled variance.

    The exact test cannot go below 1 in 252 for 5 against 5; this one can, and is what a verdict among many is corrected
    by. None from fewer than three values in all.
    """
    m, n = before.size, after.size
    degrees = m + n - 2
    if degrees < 1:
        return None
    variance = float(np.sum((before - before.mean()) ** 2) + np.sum((after - after.mean()) ** 2)) / degrees
    shift = float(after.mean() - before.mean())
    if variance == 0:
        return 0.0 if shift > 0 else 1.0
    return student_tail(shift / math.sqrt(variance * (1 / m + 1 / n)), degrees)


# Differences of pairs that are held and sorted at once; of more only so many near each rank that is wanted.
HELD = 1 << 16
NEAR = 1 << 11


def _shift(less: Floats, more: Floats, k: int) -> tuple[float, float, float, float]:
    """Of all differences more[j] - less[i]: the median, the k-th from below and from above, and the smallest."""
    pairs = less.size * more.size
    wanted = [(pairs - 1) // 2, pairs // 2, max(k, 1) - 1, pairs - max(k, 1)]
    if pairs <= HELD:
        found = np.sort((more[:, None] - less[None, :]).ravel())[wanted].tolist()
    else:
        found = _ranked(np.sort(less), np.sort(more), wanted)
    return (found[0] + found[1]) / 2, found[2], found[3], float(more.min() - less.max())


def _ranked(less: Floats, more: Floats, ranks: list[int]) -> list[float]:
    """The differences more[j] - less[i] of those ranks, from 0, of two sorted arrays.

    Between two values the pairs can be counted without making them (for each j by a search among the i), so each rank
    is closed in on until few pairs are left; the next one is often among them.
    """
    found, before, inside = [], 0, np.empty(0)
    for rank in ranks:
        if not before <= rank < before + inside.size:
            before, inside = _around(less, more, rank)
        found.append(float(inside[min(max(rank - before, 0), inside.size - 1)]))
    return found


def _around(less: Floats, more: Floats, rank: int) -> tuple[int, Floats]:
    """The differences near a rank, sorted, and how many there are before them."""

    def below(value: float) -> npt.NDArray[np.int64]:
        """int64[more.size]: where the differences of up to `value` begin among `less`."""
        return np.searchsorted(less, more - value)

    low, high = more[0] - less[-1], more[-1] - less[0]
    low = np.nextafter(low, -np.inf) - abs(low) * 1e-12
    begin, end = below(low), below(high)
    before, up_to = (less.size * more.size - int(each.sum()) for each in (begin, end))  # pairs up to `low`, to `high`
    for step in range(200):
        if up_to - before <= NEAR:
            break
        # In turns a little before the rank and a little after it, as if the pairs lay evenly, and, as they need not, in
        # the middle.
        aim = (rank - before + (-NEAR // 4, NEAR // 4, 0)[step % 3]) / (up_to - before)
        middle = low + (high - low) * (0.5 if step % 3 == 2 else min(max(aim, 1 / 64), 63 / 64))
        if not low < middle < high:  # the rest are alike, to the last bits
            break
        at = below(middle)
        count = less.size * more.size - int(at.sum())
        if count <= rank:
            low, begin, before = middle, at, count
        else:
            high, end, up_to = middle, at, count
    counts = begin - end
    index = np.arange(counts.sum()) + np.repeat(end - np.cumsum(counts) + counts, counts)
    inside = np.sort(np.repeat(more, counts) - less[index])
    return before, inside if inside.size else np.array([high])


def decide_sessions(
    old: Floats,
    new: Floats,
    *,
    delta: float,
    absolute_floor: float = 0.0,
    spread: float | None = None,
    amounts: tuple[Floats, Floats] | None = None,
    words: Words = SLOWER,
    alpha: float = ALPHA,
    pass_alpha: float | None = None,
    of: str = "sessions",
) -> Verdict:
    """Whether `new`, float64[n] numbers of sessions (or what `of` calls them), is worse (larger) than `old`,
    float64[m], by more than `delta`.

    With enough of both for a bound at `alpha` (5 a side at the usual one) the rule is that of `paired.decide_paired`
    with the bounds of the shift. With fewer the answer is REGRESSED for a shift beyond delta plus FAR times the spread
    of one stack's sessions, else INCONCLUSIVE (underpowered): never PASS. That spread is the widest difference within
    the baseline, and at least `spread`; with one baseline session and no `spread` nothing is far. `amounts` are what
    `absolute_floor` is held against, where that is another number than the one that is compared. What `alpha` leaves
    open passes by an upper bound at `pass_alpha`, unless more than STRAY_SHARE of `new` lie beyond all of `old`.

    Raises ValueError for an empty side, and for NaN, zero or negative values.
    """
    if not old.size or not new.size:
        raise ValueError("both sides need a session")
    require_times(old)
    require_times(new)
    before, after = np.log(old), np.log(new)
    limit = math.log1p(delta)
    sessions = f"{new.size} against {old.size} {of}"
    k = rank_of_bound(old.size, new.size, alpha)
    shift, low, high, least = _shift(before, after, k)
    less, more = amounts or (old, new)
    absolute, absolute_low, absolute_high, _ = _shift(less, more, k)
    if min(old.size, new.size) < fewest(alpha):
        widest = max(spread or 0.0, float(np.ptp(before)))
        far = limit + FAR * widest if old.size > 1 or spread else math.inf
        ratio: dict[str, Any] = {"estimate": math.exp(shift)}
        if least > 0 and shift > far and absolute > absolute_floor:
            message = (
                f"{words.worse} by {words.change(shift)}, far beyond what two {of} of one stack differ by, "
                f"{widest:.1%} ({sessions})"
            )
            return Verdict(Outcome.REGRESSED, Reason.FAR_BEYOND_SPREAD, message, **ratio)
        message = f"{words.change(shift)} from {sessions}: {fewest(alpha)} a side are needed to tell it from noise"
        return Verdict(Outcome.INCONCLUSIVE, Reason.UNDERPOWERED, message, **ratio)

    def decided(change: Bounds, amount: Bounds) -> Verdict:
        return decide_by_bounds(change, amount, delta, absolute_floor, f" from {sessions}", words)

    verdict = decided(Bounds(shift, low, high), Bounds(absolute, absolute_low, absolute_high))
    beyond = beyond_all((before, after), (less, more), delta, absolute_floor, words)
    if pass_alpha and verdict.outcome is Outcome.INCONCLUSIVE and beyond <= STRAY_SHARE * new.size:
        k = rank_of_bound(old.size, new.size, pass_alpha)
        highs = _shift(before, after, k)[2], _shift(less, more, k)[2]
        found = decided(Bounds(shift, low, highs[0]), Bounds(absolute, absolute_low, highs[1]))
        verdict = found if found.outcome in GOOD else verdict
    strays = ""
    if beyond > STRAYS:
        strays = f"{beyond} of {new.size} {of} are {words.worse} than all before by more"
    elif odd := more_are_odd(
        (before, after),
        (less, more),
        (float(np.median(before)), float(np.median(less))),
        (old.size, new.size),
        delta,
        absolute_floor,
        words,
    ):
        strays = (
            f"{odd[1]} of {new.size} {of} are {words.worse} by more than {2 * delta:.0%}, {odd[0]} of {old.size} before"
        )
    if verdict.outcome in GOOD and strays:
        message = f"{verdict.message}; but {strays}"
        verdict = replace(verdict, outcome=Outcome.INCONCLUSIVE, reason=Reason.PROCESS_SPREAD, message=message)
    return replace(verdict, p=shift_test(before, after))


def more_are_odd(
    logs: tuple[Floats, Floats],
    amounts: tuple[Floats, Floats],
    typical: tuple[float, float],
    sizes: tuple[int, int],
    delta: float,
    absolute_floor: float,
    words: Words,
) -> tuple[int, int] | None:
    """How many old and new numbers are larger than what is `typical`, of either kind, by more than twice `delta`, which
    no shift within it makes of many, and by what counts as a change; None where of these `sizes` of sides as many new
    ones may be so by chance."""

    def odd(side: int) -> int:
        change, amount = logs[side] - typical[0], amounts[side] - typical[1]
        counts = (amount > absolute_floor) | (change > most_excused(delta, words))
        return int(np.sum((change > math.log1p(2 * delta)) & counts))

    old, new = odd(0), odd(1)
    more = new > STRAYS and at_least(new, sizes[1], old + new, sum(sizes)) < STRAYS_ALPHA
    return (old, new) if more else None


def beyond_all(
    logs: tuple[Floats, Floats], amounts: tuple[Floats, Floats], delta: float, absolute_floor: float, words: Words
) -> int:
    """How many new numbers are larger than all old ones by more than `delta`, and by what counts as a change."""
    change, amount = (new - old.max(initial=-math.inf) for old, new in (logs, amounts))
    counts = (amount > absolute_floor) | (change > most_excused(delta, words))
    return int(np.sum((change > math.log1p(delta)) & counts))
