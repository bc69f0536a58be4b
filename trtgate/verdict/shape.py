"""What many iterations come to in one number: the fastest, the typical, the slowest calls.

The fastest call is the most sensitive number there is on a CPU, and blind to a change that leaves some calls alone. So
two more stand beside it: what half of the calls share moves the midmean, what one call in fifty suffers moves the mean
of the slowest twentieth. What is rarer, or longer than TAIL_CAP counts, moves neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

# Share of the calls that the tail is made of: 2 % of the calls at twice the time raise the mean of the slowest 5 % by
# 40 %, and 75 iterations are enough to have some (a 99th percentile of 150 iterations is the second slowest).
TAIL_SHARE = 0.05
# In midmeans: one call that the scheduler took away for long counts as a stall, but its length does not decide.
TAIL_CAP = 4.0


def midmean(times: Floats) -> float:
    """Mean of the middle half of float64[n] seconds (interquartile mean; Tukey 1977, "midmean").

    As robust as a quartile, and continuous where the median is not: with every second call slower by 40 % the median is
    either of two numbers, the midmean is 20 % up.
    """
    ordered = np.sort(times)
    cut = ordered.size // 4
    return float(np.mean(ordered[cut : ordered.size - cut]))


def tail_means(times: Floats) -> Floats:
    """`tail_mean` of each row of float64[P,n] seconds."""
    ordered = np.sort(times, 1)
    n = ordered.shape[1]
    middles = ordered[:, n // 4 : n - n // 4].mean(1, keepdims=True)
    slowest = ordered[:, n - max(1, round(TAIL_SHARE * n)) :]
    found: Floats = np.minimum(slowest, TAIL_CAP * middles).mean(1)
    return found


def tail_mean(times: Floats) -> float:
    """Mean of the slowest TAIL_SHARE of float64[n] seconds, none counted beyond TAIL_CAP times the midmean.

    The expected shortfall of risk theory (Acerbi and Tasche 2002), capped: unlike a percentile it has no share of slow
    calls at which it is blind.
    """
    return float(tail_means(times[None])[0])


STATISTICS: Mapping[str, Callable[[Floats], float]] = {
    "median": lambda times: float(np.median(times)),
    "lower_quartile": lambda times: float(np.percentile(times, 25)),
    "minimum": lambda times: float(np.min(times)),
    "midmean": midmean,
}


def by_block(blocks: Sequence[Floats], statistic: str) -> Floats:
    """One number a block, float64[R] seconds, by one of STATISTICS."""
    return np.array([STATISTICS[statistic](block) for block in blocks], np.float64)
