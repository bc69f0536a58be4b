"""Places of a batch: whether the answers at one of them are wrong, whatever sample stands there.

A kernel that is wrong may be so for a single place of a batch, which of many photos loses few. So samples are answered
at several places, at random, and each answer is held against the engine's own in the smallest batch: the kernels of
another batch size round otherwise, but at all places alike, and no more than they differ from the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from trtgate.signature import Tensors
from trtgate.tasks.base import Outputs, Task
from trtgate.tasks.detection import Detection, paired
from trtgate.tasks.segmentation import Segmentation
from trtgate.verdict.agreement import numbers
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.places import odd_places, told_by_others
from trtgate.verdict.policy import FAMILY_ALPHA

# A batch: which sample stands at each place, by its index, and the answers there.
Visits = tuple[Sequence[int], Outputs]
Floats = npt.NDArray[np.float64]

# Batches of which each place is seen in: four wrong answers of 128 lie at one of 32 places by chance in one of 80,000.
VISITS = 4
# Of so many orders of samples the one that repeats the fewest places is taken.
DRAWS = 50
# An answer is odd that is so many times as far off as the sample's others, and as the smallest batch from the
# reference, which another kernel may be, too.
TIMES = 2.0
# And by so much: of a detector the share of boxes that only one side has, of a segmenter that of other pixels, of
# numbers what the answers to other samples are apart.
LEAST = {Detection: 0.5, Segmentation: 1e-3}
LEAST_BY_VALUE = 1e-3
# Elements of an output by which answers are told from each other.
ELEMENTS = 4096


def arranged(samples: int, size: int) -> list[list[int]]:
    """Which of the first samples, those of two batches, stand at each place of VISITS batches: at random, each as often
    as any other, and as far as it can be at another place each time."""
    some, random, order = min(samples, 2 * size), np.random.default_rng(size), list[int]()
    been: set[tuple[int, int]] = set()

    def taken(after: Sequence[int]) -> list[tuple[int, int]]:
        return [(each, (len(order) + index) % size) for index, each in enumerate(after)]

    while len(order) < VISITS * size:
        draws = (random.permutation(some).tolist() for _ in range(DRAWS))
        best = min(draws, key=lambda each: sum(visit in been for visit in taken(each)))
        been |= set(taken(best))
        order += best
    return [order[start : start + size] for start in range(0, VISITS * size, size)]


def decide_places(task: Task, reference: Outputs, alone: Outputs, visits: Sequence[Visits]) -> Verdict:
    """Whether answers are as right at each place of a batch as at the others, and no other sample's; `reference` and
    `alone` are the answers in the smallest batch. REGRESSED only where it is proven."""
    metric = "agreement" if isinstance(task, Detection | Segmentation) else "fidelity"
    text, odd = "", _odd_answers(task, reference, alone, visits)
    if found := odd_places(odd, FAMILY_ALPHA / 2):
        first = sum(row[found[0]] for row in odd)
        elsewhere = sum(each for row in odd for at, each in enumerate(row) if at not in found)
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        text = (
            f"place {found[0]}{more}: {first} of {len(odd)} answers there are not what the same samples have elsewhere"
        )
        text += f", {elsewhere} of all others are not"
    elif copied := told_by_others(*_nearest(alone, visits), FAMILY_ALPHA / 2):
        text = f"{copied}, by whose samples are nearest in the smallest batch"
    how = f"{len(visits)} batches of samples at random places"
    if text:
        return Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, f"{text} ({how})", metric=metric)
    return Verdict(Outcome.PASS, Reason.ANSWERS_KEPT, f"no place stands out of {how}", metric=metric)


def _odd_answers(task: Task, reference: Outputs, alone: Outputs, visits: Sequence[Visits]) -> list[list[bool]]:
    """By batch and place, whether the answer there is far off, where the same sample's at other places are not."""
    apart = _apart(task, alone)
    usual = np.array([apart(a, b) for a, b in zip(alone, reference, strict=False)])
    chosen = [index for some, _ in visits for index in some]
    off = [apart(alone[index], row) for some, rows in visits for index, row in zip(some, rows, strict=True)]
    least = LEAST.get(type(task), LEAST_BY_VALUE)
    spread, found = float(np.median(usual)), []
    by_sample: dict[int, list[int]] = {}
    for at, index in enumerate(chosen):
        by_sample.setdefault(index, []).append(at)
    for at, index in enumerate(chosen):
        others = [off[other] for other in by_sample[index] if other != at]
        allowed = max(float(np.median(others)) if others else math.inf, float(usual[index]), spread)
        found.append(off[at] > max(least, TIMES * allowed))
    size = len(visits[0][0])
    return [found[start : start + size] for start in range(0, len(found), size)]


def _apart(task: Task, alone: Outputs) -> Callable[[Tensors, Tensors], float]:
    """How far two answers to a sample are apart."""
    if isinstance(task, Detection):

        def boxes(a: Tensors, b: Tensors) -> float:
            one, other = task.found(a), task.found(b)
            total = len(one.scores) + len(other.scores)
            return 1 - 2 * sum(paired(one, other).hits) / total if total else 0.0

        return boxes
    if isinstance(task, Segmentation):

        def pixels(a: Tensors, b: Tensors) -> float:
            one, other = (task.classes(each[task.output]) for each in (a, b))
            return (
                float(np.mean(one != other))
                if one.shape == other.shape and one.size
                else float(one.shape != other.shape)
            )

        return pixels
    scales = {name: _spread([row[name] for row in alone]) for name in alone[0]}
    return lambda a, b: max(_by_value(a[name], b[name], scale) for name, scale in scales.items())


def _by_value(a: npt.NDArray[np.generic], b: npt.NDArray[np.generic], scale: float) -> float:
    if a.shape != b.shape:
        return math.inf
    if a.dtype.kind != "f":
        return float(np.mean(a != b)) if a.size else 0.0
    difference = _numbers(a) - _numbers(b)
    return math.sqrt(float(np.mean(difference**2))) / scale if a.size else 0.0


def _numbers(a: npt.NDArray[np.generic]) -> Floats:
    return np.where(numbers(a), a, 0).astype(np.float64)


def _spread(answers: Sequence[npt.NDArray[np.generic]]) -> float:
    """What the answers to several samples are apart by, whatever they have in common; 1 where that is nothing."""
    if answers[0].dtype.kind != "f":
        return 1.0
    rows = [_numbers(each) for each in answers]
    common = np.mean(rows, 0) if len({each.shape for each in rows}) == 1 else 0.0
    power = float(np.mean([np.mean((each - common) ** 2) if each.size else 0.0 for each in rows]))
    return math.sqrt(power) or 1.0


def _nearest(alone: Outputs, visits: Sequence[Visits]) -> tuple[list[list[int]], list[list[int]]]:
    """By batch and place the sample that stands there, and the one of all these whose answer in the smallest batch is
    nearest to the answer there; -1 where several are, or nothing tells."""
    alone = alone[: 1 + max(index for chosen, _ in visits for index in chosen)]
    names = [
        name
        for name, array in alone[0].items()
        if array.dtype.kind == "f" and array.size and len({row[name].shape for row in alone}) == 1
    ]
    scales = {name: _spread([row[name] for row in alone]) for name in names}

    def thumb(row: Tensors) -> Floats | None:
        if not names or any(row[name].shape != alone[0][name].shape for name in names):
            return None
        parts = [_numbers(row[name].reshape(-1)[:: -(-row[name].size // ELEMENTS)]) / scales[name] for name in names]
        return np.concatenate(parts)

    known = np.stack([each for row in alone if (each := thumb(row)) is not None]) if names else np.empty((0, 0))
    nearest = []
    for _, rows in visits:
        some = []
        for row in rows:
            mine = thumb(row)
            distances = np.empty(0) if mine is None else np.sum((known - mine) ** 2, 1)
            order = np.sort(distances)
            unique = len(order) > 1 and order[0] < order[1]
            some.append(int(np.argmin(distances)) if unique else -1)
        nearest.append(some)
    return [list(some) for some, _ in visits], nearest
