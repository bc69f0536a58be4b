"""Answers: how often an engine says what PyTorch says, and how far its logits are from PyTorch's."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.shares import Ints, Size, difference_bounds, photos_needed, share_bounds, size_of

Logits = npt.NDArray[np.float32]


# An answer of as many numbers has a direction of its own: of fewer all may happen to be next to zero, where noise turns
# them.
LEAST_NUMBERS = 8


@dataclass(frozen=True)
class Flip:
    """A photo on which the engine answers differently; `margin` is the reference's top logit minus its logit for
    the engine's answer, so a small margin means that the reference itself was in two minds."""

    index: int
    reference: int
    engine: int
    margin: float


@dataclass(frozen=True)
class Agreement:
    """Engine against reference on the same n crops of `photos` photos, worth `effective` single ones (see `shares`).

    `finite` is False where the engine's logits hold NaN or infinity elsewhere than the reference's; `measured` is False
    where the reference has no finite number; `spoilt` names a class whose logit is wrong on every photo, `doubt` says
    what the crops tell little of, if they do.
    """

    n: int
    top1: int
    top5: int
    cosine: float
    sqnr_db: float
    finite: bool
    flips: tuple[Flip, ...]
    photos: int
    effective: float
    measured: bool = True
    spoilt: str = ""
    doubt: str = ""

    @property
    def share(self) -> float:
        return self.top1 / self.n

    @property
    def size(self) -> Size:
        return Size(self.n, self.photos, self.effective)

    @property
    def bounds(self) -> tuple[float, float]:
        """Lower and upper bound of the share, one-sided 95 % each."""
        return share_bounds(self.share, self.effective)


# What is as large may be a mask and no number: it is one if it is infinite, or what people write for that: one digit
# and zeros, or of the size of the largest number of a type: half of it, or 0.7 of it, has room for what is added.
MASK = 1e30
LARGEST = (float(np.finfo(np.float32).max), float(np.finfo(np.float64).max))
NEAR_LARGEST = 0.3
# What is written so may be rounded by as much in a narrow type.
ROUNDED = 0.01


def masked(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """bool of their shape: where floats stand for no number, as scores of what must not be chosen do. Not where they
    are NaN."""
    found = _beyond(values)
    if found.any():
        sizes = np.abs(values[found].astype(np.float64))
        written = np.isinf(sizes) | _written(sizes)
        for most in LARGEST:
            written |= (sizes >= NEAR_LARGEST * most) & (sizes <= most)
        found[found] = written
    return found


def _written(sizes: npt.NDArray[np.float64]) -> npt.NDArray[np.bool_]:
    """Whether numbers beyond 0 are one digit and zeros."""
    digits = sizes / 10 ** np.floor(np.log10(np.minimum(sizes, LARGEST[1])) + 1e-5)
    return np.asarray(np.isclose(digits, np.rint(digits), 1e-5, 0))


# What is written in the place of no number is at least this, so many times as large as any number beside it, and there
# more than once.
FILLING, FAR = 1e3, 100.0
LARGEST_HALF = 65504.0


def filling(arrays: Sequence[npt.NDArray[Any]]) -> float | None:
    """The number that a reference's floats have for what is none, which is less than a mask and hides all others: -1e4,
    -1e9 or the lowest of float16; None where they have none such.

    A negative one may have been added to what it hides, which is about as large as the rest.
    """
    ends = [(float(each.min()), float(each.max())) for each in (a[numbers(a)] for a in arrays) if each.size]
    most = max((end for some in ends for end in some), key=abs, default=0.0)
    fill = _written_near(most)
    if abs(fill) < FILLING:
        return None
    there, largest, off = 0, 0.0, 0.0
    for each in arrays:
        rest = each[numbers(each)]
        within = filled(rest, fill)
        there += int(within.sum())
        largest = max(largest, float(np.abs(rest[~within]).max(initial=0.0)))
        off = max(off, float(np.abs(rest[within].astype(np.float64) - fill).max(initial=0.0)))
    added = fill < 0 < largest and off <= ADDED * largest + STEP * abs(fill)
    return fill if there > 1 and largest * FAR <= abs(fill) and (off == 0 or added) else None


# What is added to a mask is at most so many times as large as what has none, but for the steps of a narrow type.
ADDED, STEP = 2.0, 1e-3


def _written_near(value: float) -> float:
    """What people may have written where a number is about that: one digit and zeros, or the largest of float16; 0 for
    nothing such."""
    size = abs(value)
    if not size:
        return 0.0
    ten = 10.0 ** math.floor(math.log10(size * (1 + ROUNDED)))
    near = LARGEST_HALF if math.isclose(size, LARGEST_HALF, rel_tol=STEP) else round(size / ten) * ten
    return math.copysign(near, value) if math.isclose(size, near, rel_tol=ROUNDED) else 0.0


def filled(values: npt.NDArray[Any], fill: float) -> npt.NDArray[np.bool_]:
    """bool of their shape: where floats are about what stands for none, as of `filling`."""
    return np.asarray(np.isclose(values, fill, ROUNDED, 0))


def _beyond(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    found: npt.NDArray[np.bool_]
    found = np.abs(values) >= MASK if float(np.finfo(values.dtype).max) > MASK else np.isinf(values)
    return found


def numbers(values: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """bool of their shape: where floats are numbers that can be compared."""
    return np.asarray(~(np.isnan(values) | masked(values)))


def counted(reference: npt.NDArray[Any], got: npt.NDArray[Any], fill: float | None = None) -> npt.NDArray[np.bool_]:
    """bool of their shape: where both are numbers, of which one that is written as a mask may be one, too, if the other
    is another number; `fill` is the reference's `filling`, which is written as one."""
    found: npt.NDArray[np.bool_] = np.isfinite(reference) & np.isfinite(got)
    if fill is not None:
        found &= ~(filled(reference, fill) & filled(got, fill))
    mask = masked(reference)
    return found & ~(mask & _same_mask(reference, got)) if mask.any() else found


def _same_mask(reference: npt.NDArray[Any], got: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    if got.dtype.kind != "f":
        return np.zeros(got.shape, bool)
    return np.asarray(masked(got) | np.isclose(reference, got, ROUNDED, 0))


def elsewhere(reference: npt.NDArray[Any], got: npt.NDArray[Any]) -> npt.NDArray[np.bool_]:
    """bool of their shape: where one of two arrays holds NaN, an infinity or a mask, and the other one not the same.

    A mask may be another one of the same sign, as a narrower type has an infinity for it. What saturates has the
    largest number of float16 for one.
    """
    found: npt.NDArray[np.bool_] = np.isnan(reference) != np.isnan(got)
    if (clipped := np.abs(got) == LARGEST_HALF).any():
        found |= clipped & (np.abs(reference) > LARGEST_HALF * (1 + ROUNDED))
    beyond, mask = _beyond(got), masked(reference)
    if beyond.any() or mask.any():
        as_large = beyond & (np.isfinite(reference) & np.isfinite(got))
        same = _same_mask(reference, got) | as_large
        found |= mask & (~same | (np.signbit(reference) != np.signbit(got)))
        # What is nearly as large may be rounded to it.
        ordinary = np.abs(reference.astype(np.float64)) < MASK / 2
        found |= ~mask & ~np.isnan(reference) & (np.isinf(got) | (beyond & ordinary))
    return found


def ranked_logits(logits: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same with numbers for what is none, that stand where it does: NaN and -inf are below all others."""
    if np.isfinite(logits).all():
        return logits
    ends = np.finfo(logits.dtype)
    found: npt.NDArray[Any] = np.nan_to_num(logits, nan=ends.min, posinf=ends.max, neginf=ends.min)
    return found


def compare_logits(reference: Logits, engine: Logits, clusters: Ints | None = None) -> Agreement:
    """Agreement of two float32[N,classes] logit arrays, of the photos int64[N] `clusters` (None: a photo each).

    `top5` counts photos whose engine answer is among the reference's five best; `cosine` is the smallest over the
    photos, of fewer than LEAST_NUMBERS classes that of all together; `sqnr_db` is 10 log10 of the signal's power over
    the difference's, over all photos. What is no number in both has no part in either; a photo without a number among
    the logits of the reference is left out. Raises ValueError for arrays of other shapes or without photos.
    """
    if reference.shape != engine.shape or reference.ndim != 2 or not len(reference):
        raise ValueError(f"logits of shapes {reference.shape} and {engine.shape} cannot be compared")
    n, sound = len(reference), counted(reference, engine, filling([reference]))
    told = np.flatnonzero(numbers(reference).any(1))
    if elsewhere(reference, engine).any() or not len(told):
        size = size_of(np.ones(n), clusters)
        finite = not elsewhere(reference, engine).any()
        return Agreement(n, 0, 0, math.nan, math.nan, finite, (), size.photos, size.effective, bool(len(told)))
    if len(told) < n:
        reference, engine, sound, n = reference[told], engine[told], sound[told], len(told)
        clusters = None if clusters is None else clusters[told]
    ours, theirs = ranked_logits(engine), ranked_logits(reference)
    wanted, got = theirs.argmax(1), ours.argmax(1)
    best = np.argsort(-theirs, 1, kind="stable")[:, :5]
    rows = np.arange(n)
    margins = theirs[rows, wanted] - theirs[rows, got]
    # Of classes that are the reference's best alike, as on the steps of whole numbers, either one is its answer.
    flipped = theirs[rows, wanted] > theirs[rows, got]
    flips = tuple(Flip(int(told[i]), int(wanted[i]), int(got[i]), float(margins[i])) for i in np.flatnonzero(flipped))
    a, b = (np.where(sound, each, 0).astype(np.float64) for each in (reference, engine))
    few = a.shape[1] < LEAST_NUMBERS
    one, other = (each.reshape(1, -1) if few else each for each in (a, b))
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    # Zeros are as near to zeros as can be.
    shared = np.sum(one * other, 1) / np.maximum(norms, np.finfo(np.float64).tiny)
    cosine = float(np.min(np.where(np.any(one, 1) | np.any(other, 1), shared, 1)))
    noise = float(np.sum((a - b) ** 2))
    sqnr = math.inf if noise == 0 else 10 * math.log10(float(np.sum(a**2)) / noise)
    top5 = int(np.sum(np.any(best == got[:, None], 1)))
    size = size_of(flipped.astype(np.float64), clusters)
    return Agreement(n, n - len(flips), top5, cosine, sqnr, True, flips, size.photos, size.effective)


def _closeness(agreement: Agreement) -> tuple[bool, bool, int, float]:
    return agreement.finite, not agreement.spoilt, agreement.top1, agreement.sqnr_db


def nearest(agreements: Sequence[Agreement]) -> Agreement:
    """Of several comparisons on the same photos the one with most answers alike, and then the least difference."""
    return max(agreements, key=_closeness)


def furthest(agreements: Sequence[Agreement]) -> Agreement:
    """Of several comparisons on the same photos the one with fewest answers alike, and then the most difference."""
    return min(agreements, key=_closeness)


# How much further apart than the few builds that were made others of the same version may lie: in the power of the
# difference and, with two photos to spare where hardly one flips, in answers. Of 3 builds a side on 240 photos like the
# old ones 0 to 0.8 % lie beyond that (29 % beyond the old ones' own distance); all with twice the noise do
# (tests/studies/rebuilds.py).
BAND = 2.0
SPARE_PHOTOS = 2


@dataclass(frozen=True)
class Rebuilt:
    """Whether each build of a new version answers as some build of the old one does, as far as those agree among
    themselves: by the number of answers alike, and by the power of the logits' difference."""

    answers: bool
    logits: bool


def rebuilt(old: Sequence[Agreement], new: Sequence[Sequence[Agreement]]) -> Rebuilt | None:
    """From the comparisons of the old builds with each other, and of each new one with every old one.

    None where there is one old build, which shows nothing. What lies furthest apart decides on either side. (Not the
    worst photo's cosine: of a few pairs of alike builds that is any number.)
    """
    if not old:
        return None

    def holds(distance: Callable[[Agreement], float], spare: float = 0.0) -> bool:
        return max(min(map(distance, some)) for some in new) <= BAND * max(map(distance, old)) + spare

    finite = all(each.finite for some in new for each in some)
    # One class's logit of a thousand is hardly any power.
    spoilt = any(all(each.spoilt for each in some) for some in new)
    return Rebuilt(
        answers=finite and holds(lambda each: each.n - each.top1, SPARE_PHOTOS),
        logits=finite and not spoilt and holds(lambda each: 10 ** (-each.sqnr_db / 10)),
    )


NOT_FINITE = "the engine's logits hold NaN or infinity elsewhere than the reference's"
NOTHING = "the reference's logits hold no finite number: nothing can be compared"


def decide_agreement(agreement: Agreement, *, floor: float) -> Verdict:
    """Whether top-1 agreement reaches `floor`: PASS iff its lower bound does, REGRESSED iff its upper bound does not.

    In between it is INCONCLUSIVE, as is a sample that could not reach the floor even without one flip.
    """
    if not agreement.finite:
        return Verdict(Outcome.REGRESSED, Reason.NOT_FINITE, NOT_FINITE)
    if not agreement.measured:
        return Verdict(Outcome.INCONCLUSIVE, Reason.NOTHING_MEASURED, NOTHING)
    low, high = agreement.bounds
    ratio: dict[str, Any] = {"estimate": agreement.share, "low": low, "high": high}
    text = (
        f"top-1 agreement {agreement.top1} of {agreement.size}, {agreement.share:.1%}, "
        f"at least {low:.1%} and at most {high:.1%}"
    )
    if high < floor:
        return Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, f"{text}, is below the floor {floor:.1%}", **ratio)
    if low >= floor:
        return Verdict(Outcome.PASS, Reason.FLOOR_MET, f"{text}, reaches the floor {floor:.1%}", **ratio)
    message = f"{text}: too few photos to tell it from the floor {floor:.1%}"
    if agreement.effective < (needed := photos_needed(floor)):
        message += f", which takes {needed} single ones even without a flip"
    return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, message, **ratio)


@dataclass(frozen=True)
class Accuracy:
    """Labelled accuracy of the engine beside the reference's on the same n crops of `photos` photos.

    `lost` counts photos that only the reference has right, `gained` those that only the engine has right; together they
    are worth what was seen on `effective` single photos (see `shares`).
    """

    n: int
    reference_top1: int
    engine_top1: int
    reference_top5: int
    engine_top5: int
    lost: int
    gained: int
    photos: int
    effective: float

    @property
    def size(self) -> Size:
        return Size(self.n, self.photos, self.effective)

    @property
    def drop(self) -> float:
        """Share of photos lost by the engine, net; negative when it gains."""
        return (self.lost - self.gained) / self.n

    @property
    def drop_bounds(self) -> tuple[float, float]:
        """Lower and upper bound of `drop`, one-sided 95 % each."""
        worth = self.effective / self.n
        return difference_bounds(self.lost * worth, self.gained * worth, self.effective)


def measure_accuracy(
    reference: Logits, engine: Logits, labels: npt.NDArray[np.int64], clusters: Ints | None = None
) -> Accuracy:
    """Top-1 and top-5 accuracy of two float32[N,classes] logit arrays against int64[N] labels, of the photos int64[N]
    `clusters` (None: a photo each).

    On photos where NaN or infinity stand elsewhere in the engine's logits than in the reference's, it is right nowhere.
    """
    sound = ~elsewhere(reference, engine).any(1)

    def right(logits: Logits, k: int) -> npt.NDArray[np.bool_]:
        best = np.argsort(-ranked_logits(logits), 1, kind="stable")[:, :k]
        there = np.isfinite(logits).any(1) & (sound if logits is engine else True)
        found: npt.NDArray[np.bool_] = np.any(best == labels[:, None], 1) & there
        return found

    ours, theirs = right(engine, 1), right(reference, 1)
    size = size_of(theirs.astype(np.float64) - ours, clusters)
    return Accuracy(
        n=len(labels),
        reference_top1=int(theirs.sum()),
        engine_top1=int(ours.sum()),
        reference_top5=int(right(reference, 5).sum()),
        engine_top5=int(right(engine, 5).sum()),
        lost=int(np.sum(theirs & ~ours)),
        gained=int(np.sum(ours & ~theirs)),
        photos=size.photos,
        effective=size.effective,
    )


def decide_accuracy(accuracy: Accuracy, *, max_drop: float) -> Verdict:
    """Whether labelled top-1 accuracy stays within `max_drop` (0.015 is 1.5 points) of the reference's: PASS iff the
    upper bound of the drop does, REGRESSED iff its lower bound does not, else INCONCLUSIVE."""
    low, high = accuracy.drop_bounds
    text = (
        f"labelled top-1 {accuracy.engine_top1 / accuracy.n:.1%} against {accuracy.reference_top1 / accuracy.n:.1%} "
        f"of {accuracy.size}, a drop of {accuracy.drop * 100:+.1f} points, at least {low * 100:+.1f} and at most "
        f"{high * 100:+.1f}"
    )
    if low > max_drop:
        return Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, f"{text}; {max_drop * 100:.1f} are allowed")
    if high <= max_drop:
        return Verdict(Outcome.PASS, Reason.FLOOR_MET, f"{text}; {max_drop * 100:.1f} are allowed")
    message = f"{text}: too few photos to tell it from the {max_drop * 100:.1f} that are allowed"
    return Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, message)
