"""A class for each pixel: how many pixels have the reference's, and how well the areas of each class overlap."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from trtgate.expectations import Expectation
from trtgate.samples import Samples
from trtgate.tasks.base import Metric, Outputs, Score, Scores, Summary, own_scores, require_paired, spoilt_outputs
from trtgate.verdict.agreement import Rebuilt
from trtgate.verdict.decision import Decision
from trtgate.verdict.shares import student_t


@dataclass(frozen=True)
class Segmentation:
    """Classes are read from one output: the largest along axis 0 of a sample, [classes,H,W]; of a single channel those
    pixels that reach `threshold`."""

    output: str
    threshold: float = 0.5
    metric: Metric | None = None
    name: ClassVar[str] = "segmentation"

    def classes(self, answer: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """int64[H,W] of one sample's output."""
        values: npt.NDArray[Any] = np.asarray(answer)
        if values.ndim > 2 and values.shape[0] > 1:
            values = values.argmax(0)
        elif values.dtype.kind == "f":
            values = values.reshape(values.shape[-2:]) >= self.threshold
        return np.asarray(values.reshape(values.shape[-2:]), np.int64)

    def compare(self, reference: Outputs, got: Outputs, samples: Samples) -> Scores:
        """The share of equal pixels with bounds over the samples, and the mean intersection over union."""
        require_paired(reference, got)
        spoilt = spoilt_outputs(reference, got)
        if spoilt:
            return Scores(len(reference), (), spoilt)
        shares: list[float] = []
        both: dict[int, int] = {}
        either: dict[int, int] = {}
        same = True
        for a, b in zip(reference, got, strict=True):
            same = same and a[self.output].tobytes() == b[self.output].tobytes()
            wanted, mine = self.classes(a[self.output]), self.classes(b[self.output])
            if wanted.shape != mine.shape:
                raise ValueError(f"{self.output} of shapes {wanted.shape} and {mine.shape} cannot be compared")
            shares.append(float(np.mean(wanted == mine)))
            for label in np.union1d(wanted, mine).tolist():
                here, there = wanted == label, mine == label
                both[label] = both.get(label, 0) + int(np.sum(here & there))
                either[label] = either.get(label, 0) + int(np.sum(here | there))
        low, high = mean_bounds(shares)
        overlap = float(np.mean([both[label] / either[label] for label in either]))
        scores = [
            Score("equal pixels", self.output, float(np.mean(shares)), "agreement", "%", low, high),
            Score("mean IoU", self.output, overlap, "mean_iou", "%"),
            *own_scores(self.metric, reference, got),
        ]
        order = np.argsort(shares)[:3]
        examples = tuple(f"{samples.names[at]}: {shares[at]:.1%} equal pixels" for at in order if shares[at] < 1)
        return Scores(len(reference), tuple(scores), (), same, examples, {"samples": samples.digest}, samples.doubt)

    def decide(self, found: Scores, expectation: Expectation, builds: Rebuilt | None = None) -> list[Decision]:
        return found.decide(expectation, "agreement")

    def summary(self, found: Scores) -> Summary:
        return found.to_json(self.name)


def mean_bounds(shares: list[float]) -> tuple[float, float]:
    """One-sided 95 % bounds (Student) of the mean share of samples; everything from a single one."""
    if len(shares) < 2:
        return 0.0, 1.0
    mean = float(np.mean(shares))
    wide = student_t(len(shares) - 1) * float(np.std(shares, ddof=1)) / math.sqrt(len(shares))
    return max(0.0, mean - wide), min(1.0, mean + wide)
