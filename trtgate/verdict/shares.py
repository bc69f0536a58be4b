"""Shares of photos, and differences of two shares on the same photos, with bounds that respect clusters.

Crops of one photo are one cluster: where an engine errs on one, it likely errs on the next. What a sample of n crops is
worth is therefore an effective number of independent photos (Korn and Graubard, "Confidence intervals for proportions
with small expected number of positive counts estimated from survey data", Survey Methodology 24, 1998): n over the
design effect, and less for an effect estimated from few clusters. On it stand Clopper and Pearson's bounds of a share
(1934), as Korn and Graubard have it, and Tango's score bounds of a paired difference (Statistics in Medicine 17, 1998),
which hold where hardly a photo changed sides and Wald's do not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# All bounds are one-sided, 95 % each: z is the normal distribution's quantile.
TAIL = 0.05
Z = 1.6448536269514722
# What two crops of one photo have in common at the least (intracluster correlation), whatever a sample of few flips, or
# none, seems to show. Measured: 0.11 for either INT8 engine of EfficientNet-Lite0 on 40 crops each of 60 photos. With
# 0.1 both errors stay within 5 % up to a true 0.2 (simulated, docs/how-it-decides.md).
COMMON = 0.1


@dataclass(frozen=True)
class Size:
    """How many samples, of how many photos, and what that is worth in photos that know nothing of each other."""

    samples: int
    photos: int
    effective: float

    def __str__(self) -> str:
        if self.photos == self.samples:
            return f"{self.samples} photos"
        return f"{self.samples} crops of {self.photos} photos (worth {self.effective:.0f} single ones)"


def size_of(values: Floats, clusters: Ints | None) -> Size:
    """The size of a sample whose float64[N] `values` (1 for a flip; 1, 0 and -1 for lost, kept and gained) were seen on
    the photos int64[N] `clusters`; None is a photo each.

    The design effect is the variance of the mean with whole photos as the sample over that with crops as the sample,
    but at least 1 + (m - 1) COMMON from m crops a photo (Kish), since from few flips it cannot be estimated. Raises
    ValueError for no samples or arrays of different lengths.
    """
    n = len(values)
    if not n:
        raise ValueError("no photos, no share")
    if clusters is None:
        return Size(n, n, float(n))
    if clusters.shape != values.shape:
        raise ValueError(f"{n} samples with the photos of {len(clusters)}")
    _, which = np.unique(clusters, return_inverse=True)
    counts = np.bincount(which)
    photos = len(counts)
    if photos == n:
        return Size(n, n, float(n))
    if photos == 1:
        return Size(n, 1, 1.0)
    off = values - values.mean()
    alone = n / (n - 1) * float(np.sum(off**2))
    together = photos / (photos - 1) * float(np.sum(np.bincount(which, off) ** 2))
    crops = float(np.sum(counts.astype(np.float64) ** 2)) / n
    effect = max(1 + (crops - 1) * COMMON, together / alone if alone > 0 else 1.0)
    return Size(n, photos, n / effect * (student_t(n - 1) / student_t(photos - 1)) ** 2)


def share_bounds(share: float, n: float) -> tuple[float, float]:
    """Lower and upper bound of a share seen in a sample worth n photos.

    Raises ValueError unless 0 <= share <= 1 and n > 0.
    """
    if not 0 <= share <= 1 or not n > 0:
        raise ValueError(f"a share of {share} of {n} photos is none")
    k = share * n
    low = beta_quantile(TAIL, k, n - k + 1) if k > 0 else 0.0
    high = beta_quantile(1 - TAIL, k + 1, n - k) if k < n else 1.0
    return low, high


def mean_bounds(shares: Sequence[float]) -> tuple[float, float]:
    """One-sided 95 % bounds (Student) of the mean share of samples; everything from a single one."""
    if len(shares) < 2:
        return 0.0, 1.0
    mean = float(np.mean(shares))
    wide = student_t(len(shares) - 1) * float(np.std(shares, ddof=1)) / math.sqrt(len(shares))
    return max(0.0, mean - wide), min(1.0, mean + wide)


# As many groups of samples are left out, one at a time, where a number of them all is to have a bound.
MOST_GROUPS = 32
LEAST_GROUPS = 5


def groups_of(n: int) -> Ints:
    """int64[n], from 0 on without a gap: which group of neighbours each of n samples belongs to."""
    return np.arange(n) * min(n, MOST_GROUPS) // max(n, 1)


def jackknife_margin(without: Sequence[float]) -> float:
    """How far a number of all samples may lie from what it is of all that there are, one-sided 95 %, from what it is
    without each group of them (Tukey's jackknife; Student). Nobody knows from few groups: they may be alike."""
    groups = len(without)
    if groups < LEAST_GROUPS:
        return math.inf
    off = np.asarray(without, np.float64) - float(np.mean(without))
    return student_t(groups - 1) * math.sqrt((groups - 1) / groups * float(np.sum(off**2)))


MOST_PARTS = 1e9


def ratio_bounds(parts: Sequence[float], wholes: Sequence[float]) -> tuple[float, float]:
    """One-sided 95 % bounds, within 0 and 1, of what some parts are together of their wholes, one of each sample.

    The variance is the linearised one of a ratio of two means (Cochran, Sampling Techniques, 1977, 6.4), known as well
    as from so many samples of one size as have these sizes' spread (Kish); everything from less than two. Raises
    ValueError for wholes that are nothing together.
    """
    largest = max(wholes, default=0.0)
    if not largest > 0:
        raise ValueError("no part of nothing")
    # Squares of numbers of any size; beyond MOST_PARTS a part is far too much anyway.
    parts = [min(each / largest, MOST_PARTS) for each in parts]
    wholes = [each / largest for each in wholes]
    whole = sum(wholes)
    alike = int(whole**2 / sum(each**2 for each in wholes) + 1e-9)
    if alike < 2:
        return 0.0, 1.0
    ratio = sum(parts) / whole
    off = np.asarray(parts, np.float64) - ratio * np.asarray(wholes, np.float64)
    wide = student_t(alike - 1) * math.sqrt(alike / (alike - 1) * float(np.sum(off**2))) / whole
    return min(1.0, max(0.0, ratio - wide)), min(1.0, ratio + wide)


def drop_bounds(old: tuple[float, float], new: tuple[float, float]) -> tuple[float, float]:
    """Lower and upper bound of how far a share fell between two samples of other photos, each given as the share and
    what the sample is worth.

    From the bounds of either share (MOVER: Zou and Donner, Statistics in Medicine 27, 2008).
    """
    (before, _), (after, _) = old, new
    (low, high), (low_after, high_after) = share_bounds(*old), share_bounds(*new)
    drop = before - after
    return drop - math.hypot(before - low, high_after - after), drop + math.hypot(high - before, after - low_after)


def photos_needed(share: float) -> float:
    """How many single photos, none of which flips, show that a share is reached: a whole number, infinite for 1."""
    if share >= 1:
        return math.inf
    return math.ceil(math.log(TAIL) / math.log(share)) if share > 0 else 1


def difference_bounds(lost: float, gained: float, n: float) -> tuple[float, float]:
    """Lower and upper bound of (lost - gained) / n, the net share of photos lost, in a sample worth n photos.

    Raises ValueError unless `lost` and `gained` are shares of one sample.
    """
    if not (lost >= 0 and gained >= 0 and n > 0 and lost + gained <= n * (1 + 1e-12)):
        raise ValueError(f"{lost} lost and {gained} gained of {n} photos cannot be")
    return -_difference_high(gained, lost, n), _difference_high(lost, gained, n)


def _difference_high(lost: float, gained: float, n: float) -> float:
    def likely(difference: float) -> bool:
        # The share gained that makes the counts likeliest, were this the true difference (Tango's equation 2.9).
        b = (2 * n - lost + gained) * difference - lost - gained
        c = -gained * difference * (1 - difference)
        gained_share = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * gained_share + difference * (1 - difference))
        return lost - gained - n * difference >= -Z * math.sqrt(max(0.0, variance))

    return _bisect(likely, (lost - gained) / n, 1.0)


@cache
def student_t(freedom: int) -> float:
    """The 95 % quantile of Student's t with that many degrees of freedom."""
    x = beta_quantile(2 * TAIL, freedom / 2, 0.5)
    return math.sqrt(freedom * (1 - x) / x)


def beta_quantile(p: float, a: float, b: float) -> float:
    """Where the distribution function of Beta(a, b) reaches p."""
    return _bisect(lambda x: beta_cdf(x, a, b) < p, 0.0, 1.0)


def beta_cdf(x: float, a: float, b: float) -> float:
    """The regularised incomplete beta function I_x(a, b), to ten digits; a and b need not be whole.

    By its continued fraction (DLMF 8.17.22), evaluated as Lentz does.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):  # there the fraction of the other side converges, and fast
        return 1 - beta_cdf(1 - x, b, a)
    front = math.exp(math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x))
    c, d = 1.0, 1 / (1 - (a + b) * x / (a + 1))
    fraction = d
    # Its terms needed grow with the root of the larger parameter: some 1,300 for a million photos.
    for m in range(1, 100_000):
        even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        change = 1.0
        for term in (even, odd):
            c, d = 1 + term / c, 1 / (1 + term * d)
            change *= c * d
        fraction *= change
        if abs(change - 1) < 1e-12:
            break
    return front * fraction / a


def _bisect(below: Callable[[float], bool], low: float, high: float) -> float:
    """Where `below` turns from True to False between two shares, to 12 digits."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) else (low, middle)
    return (low + high) / 2
