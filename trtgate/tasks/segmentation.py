"""A class for each pixel: how many pixels have the reference's, and how well the areas of each class overlap."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from trtgate import fields
from trtgate.expectations import Expectation
from trtgate.samples import Samples
from trtgate.tasks.base import (
    Metric,
    Outputs,
    Score,
    Scores,
    Summary,
    own_scores,
    own_summary,
    require_paired,
    spoilt_outputs,
)
from trtgate.tasks.pictures import Pictured, from_json, furthest, header_to_json
from trtgate.tasks.sketch import marks_of, sketches_of
from trtgate.tasks.tensors import compare_outputs, kept_of, same_bits
from trtgate.verdict.agreement import Rebuilt
from trtgate.verdict.outcome import Verdict
from trtgate.verdict.shares import mean_bounds

# The least mean IoU where nobody says another: finding nothing but the background has a half of it.
MEAN_IOU = 0.7
# Classes with fewer of the pixels do not count in it.
RARE = 1e-4


@dataclass(frozen=True)
class Segmentation:
    """Classes are read from one output: the largest along axis 0 of a sample, [classes,H,W]; of a single channel those
    pixels that reach `threshold`. `stays` says that an axis of samples stands before that; outputs that are not read
    are compared by value."""

    output: str
    threshold: float = 0.5
    metric: Metric | None = None
    stays: bool = False
    name: ClassVar[str] = "segmentation"

    def classes(self, answer: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """int64[H,W] of one sample's output, or with more axes as the output has them."""
        values: npt.NDArray[Any] = np.asarray(answer)
        axis = int(self.stays)
        if values.ndim > 2 + axis and values.shape[axis] > 1:
            values = values.argmax(axis)
        elif values.dtype.kind == "f":
            values = values >= self.threshold
        # What is left of an axis of one channel.
        one = values.ndim > 2 + axis and values.shape[axis] == 1
        return np.asarray(values.squeeze(axis) if one else values, np.int64)

    def compare(self, reference: Outputs, got: Outputs, samples: Samples) -> Scores:
        """The share of equal pixels with bounds over the samples, and the mean intersection over union."""
        require_paired(reference, got)
        spoilt = spoilt_outputs(reference, got)
        if spoilt:
            return Scores(len(reference), (), spoilt)
        shares: list[float] = []
        both: dict[int, int] = {}
        seen: set[int] = set()
        either: dict[int, int] = {}
        sizes: list[str] = []
        for index, (a, b) in enumerate(zip(reference, got, strict=True)):
            if a[self.output].shape != b[self.output].shape:
                sizes.append(f"{samples.names[index]}: {a[self.output].shape} became {b[self.output].shape}")
                shares.append(0.0)
                continue
            wanted, mine = self.classes(a[self.output]), self.classes(b[self.output])
            seen |= set(np.unique(wanted).tolist())
            shares.append(float(np.mean(wanted == mine)) if wanted.size else 1.0)
            for label in np.union1d(wanted, mine).tolist():
                here, there = wanted == label, mine == label
                both[label] = both.get(label, 0) + int(np.sum(here & there))
                either[label] = either.get(label, 0) + int(np.sum(here | there))
        low, high = mean_bounds(shares)
        # A class of hardly a pixel has an overlap of all or nothing.
        total = sum(either.values())
        many = [label for label in either if either[label] >= RARE * total] or list(either)
        overlap = float(np.mean([both[label] / either[label] for label in many])) if many else 1.0
        others, unmeasured = compare_outputs([name for name in reference[0] if name != self.output], reference, got)
        scores = [
            Score("equal pixels", self.output, float(np.mean(shares)), "agreement", "%", low, high),
            Score("mean IoU", self.output, 0.0 if sizes else overlap, "mean_iou", "%", floor=MEAN_IOU),
            *others,
            *own_scores(self.metric, reference, got),
        ]
        if len(seen) < 2:
            unmeasured.append(f"{self.output}: the reference finds one class only, on every sample")
        order = np.argsort(shares)[:3]
        examples = tuple(f"{samples.names[at]}: {shares[at]:.1%} equal pixels" for at in order if shares[at] < 1)
        return Scores(
            len(reference),
            tuple(scores),
            (),
            same_bits(reference, got),
            (*sizes, *examples),
            {**kept_of(reference, got, samples), **self._pictures(reference, got, samples, shares)},
            samples.doubt,
            tuple(unmeasured),
        )

    def _pictures(self, reference: Outputs, got: Outputs, samples: Samples, shares: Sequence[float]) -> dict[str, Any]:
        """The small maps of the worst samples, as far as the answers are maps: the inverse of `pictured_maps`."""
        off = [1 - each for each in shares]
        chosen = furthest(off)
        sides: tuple[list[SmallMap], list[SmallMap]] = ([], [])
        for index in chosen:
            wanted, mine = (self.classes(row[index][self.output]) for row in (reference, got))
            if wanted.ndim != 2 or mine.ndim != 2 or not wanted.size or not mine.size:
                return {}
            both = wanted.shape == mine.shape
            differs = wanted != mine if both else np.ones(mine.shape, bool)
            sides[0].append(small_map(wanted, np.zeros(wanted.shape, bool)))
            sides[1].append(small_map(mine, differs))
        maps = {name: _to_json(side) if side else {} for name, side in zip(("reference", "engine"), sides, strict=True)}
        return {"pictures": {**header_to_json(samples, off, chosen), **maps}}

    def decide(self, found: Scores, expectation: Expectation, builds: Rebuilt | None = None) -> list[Verdict]:
        return found.decide(expectation, "agreement")

    def summary(self, found: Scores) -> Summary:
        return found.to_json(self.name)

    def own(self, reference: Outputs, samples: Samples) -> dict[str, Summary]:
        others = [name for name in reference[0] if name != self.output]
        rows = [{**row, self.output: self.classes(row[self.output])} for row in reference]
        pixels: Counter[int] = Counter()
        for row in rows:
            labels, counts = np.unique(row[self.output], return_counts=True)
            pixels.update(dict(zip(labels.tolist(), counts.tolist(), strict=True)))
        kept = {
            **kept_of(reference, reference, samples, others),
            "sketch": sketches_of(rows),
            "marks": marks_of(reference),
            "pixels": {self.output: {str(label): count for label, count in pixels.most_common(MOST_CLASSES)}},
        }
        return {"scores": own_summary(self.name, len(reference), kept)}


def ious_at_most(old: Any, new: Any) -> list[Score]:
    """What the mean intersection over union of two references' masks can be at most, by how many pixels of each class
    each output has. Raises one of `fields.DAMAGED` for what is no table of those."""
    before, after = (fields.mapped(fields.mapped(fields.count))("pixels", side) for side in (old, new))
    return [_iou_at_most(output, before[output], after[output]) for output in before if output in after]


def _iou_at_most(output: str, before: Mapping[str, int], after: Mapping[str, int]) -> Score:
    total = sum(before.values())
    many = [label for label, count in before.items() if count >= RARE * total]
    shares = [min(before[each], after.get(each, 0)) / max(before[each], after.get(each, 0), 1) for each in many]
    return Score(
        "mean IoU, at most", output, float(np.mean(shares)) if shares else 1.0, "mean_iou", "%", floor=MEAN_IOU
    )


# Whose pixels a reference counts.
MOST_CLASSES = 256
# Pixels of the longer side of a map that is kept: enough to see what is where, some KB a sample.
LONGEST = 96
# float32 holds whole numbers up to this.
LARGEST_CLASS = 2**24


@dataclass(frozen=True)
class SmallMap:
    """Classes of a sample in coarse cells: int64[h,w] the one in the middle of each, and how many of its pixels are
    not the reference's: 0 for none, 1 for fewer than half, 2 for the rest."""

    classes: npt.NDArray[np.int64]
    marks: npt.NDArray[np.int64]


def small_map(classes: npt.NDArray[np.int64], differs: npt.NDArray[np.bool_]) -> SmallMap:
    """A map of LONGEST cells at most of int64[H,W] and bool[H,W]."""
    shape = [max(1, round(side * min(1.0, LONGEST / max(classes.shape)))) for side in classes.shape]
    edges = [np.arange(cells + 1) * side // cells for cells, side in zip(shape, classes.shape, strict=True)]
    middle = np.ix_(*((each[:-1] + each[1:]) // 2 for each in edges))
    counts = np.add.reduceat(np.add.reduceat(differs.astype(np.int64), edges[0][:-1], 0), edges[1][:-1], 1)
    areas = np.outer(*(np.diff(each) for each in edges))
    marks = (counts > 0).astype(np.int64) + (2 * counts >= areas)
    return SmallMap(np.clip(classes[middle], -LARGEST_CLASS, LARGEST_CLASS), np.where(counts > 0, marks, 0))


def _to_json(maps: Sequence[SmallMap]) -> dict[str, Any]:
    numbers = np.concatenate([part.reshape(-1) for each in maps for part in (each.classes, each.marks)])
    return {"shapes": [list(each.classes.shape) for each in maps], "base64": fields.packed(numbers.astype(np.float64))}


def pictured_maps(values: Mapping[str, Any], n: int) -> Pictured[SmallMap]:
    """The maps of the worst of `n` samples. Raises one of `fields.DAMAGED` for anything that no session writes."""
    return from_json(values, n, _maps)


def _maps(side: Mapping[str, Any], count: int) -> list[SmallMap]:
    shapes = fields.listed(fields.listed(fields.count))("shapes", side["shapes"])
    if len(shapes) != count or any(len(each) != 2 or not 1 <= min(each) <= max(each) <= LONGEST for each in shapes):
        raise ValueError(f"pictures have a map of each of their samples, from 1 to {LONGEST} cells wide and high")
    sizes = [2 * height * width for height, width in shapes]
    numbers = fields.unpacked("maps", base64.b64decode(side["base64"], validate=True), sum(sizes))
    if not (np.isfinite(numbers).all() and (np.abs(numbers) <= LARGEST_CLASS).all()):
        raise ValueError("maps hold classes")
    found = []
    for shape, part in zip(shapes, np.split(numbers.astype(np.int64), np.cumsum(sizes)[:-1]), strict=True):
        classes, marks = part.reshape(2, *shape)
        if not ((marks >= 0) & (marks <= 2)).all():
            raise ValueError("marks of maps are 0, 1 or 2")
        found.append(SmallMap(classes, marks))
    return found
