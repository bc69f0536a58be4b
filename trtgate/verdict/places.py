"""Which places of a batch are wrong, proven by where wrong answers lie when samples stand at random places."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence


def odd_places(odd: Sequence[Sequence[bool]], alpha: float) -> list[int]:
    """The places, of batches with a bool for each place whether the answer there is odd, at which more answers are odd
    than chance puts there. Were all places alike, the odd answers would lie at any of them (Fisher's exact test); of so
    many tests each other one is corrected for (Holm, as in `policy.holm`)."""
    visits, places = len(odd), len(odd[0])
    counts = [sum(row[at] for row in odd) for at in range(places)]
    total = sum(counts)
    tested = sorted((at_least(count, visits, total, visits * places), at) for at, count in enumerate(counts))
    found = []
    for rank, (p, at) in enumerate(tested):
        if p * (places - rank) > alpha:
            break
        found.append(at)
    return found


def at_least(hits: int, drawn: int, marked: int, of: int) -> float:
    """How often so many of some that are drawn, or more, are marked: the hypergeometric distribution's tail."""
    ways = sum(math.comb(marked, k) * math.comb(of - marked, drawn - k) for k in range(hits, min(drawn, marked) + 1))
    return ways / math.comb(of, drawn)


def told_by_others(samples: Sequence[Sequence[int]], nearest: Sequence[Sequence[int]], alpha: float) -> str:
    """Where the answers of a batch are those of the samples at other places, in words; empty where nothing proves it.

    `samples` has the sample at each place of each batch, `nearest` the one of all these whose own answer is nearest to
    the answer there. That does not depend on who stands elsewhere, so at another place it stands as often as
    any other sample. Asked of a few ways in which all places may be wrong, and of each place with each other one.
    """
    places, known = len(samples[0]), len({each for some in samples for each in some})
    if places < 2 or known < 3:
        return ""
    for words, source in PATTERNS.items():
        pairs = [(at, source(at, places)) for at in range(places)]
        if 2 * len(PATTERNS) * _by_chance(pairs, samples, nearest, known) <= alpha:
            return words
    for at, source_place in sorted(_hits(samples, nearest)):
        if 2 * places * (places - 1) * _by_chance([(at, source_place)], samples, nearest, known) <= alpha:
            return f"place {at} has the answers of place {source_place}"
    return ""


def _hits(samples: Sequence[Sequence[int]], nearest: Sequence[Sequence[int]]) -> set[tuple[int, int]]:
    """The places whose answer is once nearest to the sample at another place, each with that."""
    found = set()
    for some, near in zip(samples, nearest, strict=True):
        for at, sample in enumerate(near):
            if sample != some[at]:
                found |= {(at, source) for source, other in enumerate(some) if other == sample}
    return found


PATTERNS: dict[str, Callable[[int, int], int]] = {
    "each place has the answers of the one before": lambda at, places: (at - 1) % places,
    "each place has the answers of the next one": lambda at, places: (at + 1) % places,
    "places are in reverse order": lambda at, places: places - 1 - at,
    "places have their neighbours' answers": lambda at, places: min(at ^ 1, places - 1),
    "all places have the answers of the first": lambda at, places: 0,
}


def _by_chance(
    pairs: Sequence[tuple[int, int]], samples: Sequence[Sequence[int]], nearest: Sequence[Sequence[int]], known: int
) -> float:
    """How often by chance the answers at the first place of each pair would be nearest to the sample at the second."""
    hits = trials = 0
    for some, near in zip(samples, nearest, strict=True):
        for at, source in pairs:
            if some[at] != some[source]:
                trials += 1
                hits += near[at] == some[source]
    share = 1 / (known - 1)
    return (
        1.0
        if not hits
        else sum(math.comb(trials, k) * share**k * (1 - share) ** (trials - k) for k in range(hits, trials + 1))
    )
