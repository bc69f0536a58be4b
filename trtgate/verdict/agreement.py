"""Answers: how often an engine says what PyTorch says, and how far its logits are from PyTorch's.

Methods: Wilson's score interval (Wilson 1927; Brown, Cai and DasGupta 2001 recommend it for all n); the paired
difference of two proportions with Agresti and Min's adjustment (2005).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from trtgate.verdict.decision import Decision, Reason, Verdict

Logits = npt.NDArray[np.float32]

# One-sided 95 %.
Z = 1.6448536269514722


def wilson_lower(k: int, n: int, z: float = Z) -> float:
    """Lower bound of a proportion seen as k of n. Raises ValueError unless 0 <= k <= n and n > 0."""
    if not 0 <= k <= n or n == 0:
        raise ValueError(f"{k} of {n} is no proportion")
    share = k / n
    centre = share + z * z / (2 * n)
    spread = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, (centre - spread) / (1 + z * z / n))


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
    """Engine against reference on the same n photos."""

    n: int
    top1: int
    top5: int
    cosine: float
    sqnr_db: float
    finite: bool
    flips: tuple[Flip, ...]

    @property
    def share(self) -> float:
        return self.top1 / self.n

    @property
    def low(self) -> float:
        return wilson_lower(self.top1, self.n)


def compare_logits(reference: Logits, engine: Logits) -> Agreement:
    """Agreement of two float32[N,classes] logit arrays.

    `top5` counts photos whose engine answer is among the reference's five best; `cosine` is the smallest over the
    photos; `sqnr_db` is 10 log10 of the signal's power over the difference's, over all photos. Raises ValueError for
    arrays of other shapes or without photos.
    """
    if reference.shape != engine.shape or reference.ndim != 2 or not len(reference):
        raise ValueError(f"logits of shapes {reference.shape} and {engine.shape} cannot be compared")
    if not np.all(np.isfinite(reference)):
        raise ValueError("the reference's own logits are not finite")
    n = len(reference)
    if not np.all(np.isfinite(engine)):
        return Agreement(n, 0, 0, math.nan, math.nan, False, ())
    wanted, got = reference.argmax(1), engine.argmax(1)
    best = np.argsort(-reference, 1, kind="stable")[:, :5]
    rows = np.arange(n)
    margins = reference[rows, wanted] - reference[rows, got]
    flips = tuple(Flip(int(i), int(wanted[i]), int(got[i]), float(margins[i])) for i in np.flatnonzero(wanted != got))
    a, b = reference.astype(np.float64), engine.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = float(np.min(np.sum(a * b, 1) / np.maximum(norms, np.finfo(np.float64).tiny)))
    noise = float(np.sum((a - b) ** 2))
    sqnr = math.inf if noise == 0 else 10 * math.log10(float(np.sum(a**2)) / noise)
    top5 = int(np.sum(np.any(best == got[:, None], 1)))
    return Agreement(n, n - len(flips), top5, cosine, sqnr, True, flips)


def decide_agreement(agreement: Agreement, *, floor: float) -> Decision:
    """Whether top-1 agreement reaches `floor`: PASS iff its lower bound does, REGRESSED iff even the share does not.

    A lower bound below the floor with a share above it is INCONCLUSIVE, as is a sample that could not reach the floor
    even without one flip.
    """
    if not agreement.finite:
        return Decision(Verdict.REGRESSED, Reason.NOT_FINITE, "the engine's logits hold NaN or infinity")
    ratio = {"estimate": agreement.share, "low": agreement.low}
    text = f"top-1 agreement {agreement.top1}/{agreement.n} = {agreement.share:.1%}, at least {agreement.low:.1%}"
    if agreement.share < floor:
        return Decision(Verdict.REGRESSED, Reason.BELOW_FLOOR, f"{text}, is below the floor {floor:.1%}", **ratio)
    if agreement.low >= floor:
        return Decision(Verdict.PASS, Reason.FLOOR_MET, f"{text}, reaches the floor {floor:.1%}", **ratio)
    message = f"{text}: too few images to tell it from the floor {floor:.1%}"
    return Decision(Verdict.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, message, **ratio)


@dataclass(frozen=True)
class Accuracy:
    """Labelled accuracy of the engine beside the reference's on the same n photos.

    `lost` counts photos that only the reference has right, `gained` those that only the engine has right.
    """

    n: int
    reference_top1: int
    engine_top1: int
    reference_top5: int
    engine_top5: int
    lost: int
    gained: int

    @property
    def drop(self) -> float:
        """Share of photos lost by the engine, net; negative when it gains."""
        return (self.lost - self.gained) / self.n

    @property
    def drop_high(self) -> float:
        """Upper bound of `drop`: Wald on the paired difference, half a photo added to each cell (Agresti and Min)."""
        b, c, n = self.lost + 0.5, self.gained + 0.5, self.n + 2
        return (b - c + Z * math.sqrt(b + c - (b - c) ** 2 / n)) / n


def measure_accuracy(reference: Logits, engine: Logits, labels: npt.NDArray[np.int64]) -> Accuracy:
    """Top-1 and top-5 accuracy of two float32[N,classes] logit arrays against int64[N] labels."""

    def right(logits: Logits, k: int) -> npt.NDArray[np.bool_]:
        best = np.argsort(-logits, 1, kind="stable")[:, :k]
        found: npt.NDArray[np.bool_] = np.any(best == labels[:, None], 1)
        return found

    ours, theirs = right(engine, 1), right(reference, 1)
    return Accuracy(
        n=len(labels),
        reference_top1=int(theirs.sum()),
        engine_top1=int(ours.sum()),
        reference_top5=int(right(reference, 5).sum()),
        engine_top5=int(right(engine, 5).sum()),
        lost=int(np.sum(theirs & ~ours)),
        gained=int(np.sum(ours & ~theirs)),
    )


def decide_accuracy(accuracy: Accuracy, *, max_drop: float) -> Decision:
    """Whether labelled top-1 accuracy stays within `max_drop` (0.015 is 1.5 points) of the reference's."""
    text = (
        f"labelled top-1 {accuracy.engine_top1 / accuracy.n:.1%} against {accuracy.reference_top1 / accuracy.n:.1%}, "
        f"a drop of {accuracy.drop * 100:+.1f} points, at most {accuracy.drop_high * 100:+.1f}"
    )
    if accuracy.drop > max_drop:
        return Decision(Verdict.REGRESSED, Reason.BELOW_FLOOR, f"{text}; {max_drop * 100:.1f} are allowed")
    if accuracy.drop_high <= max_drop:
        return Decision(Verdict.PASS, Reason.FLOOR_MET, f"{text}; {max_drop * 100:.1f} are allowed")
    return Decision(Verdict.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, f"{text}: too few images to exclude {max_drop:.1%}")
