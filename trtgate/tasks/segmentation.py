"""A class for each pixel: how many pixels have the reference's, and how well the areas of each class overlap."""

from __future__ import annotations

import base64
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    class_gone,
    class_lost,
    fallen,
    is_exact,
    lost_of_all,
    own_scores,
    own_summary,
    require_paired,
    spoilt_outputs,
)
from trtgate.tasks.pictures import Pictured, from_json, furthest, header_to_json
from trtgate.tasks.sketch import marks_of, sketches_of
from trtgate.tasks.slices import ENOUGH_DB, FLOAT_DB, powers_of, spoilt_slices
from trtgate.tasks.tensors import compare_outputs, kept_of, same_bits, stuck_outputs
from trtgate.verdict.agreement import Rebuilt
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import worst
from trtgate.verdict.shares import LEAST_GROUPS, groups_of, jackknife_margin, mean_bounds

# The least mean IoU where nobody says another: finding nothing but the background has a half of it.
MEAN_IOU = 0.7
# Sessions that have another kind of mean, with small classes as all others, call it FORMER_MEAN.
MEAN, FORMER_MEAN = "mean IoU of classes", "mean IoU"
# Classes with fewer of the pixels do not count in it.
RARE = 1e-4
# Nor do those that have fewer pixels on all samples, unless there are no others, as far as HALF of them is found: a few
# at its border are percents of such a class. What is gone counts.
FEW = 100
HALF = 0.5
# Of fewer pixels nobody judges a class by itself; one of fewer than FEW that is gone on so many samples is lost.
LEAST_PIXELS = 16
ENOUGH_SAMPLES = 3

Floats = npt.NDArray[np.float64]
Classes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segmentation:
    """Classes are read from one output: the largest along axis 0 of a sample, [classes,H,W]; of a single channel those
    pixels that reach `threshold`. `stays` says that an axis of samples stands before that, `last` that classes are the
    last axis, [H,W,classes]; outputs that are not read are compared by value."""

    output: str
    threshold: float = 0.5
    metric: Metric | None = None
    stays: bool = False
    last: bool = False
    name: ClassVar[str] = "segmentation"

    def classes(self, answer: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """int64[H,W] of one sample's output, or with more axes as the output has them."""
        values, axis = self._ordered(answer), int(self.stays)
        if values.ndim > 2 + axis and values.shape[axis] > 1:
            values = values.argmax(axis)
        elif values.dtype.kind == "f":
            values = values >= self.threshold
        # What is left of an axis of one channel.
        one = values.ndim > 2 + axis and values.shape[axis] == 1
        return np.asarray(values.squeeze(axis) if one else values, np.int64)

    def _ordered(self, answer: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """With the classes before rows and columns."""
        values: npt.NDArray[Any] = np.asarray(answer)
        axis = int(self.stays)
        return np.moveaxis(values, -1, axis) if self.last and values.ndim > 2 + axis else values

    def values(self, reference: Outputs, outputs: Outputs) -> list[npt.NDArray[Any]] | None:
        """What is compared beside the masks, of outputs of one side: numbers as they are, whole numbers of a map as
        integers; None where the masks are all that the reference has there."""
        truth, found = ([self._ordered(row[self.output]) for row in side] for side in (reference, outputs))
        if truth[0].dtype.kind != "f":
            return None
        finite = [each[np.isfinite(each)] for each in truth]
        if not all((each == np.rint(each)).all() for each in finite):
            return found
        if all(((each == 0) | (each == 1)).all() for each in finite):
            return None
        axis = int(self.stays)
        if truth[0].ndim > 2 + axis and truth[0].shape[axis] > 1:
            return found
        return [np.clip(np.rint(np.nan_to_num(each)), -LARGEST_CLASS, LARGEST_CLASS).astype(np.int64) for each in found]

    def compare(self, reference: Outputs, got: Outputs, samples: Samples) -> Scores:
        """The share of equal pixels with bounds over the samples, the mean intersection over union, and an SQNR.

        That is of what classes are read from. It has no floor: INT8 is judged by its masks, and another stack may lose
        as little of it as of other outputs.
        """
        require_paired(reference, got)
        spoilt = spoilt_outputs(reference, got)
        if spoilt:
            return Scores(len(reference), (), spoilt)
        shares: list[float] = []
        groups = groups_of(len(reference))
        # By class, of each group of samples: the pixels that both sides have, that either has, that the reference has.
        counts: defaultdict[int, Floats] = defaultdict(lambda: np.zeros((3, groups[-1] + 1)))
        resized: list[str] = []
        for index, (a, b) in enumerate(zip(reference, got, strict=True)):
            if a[self.output].shape != b[self.output].shape:
                resized.append(f"{samples.names[index]}: {a[self.output].shape} became {b[self.output].shape}")
                shares.append(0.0)
                continue
            wanted, mine = self.classes(a[self.output]), self.classes(b[self.output])
            shares.append(float(np.mean(wanted == mine)) if wanted.size else 1.0)
            for label in np.union1d(wanted, mine).tolist():
                here, there = wanted == label, mine == label
                counts[label][:, groups[index]] += [np.sum(here & there), np.sum(here | there), np.sum(here)]
        low, high = mean_bounds(shares)
        counted = _counted(counts)
        overlap, without = _mean_ious(counted)
        told = {label: each for label, each in counted.items() if each[2].sum() >= LEAST_PIXELS}
        unread = [name for name in reference[0] if name != self.output]
        others, unmeasured = compare_outputs(unread, reference, got)
        unmeasured += stuck_outputs(unread, reference, got, samples)
        values = [self.values(reference, side) or [] for side in (reference, got)]
        under = [[{self.output: each} for each in side] for side in values]
        read = compare_outputs([self.output], under[0], under[1])[0] if under[0] else []
        scores = [
            Score("equal pixels", self.output, float(np.mean(shares)), "agreement", "%", low, high),
            Score(MEAN, self.output, 0.0, "mean_iou", "%", floor=MEAN_IOU)
            if resized
            else Score(MEAN, self.output, overlap, "mean_iou", "%", floor=MEAN_IOU, without=without),
            *(replace(each, key="") for each in read if each.unit == "dB"),
            *(each for each in read if each.name == "equal elements"),
            *others,
        ]
        scores += own_scores(self.metric, reference, got, scores)
        if sum(bool(each[2].any()) for each in counts.values()) < 2:
            unmeasured.append(f"{self.output}: the reference finds one class only, on every sample")
        order = np.argsort(shares)[:3]
        examples = tuple(f"{samples.names[at]}: {shares[at]:.1%} equal pixels" for at in order if shares[at] < 1)
        return Scores(
            len(reference),
            tuple(scores),
            (),
            same_bits(reference, got),
            (*resized, *examples),
            {
                **self._kept(reference, got, samples, values),
                **self._pictures(reference, got, samples, shares),
                "ious": {
                    self.output: {str(label): ious_of(each) for label, each in told.items() if each[2].sum() >= FEW}
                },
                "few": {
                    self.output: {
                        str(label): [_iou(each), int(np.sum(each[0] < HALF * each[1]))]
                        for label, each in told.items()
                        if each[2].sum() < FEW
                    }
                },
            },
            samples.doubt,
            tuple(unmeasured),
        )

    def _kept(
        self, reference: Outputs, got: Outputs, samples: Samples, values: Sequence[Sequence[npt.NDArray[Any]]]
    ) -> dict[str, Any]:
        if reference[0][self.output].dtype.kind != "f" or (values[0] and values[0][0].dtype.kind == "f"):
            return kept_of(reference, got, samples)
        kept = kept_of(reference, got, samples, [name for name in reference[0] if name != self.output])
        # A mask of floats has the slices of one of integers.
        masks = values if values[0] else [[self.classes(row[self.output]) for row in side] for side in (reference, got)]
        alike = [(a, b) for a, b in zip(*masks, strict=True) if a.shape == b.shape]
        if alike and (powers := powers_of(alike, len(reference))):
            kept["powers"][self.output] = powers
        return kept

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
        """Of an exact engine also that nothing is lost of the overlaps, and of what classes are read from; of any that
        no class is."""
        kept, floats = found.kept or {}, expectation.number("sqnr_db") >= FLOAT_DB
        lost = gone_classes(kept.get("ious", {}), expectation)
        if floats and found.kept:
            whole = {self.output: {label: [1.0, 0] for label in kept["few"][self.output]}}
            lost += lost_few(whole, kept["few"], class_lost(expectation))
        if is_exact(expectation) and found.kept:
            lost += lost_of_all([each for each in found.scores if each.key == "mean_iou"], expectation)
            lost += self._values_lost(found, expectation)
        return found.decide(expectation, "agreement", lost)

    def _values_lost(self, found: Scores, expectation: Expectation) -> list[Verdict]:
        """What is wrong with what an exact engine's classes are read from, or with the classes themselves."""
        read = [each for each in found.scores if each.of == self.output and each.unit == "dB"]
        decided = [each.decide(expectation) for each in (replace(score, key="sqnr_db") for score in read)]
        powers = (found.kept or {}).get("powers", {}).get(self.output)
        certain, _ = spoilt_slices(self.output, powers, ENOUGH_DB) if powers else ([], [])
        wrong = [f"{each}: not what the reference has there, whatever the whole looks like" for each in certain[:1]]
        return [
            *(Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, each) for each in wrong),
            *(each for each in decided if each is not None),
        ]

    def summary(self, found: Scores) -> Summary:
        return found.to_json(self.name)

    def own(self, reference: Outputs, samples: Samples) -> dict[str, Summary]:
        others = [name for name in reference[0] if name != self.output]
        maps = [self.classes(row[self.output]) for row in reference]
        rows = [{**row, self.output: classes} for row, classes in zip(reference, maps, strict=True)]
        values = self.values(reference, reference)
        labels, pixels = [], Counter[int]()
        for each in maps:
            there, counts = np.unique(each, return_counts=True)
            labels.append(there)
            pixels.update(dict(zip(there.tolist(), counts.tolist(), strict=True)))
        most = pixels.most_common(MOST_CLASSES)
        told = [each[np.isin(each, [label for label, _ in most])] for each in labels]
        kept = {
            **kept_of(reference, reference, samples, others),
            "sketch": sketches_of(rows),
            # By themselves: an output may have any name.
            "values": {} if values is None else sketches_of([{self.output: each} for each in values]),
            "marks": marks_of(reference),
            "pixels": {self.output: {str(label): count for label, count in most}},
            "areas": {self.output: areas_of(maps, told).to_json()},
        }
        return {"scores": own_summary(self.name, len(reference), kept)}


def _counted(counts: Mapping[int, Floats]) -> Mapping[int, Floats]:
    """The classes that may count in the mean, of all, each with float64[3,groups]: the pixels that both sides have,
    that either has, that the reference has."""
    total = sum(float(each[1].sum()) for each in counts.values())
    # A class of hardly a pixel has an overlap of all or nothing.
    return {label: each for label, each in counts.items() if each[1].sum() >= RARE * total} or counts


def _iou(each: Floats) -> float:
    both, either, _ = each.sum(1).tolist()
    return float(both / either)


def ious_of(each: Floats) -> list[float]:
    """The intersection over union of a class, and the same without each group of samples that has it, which alone can
    tell: of float64[2 or 3,groups]."""
    both, either = each[:2, each[1] > 0]
    left = either.sum() - either
    # Without the only ones that have it nothing is lost.
    without = np.where(left > 0, (both.sum() - both) / np.maximum(left, 1), 1.0)
    return [float(both.sum() / either.sum()), *without.tolist()]


def _mean_ious(counts: Mapping[int, Floats]) -> tuple[float, tuple[float, ...]]:
    """The mean intersection over union of classes, and the same without each group of samples."""
    sizes = ((own.sum(), (either - own).sum()) for _, either, own in counts.values())
    return _means([each[:2] for each in counts.values()], np.array([max(each) >= FEW for each in sizes], bool))


def _means(parts: Sequence[Floats], large: npt.NDArray[np.bool_]) -> tuple[float, tuple[float, ...]]:
    """`weighted_mean` of all samples and without each group of them, given of each class float64[2,groups]: the pixels
    that both sides have, and that either has."""
    if not parts:
        return 1.0, ()
    both, either = np.stack(parts, 1)
    left = [(each.sum(1, keepdims=True) - each).T for each in (both, either)]
    without = tuple(weighted_mean(shared, whole, large) for shared, whole in zip(*left, strict=True))
    return weighted_mean(both.sum(1), either.sum(1), large), without


def weighted_mean(both: Floats, either: Floats, large: npt.NDArray[np.bool_]) -> float:
    """The mean of both[n] / either[n], of the classes that there are. One that is not `large` weighs the less the more
    of it is found, and nothing from HALF on: so a pixel more or less never makes it count as a whole."""
    there = either > 0
    if not there.any():
        return 1.0
    ious = both[there] / either[there]
    weights = np.where(large[there], 1.0, np.maximum(0.0, 1 - ious / HALF))
    return float(np.average(ious, weights=weights if large[there].any() else None))


# Whose pixels a reference counts, and where they are.
MOST_CLASSES = 256
# Cells a side, of samples of any size; fewer, a power of two, where MOST_CELLS are not enough for all.
GRID = 16
GRIDS = tuple(GRID >> power for power in range(GRID.bit_length()))
# Numbers that the areas of one output have together at most, over all samples: some 500 KB of a session at the worst.
MOST_CELLS = 2**18


@dataclass(frozen=True)
class Areas:
    """Where the classes of samples are: of each sample, by the label of a class, float64[grid,grid], how many of its
    pixels are in each cell.

    Two masks share at most the lesser number in each cell, and have together at least the greater one: so an overlap
    is bounded from above, and no rounding is taken for a move. What moves within a cell is not seen. In samples of 640
    x 480, whose cells are 40 x 30 pixels, a square of 40 pixels that moves sideways by 5, 10, 20 and 40 has an IoU of
    78, 60, 33 and 0 %, and is said to have at most 78, 62, 40 and 13 % (60 samples, at random places); one of 20 pixels
    has 60, 33, 0 and 0 %, and is said to have at most 76, 61, 33 and 7 %. 100 such samples of eight classes take 35 KB.
    """

    grid: int
    samples: Sequence[Mapping[str, Floats]]

    def coarser(self, grid: int) -> Areas:
        """The same on a grid of so many cells a side."""
        times = self.grid // grid
        return Areas(
            grid,
            [
                {label: cells.reshape(grid, times, grid, times).sum((1, 3)) for label, cells in each.items()}
                for each in self.samples
            ],
        )

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; the inverse of `from_json`."""
        cells = [each.reshape(-1) for sample in self.samples for each in sample.values()]
        return {
            "grid": self.grid,
            "labels": [list(each) for each in self.samples],
            "base64": fields.packed(np.concatenate(cells) if cells else np.empty(0)),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Areas:
        """Areas from JSON values. Raises one of `fields.DAMAGED` for anything that `to_json` does not write."""
        labels = fields.listed(fields.listed(fields.line))("labels", values["labels"])
        grid, maps = fields.batch("grid", values["grid"]), sum(map(len, labels))
        if grid not in GRIDS or maps * grid**2 > MOST_CELLS:
            raise ValueError("areas have no more cells than they can have")
        found = fields.unpacked("areas", base64.b64decode(values["base64"], validate=True), maps * grid**2)
        if not (np.isfinite(found).all() and (found >= 0).all()):
            raise ValueError("areas hold numbers of pixels")
        cells = iter(found.reshape(maps, grid, grid))
        return cls(grid, [{label: next(cells) for label in each} for each in labels])


def areas_of(maps: Sequence[Classes], labels: Sequence[Classes]) -> Areas:
    """Where classes are, int64[...,H,W] of each sample, of which `labels` int64[n], sorted, are told; of so many that
    not even one cell each is left, in the first samples."""
    totals = np.cumsum([len(each) for each in labels])
    grid = next((each for each in GRIDS if totals[-1] * each**2 <= MOST_CELLS), 1)
    some = int(np.sum(totals * grid**2 <= MOST_CELLS))
    return Areas(grid, [cells_of(each, told, grid) for each, told in zip(maps[:some], labels[:some], strict=True)])


def cells_of(classes: Classes, labels: Classes, grid: int) -> dict[str, Floats]:
    """Float64[grid,grid] by the label of each class: how many of its pixels int64[...,H,W] have in each cell."""
    if not len(labels):
        return {}
    planes = classes.reshape(-1, *classes.shape[-2:]) if classes.ndim > 1 else classes.reshape(1, 1, -1)
    # So that two cells of a grid are one of the next coarser one, whatever the size.
    rows, columns = (np.arange(side) * grid // side for side in planes.shape[1:])
    which = np.minimum(np.searchsorted(labels, planes), len(labels) - 1)
    index = (which * grid + rows[:, None]) * grid + columns
    counts = np.bincount(index[labels[which] == planes], minlength=len(labels) * grid**2)
    return dict(zip(map(str, labels.tolist()), counts.reshape(-1, grid, grid).astype(np.float64), strict=True))


def areas_in(kept: Mapping[str, Any]) -> dict[str, Areas]:
    """The areas of a reference's outputs by name. Raises one of `fields.DAMAGED` for what are none."""
    return {
        fields.line("an output", name): Areas.from_json(each)
        for name, each in fields.table("areas", kept.get("areas", {})).items()
    }


def sizes_in(kept: Mapping[str, Any]) -> dict[str, Areas]:
    """The same of a session that kept no areas: as if all samples were one, and all of it one cell."""
    pixels = fields.mapped(fields.mapped(fields.count))("pixels", kept.get("pixels", {}))
    return {
        output: Areas(1, [{label: np.full((1, 1), float(count)) for label, count in each.items()}])
        for output, each in pixels.items()
    }


def ious_at_most(old: Mapping[str, Any], new: Mapping[str, Any], lost: float) -> list[Score]:
    """What the intersections over unions of two references' masks can be at most, of what each `kept`: their mean, and
    that of the class that can have the least, of which `lost` may be.

    By where the pixels of each class are, and where one side has not kept that, by how many there are. Raises one of
    `fields.DAMAGED` for what is no table of those.
    """
    whole = "areas" in old and "areas" in new
    before, after = (areas_in(side) if whole else sizes_in(side) for side in (old, new))
    return [
        score
        for output in before
        if output in after
        for score in _ious_at_most(output, before[output], after[output], lost)
    ]


def _ious_at_most(output: str, before: Areas, after: Areas, lost: float) -> list[Score]:
    grid, groups = min(before.grid, after.grid), groups_of(min(len(before.samples), len(after.samples)))
    sizes = defaultdict[str, float](float)
    # By class, of each group of samples: the pixels that both sides can have, and those that either has.
    parts: defaultdict[str, Floats] = defaultdict(lambda: np.zeros((2, groups[-1] + 1)))
    gone = Counter[str]()
    for group, here, there in zip(groups, before.coarser(grid).samples, after.coarser(grid).samples, strict=False):
        for label in {**here, **there}:
            one, other = (side.get(label, np.zeros((grid, grid))) for side in (here, there))
            shared, all_of_it = float(np.minimum(one, other).sum()), float(np.maximum(one, other).sum())
            sizes[label] += float(one.sum())
            parts[label][:, group] += [shared, all_of_it]
            gone[label] += shared < HALF * all_of_it
    total = sum(sizes.values())
    counted = {label: parts[label] for label, size in sizes.items() if size and size >= RARE * total}
    ious = {label: float(both.sum() / either.sum()) for label, (both, either) in counted.items()}
    some = [label for label in ious if sizes[label] >= FEW]
    mean, without = _means(list(counted.values()), np.array([sizes[label] >= FEW for label in ious], bool))
    found = [Score("mean IoU, at most", output, mean, "mean_iou", "%", floor=MEAN_IOU, without=without)]
    if some:
        least = min(some, key=lambda label: ious[label])
        most = most_of(ious_of(counted[least]))
        score = Score(f"IoU of class {least}, at most", output, ious[least], "", "%", ious[least], most)
        found.append(replace(score, floor=1 - lost))
    few = [label for label in ious if LEAST_PIXELS <= sizes[label] < FEW]
    if few:
        least = min(few, key=lambda label: ious[label])
        high = ious[least] if gone[least] >= ENOUGH_SAMPLES else 1.0
        score = Score(f"IoU of class {least}, at most", output, ious[least], "", "%", ious[least], high)
        found.append(replace(score, floor=min(HALF, 1 - lost)))
    return found


def ious_in(values: Any) -> dict[str, dict[str, list[float]]]:
    """By output and class its intersection over union with the reference, and the same without each group of samples,
    which older sessions have not kept. Raises one of `fields.DAMAGED` for anything else."""

    def read(name: str, value: Any) -> list[float]:
        found = fields.listed(fields.share)(name, value if isinstance(value, list) else [value])
        if not found:
            raise ValueError("no overlap of a class")
        return list(found)

    return fields.mapped(fields.mapped(read))("ious", values)


def lost_classes(old: Any, new: Any, lost: float) -> list[Verdict]:
    """On the class of each output whose intersection over union with the reference fell most, where that is by more
    than `lost`. Both are tables of those by output and class; raises one of `fields.DAMAGED` for what is none.

    It is REGRESSED if the samples that have the class prove it: by their bound, and where there are too few for one if
    as much is lost whichever of them is left out."""
    before, after = ious_in(old), ious_in(new)
    found = []
    for output in (name for name in before if name in after):
        some = []
        for label, (one, *_) in before[output].items():
            ious = after[output].get(label, [one])
            if one - ious[0] > lost:
                text = f"IoU of class {label} of {output} went from {one:.1%} to {ious[0]:.1%}, {lost:.1%} may be lost"
                some.append((ious[0] - one, fallen(text, proved=one - most_of(ious) > lost)))
        # One class that is gone for certain is not hidden by one that fell further on a single sample.
        if some:
            found.append(worst(verdict for _, verdict in sorted(some, key=lambda each: each[0])))
    return found


def gone_classes(ious: Any, expectation: Expectation) -> list[Verdict]:
    """On the classes, of a table as of `lost_classes`, of whose intersection over union with the reference more than
    `class_lost` is missing."""
    least = 1 - class_lost(expectation)
    found: list[Verdict] = []
    for output, classes in ious_in(ious).items():
        for label, each in classes.items():
            if each[0] < least:
                text = f"IoU of class {label} of {output} is {each[0]:.1%}, {1 - least:.1%} may be lost"
                found += class_gone(text, expectation, proved=most_of(each) < least)
    return found


def most_of(ious: Sequence[float]) -> float:
    """What a class's intersection over union is at most, of `ious_of`, one-sided 95 %; with too few samples to bound it
    what it is without the one that tells most."""
    value, *without = ious
    if len(without) < LEAST_GROUPS:
        return max(without, default=1.0)
    return min(1.0, value + jackknife_margin(without))


def few_in(values: Any) -> dict[str, dict[str, tuple[float, int]]]:
    """By output and class of fewer than FEW pixels its intersection over union with the reference, and on how many
    groups of samples it is less than HALF. Raises one of `fields.DAMAGED` for anything else."""

    def read(name: str, value: Any) -> tuple[float, int]:
        iou, gone = fields.items(name, value)
        return fields.share("an IoU", iou), fields.count("samples", gone)

    return fields.mapped(fields.mapped(read))("few", values)


def lost_few(old: Any, new: Any, lost: float) -> list[Verdict]:
    """On the class of each output, of those of `few_in`, whose overlap fell most, where it fell by more than HALF and
    than `lost`. It is REGRESSED where it is gone on ENOUGH_SAMPLES more of them."""
    before, after = few_in(old), few_in(new)
    found = []
    for output in (name for name in before if name in after):
        pairs = {
            label: (each, after[output][label]) for label, each in before[output].items() if label in after[output]
        }
        least = max(pairs, key=lambda label: pairs[label][0][0] - pairs[label][1][0], default="")
        (one, were), (other, are) = pairs.get(least, ((0.0, 0), (0.0, 0)))
        if one - other > max(HALF, lost):
            text = f"IoU of class {least} of {output}, of fewer than {FEW} pixels, went from {one:.1%} to {other:.1%}"
            found.append(fallen(text, proved=are - were >= ENOUGH_SAMPLES))
    return found


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
