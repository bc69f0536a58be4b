"""Boxes with a class and a score for each: which of the reference's are found again, and mean average precision.

The truth is what the reference found, or what people marked.
"""

from __future__ import annotations

import base64
import itertools
import json
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from trtgate import fields
from trtgate.expectations import Expectation
from trtgate.files import require_no_pipe
from trtgate.kinds import EngineRefused, UserError
from trtgate.samples import Samples
from trtgate.signature import Tensors
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
from trtgate.tasks.slices import FLOAT_DB
from trtgate.tasks.tensors import compare_outputs, kept_of, same_bits, stuck_outputs
from trtgate.verdict.agreement import ROUNDED, Rebuilt
from trtgate.verdict.outcome import Verdict
from trtgate.verdict.shares import groups_of, mean_bounds, ratio_bounds, share_bounds, size_of

Floats = npt.NDArray[np.float64]

# Boxes overlap by this much or are not the same one (PASCAL VOC).
SAME_BOX = 0.5
# Below this a box that was found again is told to have moved (COCO's strict threshold).
MOVED = 0.75
# COCO's thresholds of overlap.
OVERLAPS = tuple(0.5 + 0.05 * index for index in range(10))


# With a larger share of boxes of a negative size what is given is no corners; a network may give single ones.
TURNED = 0.25


@dataclass(frozen=True)
class Detections:
    """What was found on one sample: float64[n,4] corners (x1, y1, x2, y2), float64[n] scores, int64[n] labels."""

    boxes: npt.NDArray[np.float64]
    scores: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]

    @property
    def finite(self) -> bool:
        """Whether all boxes and scores are numbers."""
        return bool(np.isfinite(self.boxes).all() and np.isfinite(self.scores).all())

    @property
    def turned(self) -> npt.NDArray[np.bool_]:
        """bool[n]: the boxes of a negative size, beyond rounding."""
        sizes = self.boxes[:, 2:] - self.boxes[:, :2]
        found: npt.NDArray[np.bool_] = (sizes < -ROUNDED * np.abs(self.boxes).max(1, initial=0.0)[:, None]).any(1)
        return found

    def above(self, score: float) -> Detections:
        """Those that are as sure as that, or of which nobody knows how sure they are."""
        return self.at(~(self.scores < score))

    def at(self, chosen: Any) -> Detections:
        """Those of some indices, or where a mask holds."""
        return Detections(self.boxes[chosen], self.scores[chosen], self.labels[chosen])


Decode = Callable[[Tensors], Detections]


def from_outputs(boxes: str, scores: str, labels: str, form: str) -> Decode:
    """Detections of outputs by name: boxes [n,4], scores [n], or [n,classes] where there are no labels.

    `form` is "xyxy" for corners or "cxcywh" for centre and size.
    """

    def decode(outputs: Tensors) -> Detections:
        found = np.asarray(outputs[boxes], np.float64)
        if found.ndim == 0 or found.shape[-1] != 4:
            raise UserError(f"[detection]: {boxes} is of {list(found.shape)}, not [n,4]; write decode")
        found = found.reshape(-1, 4)
        if form == "cxcywh":
            half = found[:, 2:] / 2
            found = np.concatenate([found[:, :2] - half, found[:, :2] + half], 1)
        sure = np.asarray(outputs[scores], np.float64)
        classes = np.asarray(outputs[labels]).reshape(-1) if labels else np.empty(len(found))
        n = len(found)
        if n and (len(classes) != n or sure.size % n or (labels and sure.size != n) or not of_boxes(n, sure.shape)):
            shown = ", ".join(f"{name} {list(np.shape(outputs[name]))}" for name in (boxes, scores, labels) if name)
            raise UserError(f"[detection]: {shown} are not of as many boxes; write decode")
        if not len(found):
            return EMPTY
        if labels:
            return Detections(found, sure.reshape(-1), classes.astype(np.int64))
        sure = sure.reshape(len(found), -1)
        return Detections(found, sure.max(1), sure.argmax(1).astype(np.int64))

    return decode


def of_boxes(n: int, scores: Sequence[int]) -> bool:
    """Whether scores of some shape, as many as there are boxes or a multiple, are those of one box after the other:
    [classes,n] would be read as other boxes'."""
    others = [each for each in scores if each != 1]
    return len(others) < 2 or n in itertools.accumulate(others, operator.mul)


def from_function(function: Callable[..., Any]) -> Decode:
    """Detections by the user's own function of the outputs of one sample, giving boxes, scores and labels."""

    def decode(outputs: Tensors) -> Detections:
        try:
            boxes, scores, labels = function(outputs)
            found = Detections(
                np.asarray(boxes, np.float64),
                np.asarray(scores, np.float64).reshape(-1),
                np.asarray(labels, np.int64).reshape(-1),
            )
        except (Exception, SystemExit) as error:  # whatever the user's own code raises
            said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise UserError(f"the model's own decode failed ({said}); it must give boxes, scores and labels") from error
        n = len(found.scores)
        if found.boxes.size == 0 == n:
            return EMPTY
        if found.boxes.shape != (n, 4) or len(found.labels) != n:
            shapes = ", ".join(str(list(each.shape)) for each in (found.boxes, found.scores, found.labels))
            raise UserError(
                f"the model's own decode gives {shapes}; it must give boxes [n,4], scores [n] and labels [n]"
            )
        return found

    return decode


@dataclass(frozen=True)
class Detection:
    """`threshold` is how sure a detection must be to count; `truth` what people marked, by the sample's name; `stays`
    says that samples have an axis of one before all others. Outputs that nobody reads are compared by value."""

    decode: Decode
    threshold: float = 0.5
    truth: Mapping[str, Detections] | None = None
    metric: Metric | None = None
    stays: bool = False
    name: ClassVar[str] = "detection"

    def compare(self, reference: Outputs, got: Outputs, samples: Samples) -> Scores:
        """The share of the reference's detections that the engine has too, and no others beside; how near their
        scores are; average precision."""
        require_paired(reference, got)
        spoilt = spoilt_outputs(reference, got)
        if spoilt:
            return Scores(len(reference), (), spoilt)
        if self.truth is not None and not set(samples.names) & set(self.truth):
            known = next(iter(self.truth), "nothing")
            raise UserError(
                f"[detection] annotations: none of the samples, such as {samples.names[0]}, is in them "
                f"(they have {known}); give those of these photos"
            )
        read: set[str] = set()
        # What fills up a list of boxes, NaN and -inf too, does not count.
        theirs = [self._decoded(row, read).above(self.threshold) for row in reference]
        try:
            ours = [self._decoded(row, read).above(self.threshold) for row in got]
        except UserError as error:
            raise EngineRefused(f"of the engine's answers, not of the reference's: {error}") from error
        for index, each in enumerate(theirs):
            if not each.finite:
                raise UserError(
                    f"[detection]: boxes or scores of the reference on {samples.names[index]} are NaN or infinite; "
                    "mend decode, or name other outputs"
                )
        turned = np.concatenate([each.turned for each in theirs])
        if turned.size and turned.mean() > TURNED:
            raise UserError(
                f"[detection]: {turned.mean():.0%} of the reference's boxes end before they begin; write "
                'form = "cxcywh" where they are centres and sizes, or mend decode'
            )
        if not all(each.finite for each in ours):
            return Scores(len(reference), (), ("boxes or scores",))
        found, clusters, examples, off, sure = [], [], [], [], []
        matches = [paired(*each) for each in zip(theirs, ours, strict=True)]
        for index, (wanted, mine, pairs) in enumerate(zip(theirs, ours, matches, strict=True)):
            hits, extra = pairs.hits, len(pairs.extra)
            found += [*hits, *[False] * extra]
            clusters += [index] * (len(hits) + extra)
            off.append(pairs.off)
            sure.append(scores_of(wanted, mine, pairs))
            if extra or not all(hits):
                examples.append(f"{samples.names[index]}: {hits.count(False)} lost, {extra} more of {len(hits)}")
        scores = [_share(found, clusters)] if found else []
        scores += _confidence(sure, any(len(each.scores) for each in theirs))
        truth = self.truth
        marked = theirs if truth is None else [truth.get(name, EMPTY) for name in samples.names]
        # What people marked, the reference itself may miss.
        scores.append(average_precision_of(marked, ours, MEAN_AP if truth is None else None))
        # A function that copies the outputs as a whole may read any of them.
        unread = [name for name in reference[0] if name not in read] if read else []
        others, unmeasured = compare_outputs(unread, reference, got)
        scores += others
        unmeasured += stuck_outputs(unread, reference, got, samples)
        scores += own_scores(self.metric, reference, got, scores)
        if truth is not None and (count := _all_missed(marked, theirs)):
            unmeasured.append(
                f"mAP: of {count} boxes in annotations the reference finds none, as where their labels are not its own "
                "or they are in other pixels than its boxes"
            )
        if not any(len(each.scores) for each in theirs):
            unmeasured.append(
                f"the reference finds nothing on any sample that reaches the threshold {self.threshold:g}"
            )
        return Scores(
            len(reference),
            tuple(scores),
            (),
            same_bits(reference, got),
            tuple(examples),
            {
                # The noise of boxes tells their order: equally sure ones may stand in any.
                **kept_of(reference, got, samples, unread),
                "pictures": _pictures(samples, off, theirs, ours),
                "labels": labels_of(theirs, matches),
            },
            samples.doubt,
            tuple(unmeasured),
        )

    def found(self, row: Tensors) -> Detections:
        """What counts of one sample's answer."""
        return self._decoded(row, set()).above(self.threshold)

    def _decoded(self, row: Tensors, read: set[str]) -> Detections:
        # Copies: what works in place would change the answers that the next engine is held against.
        given = {name: (_first(array) if self.stays else array).copy() for name, array in row.items()}
        return self.decode(_Read(given, read))

    def decide(self, found: Scores, expectation: Expectation, builds: Rebuilt | None = None) -> list[Verdict]:
        """Of an exact engine also that nothing is lost of scores and places of boxes, and of any that no class is."""
        lost = gone_labels((found.kept or {}).get("labels", {}), expectation)
        if is_exact(expectation):
            whole = [
                each for each in found.scores if each.key == "confidence" or (each.key == "mean_ap" and each.floor)
            ]
            lost += lost_of_all(whole, expectation)
        return found.decide(expectation, "agreement", lost)

    def summary(self, found: Scores) -> Summary:
        return found.to_json(self.name)

    def own(self, reference: Outputs, samples: Samples) -> dict[str, Summary]:
        read: set[str] = set()
        found = [self._decoded(row, read).above(self.threshold) for row in reference]
        unread = [name for name in reference[0] if name not in read] if read else []
        rows = [{name: row[name] for name in unread} for row in reference]
        kept = {
            **kept_of(reference, reference, samples, unread),
            "sketch": sketches_of(rows),
            "marks": marks_of(reference),
        }
        return {"scores": own_summary(self.name, len(reference), {**kept, "boxes": boxes_to_json(found)})}


def _all_missed(marked: Sequence[Detections], found: Sequence[Detections]) -> int:
    """How many boxes people marked, where some were found and none is one of those; else 0."""
    if not any(len(each.scores) for each in found):
        return 0
    missed = [matched(wanted, mine)[0] for wanted, mine in zip(marked, found, strict=True)]
    return 0 if any(map(any, missed)) else sum(map(len, missed))


class _Read(dict[str, npt.NDArray[Any]]):
    """Outputs of a sample that note by name which of them are read."""

    def __init__(self, outputs: Tensors, read: set[str]) -> None:
        super().__init__(outputs)
        self._read = read

    def __getitem__(self, name: str) -> npt.NDArray[Any]:
        self._read.add(name)
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._read.add(name)
        return super().get(name, default)


def _first(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    return array[0] if array.ndim and len(array) == 1 else array


# The least mean average precision where the reference's own boxes are the truth and nobody says another.
MEAN_AP = 0.5
EMPTY = Detections(np.empty((0, 4)), np.empty(0), np.empty(0, np.int64))


# With samples that weigh alike, and with boxes that do.
CONFIDENCE, BY_BOX = "confidence kept", "confidence kept by box"


def _share(found: Sequence[bool], clusters: Sequence[int]) -> Score:
    values = np.asarray(found, np.float64)
    size = size_of(1 - values, np.asarray(clusters, np.int64))
    low, high = share_bounds(float(values.mean()), size.effective)
    return Score("boxes found again", "", float(values.mean()), "agreement", "%", low, high)


# Classes of which boxes are counted at most, those with the most boxes.
MOST_LABELS = 1024
# A class is lost for certain if so many of its boxes were found before, worth so many photos of their own where none is
# found any more; of one that is found still, so many must be gone.
# Of a thousand boxes of 80 classes of which either side misses others by chance, 2 %, two are gone of some class in a
# quarter of comparisons, three in a twentieth.
ENOUGH_BOXES = 3
ENOUGH_PHOTOS = 2.0


def labels_of(wanted: Sequence[Detections], matches: Sequence[Pairs]) -> dict[str, list[float]]:
    """Of each class by its label: how many boxes there are, how many of them are found, and how many boxes of photos of
    their own they are worth."""
    hits: dict[int, list[tuple[bool, int]]] = {}
    for sample, (each, pairs) in enumerate(zip(wanted, matches, strict=False)):
        for index, other in pairs.found.items():
            hits.setdefault(int(each.labels[index]), []).append((other is not None, sample))
    most = sorted(hits, key=lambda label: -len(hits[label]))[:MOST_LABELS]
    return {str(label): _counts_of(*zip(*hits[label], strict=True)) for label in most}


def _counts_of(hits: Sequence[bool], samples: Sequence[int]) -> list[float]:
    size = size_of(1 - np.asarray(hits, np.float64), np.asarray(samples, np.int64))
    return [len(hits), sum(hits), size.effective]


def labels_again(old: Sequence[Detections], new: Sequence[Detections]) -> dict[str, list[float]]:
    """The same of old detections among new ones."""
    return labels_of(old, [paired(*each) for each in zip(old, new, strict=False)])


def labels_in(values: Any) -> dict[str, tuple[int, int, float]]:
    """What `labels_of` gives, of a session. Raises one of `fields.DAMAGED` for anything else."""
    found = {}
    if len(fields.table("labels", values)) > MOST_LABELS:
        raise ValueError(f"boxes of {len(values)} classes are too many")
    for label, each in values.items():
        boxes, again, worth = fields.items("labels", each)
        counts = fields.batch("boxes", boxes), fields.count("boxes found again", again), fields.positive("worth", worth)
        if max(counts[1:]) > counts[0]:
            raise ValueError("no more boxes are found again than there are, nor are they worth more")
        found[fields.line("a class", label)] = counts
    return found


def lost_labels(old: Any, new: Any, lost: float) -> list[Verdict]:
    """On each class of whose boxes a share of more than `lost` is not found any more, which falls most first. Both are
    tables of `labels_of`; raises one of `fields.DAMAGED` for what is none.

    It is REGRESSED if the bound of the new share, or a class of which nothing is found, proves it, and as many boxes
    were found before as can, on more than one photo. One box fewer is no loss, nor are two of which others are still
    found.
    """
    before, after = labels_in(old), labels_in(new)
    some = []
    for label, (boxes, found, _) in before.items():
        now, again, worth = after.get(label, (boxes, found, 1.0))
        least = found / boxes - lost
        if again / now >= least - 1e-9 or found - again < (ENOUGH_BOXES if again else 2):
            continue
        gone = worth >= ENOUGH_PHOTOS if not again else share_bounds(again / now, worth)[1] < least
        proved = found >= ENOUGH_BOXES and gone
        text = f"boxes of class {label} found again went from {found} of {boxes} to {again} of {now}"
        verdict = fallen(f"{text}, {lost:.1%} may be lost", proved=proved)
        some.append((again / now - found / boxes, verdict))
    return [verdict for _, verdict in sorted(some, key=lambda each: each[0])]


def gone_labels(labels: Any, expectation: Expectation) -> list[Verdict]:
    """On the classes, of a table of `labels_of`, of whose boxes more than a share of `class_lost` is not found: for
    certain by its bound, or where an engine that computes in floats finds none on more than one photo."""
    least, floats = 1 - class_lost(expectation), expectation.number("sqnr_db") >= FLOAT_DB
    found: list[Verdict] = []
    for label, (boxes, again, worth) in labels_in(labels).items():
        if boxes - again >= ENOUGH_BOXES and again / boxes < least:
            proved = share_bounds(again / boxes, worth)[1] < least or (floats and not again and worth >= ENOUGH_PHOTOS)
            text = f"boxes of class {label} found again are {again} of {boxes}, {1 - least:.1%} may be lost"
            found += class_gone(text, expectation, proved=proved)
    return found


def scores_of(wanted: Detections, mine: Detections, pairs: Pairs) -> npt.NDArray[np.float64]:
    """float64[2,n]: of the boxes that both sides have, the scores that either gives."""
    both = [(index, each[0]) for index, each in pairs.found.items() if each is not None]
    first, second = (np.array(each, np.int64) for each in (zip(*both, strict=True) if both else ((), ())))
    found: npt.NDArray[np.float64] = np.stack([wanted.scores[first], mine.scores[second]])
    return found[:, np.isfinite(found).all(0)]


def _confidence(sure: Sequence[npt.NDArray[np.float64]], wanted: bool) -> list[Score]:
    """How near the scores of boxes that were found again are to the wanted ones, `scores_of` each sample: 1 less what
    they are off by, as a share of what those wanted are, whatever scale they have.

    Once on the average of samples, once of all boxes together. The first sees nothing of a few crowded samples, and the
    second can prove nothing where one sample has most boxes. Where boxes were `wanted` and none was found again,
    nothing is known.
    """

    def both(*values: tuple[float, float, float]) -> list[Score]:
        return [
            Score(name, "", value, "confidence", "%", low, high)
            for name, (value, low, high) in zip((CONFIDENCE, BY_BOX), values, strict=True)
        ]

    some = [each for each in sure if each.size]
    if not some:
        return both(*[(float(not wanted), float(not wanted), 1.0)] * 2)
    # Scores of any size: sums of the largest there are would be infinite.
    largest = max(float(np.abs(each).max()) for each in some) or 1.0
    some = [each / largest for each in some]
    usual = [float(np.abs(first).sum()) for first, _ in some]
    off = [float(np.abs(first - second).sum()) for first, second in some]
    counts = [each.shape[1] for each in some]
    typical = sum(usual) / sum(counts)
    kept = [
        max(0.0, 1 - each / count / typical) if typical else float(not each)
        for each, count in zip(off, counts, strict=True)
    ]
    sample = (float(np.mean(kept)), *mean_bounds(kept))
    if not typical:
        return both(sample, (float(not any(off)), 0.0, 1.0))
    least, most = ratio_bounds(off, usual)
    return both(sample, (max(0.0, 1 - sum(off) / sum(usual)), 1 - most, 1 - least))


def overlaps(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Intersection over union, float64[n,m], of boxes float64[n,4] and float64[m,4]; one that ends before it begins
    overlaps only what does so, too."""
    turned = [each[:, 2:] < each[:, :2] for each in (a, b)]
    (low, high), (other_low, other_high) = (
        (np.minimum(each[:, :2], each[:, 2:]), np.maximum(each[:, :2], each[:, 2:])) for each in (a, b)
    )
    within = np.minimum(high[:, None], other_high[None]) - np.maximum(low[:, None], other_low[None])
    both = np.prod(np.clip(within, 0, None), 2)
    union = np.prod(high - low, 1)[:, None] + np.prod(other_high - other_low, 1)[None] - both
    found: npt.NDArray[np.float64] = both / np.maximum(union, np.finfo(np.float64).tiny)
    if turned[0].any() or turned[1].any():
        found *= np.all(turned[0][:, None] == turned[1][None], 2)
    # A box without an area is itself, too.
    return np.where(np.all(a[:, None] == b[None], 2), 1.0, found)


# Overlaps in memory at once: of two lists of 25,200 boxes, as one detector has before any is left out, all are 5 GB.
OVERLAPS_AT_ONCE = 1 << 20


def rows_of_overlaps(a: npt.NDArray[np.float64], b: npt.NDArray[np.float64]) -> Iterator[npt.NDArray[np.float64]]:
    """The rows of `overlaps`, however many boxes there are."""
    step = max(1, OVERLAPS_AT_ONCE // max(1, len(b)))
    for start in range(0, len(a), step):
        yield from overlaps(a[start : start + step], b)


@dataclass(frozen=True)
class Pairs:
    """Which detections of two sides are the same: of each wanted one its index among the others and their overlap, or
    None; the wanted ones, and what is `extra` on the other side, by their indices, the surest first."""

    found: Mapping[int, tuple[int, float] | None]
    extra: tuple[int, ...]

    @property
    def hits(self) -> list[bool]:
        """Whether each wanted one was found."""
        return [each is not None for each in self.found.values()]

    @property
    def lost(self) -> list[int]:
        """The wanted ones that were not found."""
        return [index for index, each in self.found.items() if each is None]

    @property
    def moved(self) -> list[int]:
        """The wanted ones that were found, but not quite where they are."""
        return [index for index, each in self.found.items() if each is not None and each[1] < MOVED]

    @property
    def off(self) -> float:
        """How far the sides lie apart: the detections that only one has, and the part of those moved that is not
        shared."""
        moved = sum(1 - each[1] for each in self.found.values() if each is not None and each[1] < MOVED)
        return len(self.lost) + len(self.extra) + moved


def paired(wanted: Detections, mine: Detections, overlap: float = SAME_BOX) -> Pairs:
    """Which of the wanted detections there are among mine, the surest choosing first."""
    taken = np.zeros(len(mine.boxes), bool)
    found: dict[int, tuple[int, float] | None] = {}
    order = np.argsort(-wanted.scores, kind="stable")
    for index, row in zip(order.tolist(), rows_of_overlaps(wanted.boxes[order], mine.boxes), strict=True):
        fits = (~taken) & (mine.labels == wanted.labels[index]) & (row >= overlap)
        best = int(np.argmax(np.where(fits, row, -1))) if fits.any() else None
        found[index] = None if best is None else (best, float(row[best]))
        if best is not None:
            taken[best] = True
    surest = np.argsort(-mine.scores, kind="stable")
    return Pairs(found, tuple(int(index) for index in surest if not taken[index]))


def matched(wanted: Detections, mine: Detections, overlap: float = SAME_BOX) -> tuple[list[bool], int]:
    """Which of the wanted detections there are among mine, the surest first, and how many of mine are none of them."""
    pairs = paired(wanted, mine, overlap)
    return pairs.hits, len(pairs.extra)


def average_precision_of(
    truth: Sequence[Detections], found: Sequence[Detections], floor: float | None = MEAN_AP
) -> Score:
    """COCO's mAP: the mean over OVERLAPS and over the classes that there are in the truth, of the area under the curve
    of precision over recall. 1 where there is nothing to find and nothing was found, else 0.

    The floor holds where nobody says another. Of sides that kept the boxes of other numbers of samples the first ones
    count that both have.
    """
    both = min(len(truth), len(found))
    truth, found = truth[:both], found[:both]
    labels = sorted({int(label) for each in truth for label in each.labels})
    if not labels:
        nothing = not any(len(each.labels) for each in found)
        return Score("mAP", "", float(nothing), "mean_ap", "%", floor=floor)
    areas = np.stack([_average_precisions(truth, found, label) for label in labels])
    there = np.isfinite(areas)
    # Without the only samples that have a box there is nothing to find.
    means = np.where(there.any(0), np.where(there, areas, 0).sum(0) / np.maximum(there.sum(0), 1), 1.0)
    value, *without = means.tolist()
    return Score("mAP", "", value, "mean_ap", "%", floor=floor, without=tuple(without))


def _average_precisions(truth: Sequence[Detections], found: Sequence[Detections], label: int) -> Floats:
    """float64[1 + groups]: the average precision of one class, the mean over OVERLAPS, of all samples and without each
    group of them; NaN where none of the class is left."""
    groups = groups_of(len(truth))
    totals, scores, hits, owners = np.zeros(groups[-1] + 1), [], [], []
    for group, wanted, mine in zip(groups.tolist(), truth, found, strict=True):
        boxes = wanted.boxes[wanted.labels == label]
        chosen = np.flatnonzero(mine.labels == label)
        chosen = chosen[np.argsort(-mine.scores[chosen], kind="stable")]
        totals[group] += len(boxes)
        if len(chosen):
            scores.append(mine.scores[chosen])
            hits.append(_hits(mine.boxes[chosen], boxes))
            owners.append(np.full(len(chosen), group))
    left = np.concatenate([[totals.sum()], totals.sum() - totals])
    if not scores:
        return np.where(left > 0, 0.0, np.nan)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    right, owner = np.concatenate(hits, 1)[:, order], np.concatenate(owners)[order]
    kept = np.concatenate([np.ones((1, len(owner)), bool), owner != np.arange(len(totals))[:, None]])
    ranks = np.maximum(np.cumsum(kept, 1), 1)
    area = np.zeros(len(left))
    for each in right:
        here = kept & each
        precision = np.cumsum(here, 1) / ranks
        best = np.maximum.accumulate(precision[:, ::-1], 1)[:, ::-1]
        area += (here * best).sum(1)
    return np.where(left > 0, area / np.maximum(left, 1) / len(OVERLAPS), np.nan)


def _hits(mine: Floats, boxes: Floats) -> npt.NDArray[np.bool_]:
    """bool[OVERLAPS,n]: which of n detections, the surest first, find one of the m boxes that is free yet."""
    found, free = np.zeros((len(OVERLAPS), len(mine)), bool), np.ones((len(OVERLAPS), len(boxes)), bool)
    for index, row in enumerate(rows_of_overlaps(mine, boxes)):
        if row.max(initial=0.0) < OVERLAPS[0]:
            continue
        for at, overlap in enumerate(OVERLAPS):
            fits = free[at] & (row >= overlap)
            if fits.any():
                found[at, index] = True
                free[at, int(np.argmax(np.where(fits, row, -1)))] = False
    return found


# Boxes that are kept at most, of the first samples: 500 KB of a session.
MOST_BOXES = 20_000


def boxes_to_json(found: Sequence[Detections]) -> dict[str, Any]:
    """Detections of samples as JSON values; the inverse of `boxes_from_json`."""
    totals = np.cumsum([len(each.scores) for each in found])
    kept = found[: max(1, int(np.sum(totals <= MOST_BOXES)))]
    rows = [np.concatenate([each.boxes, each.scores[:, None], each.labels[:, None]], 1)[:MOST_BOXES] for each in kept]
    largest = np.finfo(np.float32).max
    numbers = np.clip(np.concatenate(rows).reshape(-1), -largest, largest)
    return {"counts": [len(each) for each in rows], "base64": fields.packed(numbers)}


def boxes_from_json(values: Mapping[str, Any]) -> list[Detections]:
    """Detections from JSON values. Raises one of `fields.DAMAGED` for anything that `boxes_to_json` does not write."""
    counts = fields.listed(fields.count)("counts", values["counts"])
    total = sum(counts)
    if total > MOST_BOXES:
        raise ValueError(f"{total} boxes are too many")
    table = fields.unpacked("boxes", base64.b64decode(values["base64"], validate=True), 6 * total).reshape(total, 6)
    if not (np.isfinite(table[:, 5]).all() and (np.abs(table[:, 5]) < LARGEST_LABEL).all()):
        raise ValueError("labels of boxes are no whole numbers")
    parts = np.split(table, np.cumsum(counts)[:-1]) if counts else []
    return [Detections(each[:, :4], each[:, 4], each[:, 5].astype(np.int64)) for each in parts]


def require_boxes(values: Mapping[str, Any], n: int) -> None:
    """Raises one of `fields.DAMAGED` unless the detections are of all `n` samples, or of as many as could be kept."""
    found = boxes_from_json(values)
    # How many the next one has is not known; one that alone has half of what can be kept has not been seen.
    full = 2 * sum(len(each.labels) for each in found) >= MOST_BOXES
    if len(found) > n or (len(found) < n and not full):
        raise ValueError(f"boxes are of {len(found)} samples, and there are {n}")


LARGEST_LABEL = 2.0**62

# Of one sample's to be shown, what differs first: more than can be told apart in a small picture.
MOST_SHOWN = 100


def _pictures(
    samples: Samples, off: Sequence[float], theirs: Sequence[Detections], ours: Sequence[Detections]
) -> dict[str, Any]:
    """The boxes of the worst samples as JSON values; the inverse of `pictured_boxes`."""
    chosen = furthest(off)
    shown = [most_shown(theirs[index], ours[index]) for index in chosen]
    sides = zip(*shown, strict=True) if shown else ([], [])
    boxes = {name: boxes_to_json(side) if shown else {} for name, side in zip(SIDES, sides, strict=True)}
    return {**header_to_json(samples, off, chosen), **boxes}


SIDES = ("reference", "engine")


def most_shown(wanted: Detections, mine: Detections) -> tuple[Detections, Detections]:
    """As many of either side as can be shown, pairs left together: so they are matched again as they are here."""
    pairs = paired(wanted, mine)
    lost, extra = pairs.lost[:MOST_SHOWN], list(pairs.extra[:MOST_SHOWN])
    both = [(index, each[0]) for index, each in pairs.found.items() if each is not None]
    both.sort(key=lambda pair: pair[0] not in pairs.moved)
    room = MOST_SHOWN - max(len(lost), len(extra))
    return (
        wanted.at([*lost, *(index for index, _ in both[:room])]),
        mine.at([*extra, *(index for _, index in both[:room])]),
    )


def pictured_boxes(values: Mapping[str, Any], n: int) -> Pictured[Detections]:
    """The boxes of the worst of `n` samples. Raises one of `fields.DAMAGED` for anything that no session writes."""

    def read(side: Mapping[str, Any], count: int) -> list[Detections]:
        found = boxes_from_json(side)
        if len(found) != count or any(len(each.scores) > MOST_SHOWN for each in found):
            raise ValueError(f"pictures have boxes of each of their samples, {MOST_SHOWN} at most")
        if not all(each.finite for each in found):
            raise ValueError("boxes of pictures are finite")
        return found

    return from_json(values, n, read)


def boxes_again(old: Sequence[Detections], new: Sequence[Detections]) -> Score | None:
    """The share of old detections that are found again, and no others beside; None where there are none at all."""
    found, clusters = [], []
    for index, (wanted, mine) in enumerate(zip(old, new, strict=False)):
        hits, extra = matched(wanted, mine)
        found += [*hits, *[False] * extra]
        clusters += [index] * (len(hits) + extra)
    return _share(found, clusters) if found else None


def confidence_again(old: Sequence[Detections], new: Sequence[Detections]) -> list[Score]:
    """How near the scores of old detections that are found again are to the old ones."""
    sure = [scores_of(wanted, mine, paired(wanted, mine)) for wanted, mine in zip(old, new, strict=False)]
    return _confidence(sure, any(len(each.scores) for each in old))


def read_coco(path: Path) -> dict[str, Detections]:
    """What people marked, by file name, of a COCO annotation file. Labels are its category ids.

    Raises UserError for what is none.
    """
    try:
        require_no_pipe(path)
        document = json.loads(path.read_text(encoding="utf-8-sig"))
        names = {each["id"]: str(each["file_name"]) for each in document["images"]}
        boxes: dict[str, list[tuple[list[float], int]]] = {name: [] for name in names.values()}
        for each in document["annotations"]:
            x, y, width, height = (fields.number("bbox", side) for side in each["bbox"])
            if min(width, height) < 0:
                raise ValueError(f"bbox {each['bbox']} is of negative size")
            label = fields.count("category_id", each["category_id"])
            boxes[names[each["image_id"]]].append(([x, y, x + width, y + height], label))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); give COCO annotations") from error
    except fields.DAMAGED as error:
        raise UserError(f"{path} is no file of COCO annotations ({type(error).__name__}: {error})") from error
    return {
        name: Detections(
            np.array([box for box, _ in some], np.float64).reshape(-1, 4),
            np.ones(len(some)),
            np.array([label for _, label in some], np.int64),
        )
        for name, some in boxes.items()
    }
