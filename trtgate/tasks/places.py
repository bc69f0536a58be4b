"""Places of a batch: whether the answers at one of them are wrong, whatever sample stands there.

A kernel that is wrong may be so for a single place of a batch, which of many photos loses few. So samples are answered
at several places, at random, and each answer is held against the engine's own in the smallest batch: the kernels of
another batch size round otherwise, but at all places alike, and no more than they differ from the reference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trtgate.kinds import UserError
from trtgate.signature import Tensors
from trtgate.tasks.base import Outputs, Task
from trtgate.tasks.detection import Detection, paired, scores_of
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
# An answer is odd that is, by any measure, so many times as far off as the sample's others, as the usual answer, and as
# the smallest batch from the reference, which another kernel may be, too.
TIMES = 2.0
# And by so much: of a detector the share of boxes that only one side has, what the scores of the others are off by as a
# share of theirs, and what they do not overlap; of a segmenter the share of other pixels; of each output of numbers,
# and of its worst slice, what the answers to other samples are apart.
LEAST = {Detection: (0.5, 0.05, 0.1), Segmentation: (1e-3,)}
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


def decide_places(task: Task, reference: Outputs, alone: Outputs, visits: Iterable[Visits]) -> Verdict:
    """Whether answers are as right at each place of a batch as at the others, and no other sample's; `reference` and
    `alone` are the answers in the smallest batch, where that is asked about itself the reference's both. REGRESSED only
    where it is proven.

    Of the answers of `visits` those to one batch are in memory at a time, if they are made one by one.
    """
    metric = "agreement" if isinstance(task, Detection | Segmentation) else "fidelity"
    apart, thumb = _apart(task, alone), _thumb(alone)
    chosen, off, thumbs = list[list[int]](), list[list[Floats]](), list[list[Floats | None]]()
    for some, rows in visits:
        chosen.append(list(some))
        off.append([apart(alone[index], row) for index, row in zip(some, rows, strict=True)])
        thumbs.append([thumb(row) for row in rows])
    known = sorted({index for some in chosen for index in some})
    usual = {index: apart(alone[index], reference[index]) for index in known}
    text, odd = "", _odd_answers(chosen, off, usual, LEAST.get(type(task), (LEAST_BY_VALUE,)))
    how = f"{len(chosen)} batches of samples at random places"
    if found := odd_places(odd, FAMILY_ALPHA / 2):
        first = sum(row[found[0]] for row in odd)
        elsewhere = sum(each for row in odd for at, each in enumerate(row) if at not in found)
        more = f" and {len(found) - 1} more" if len(found) > 1 else ""
        text = (
            f"place {found[0]}{more}: {first} of {len(odd)} answers there are not what the same samples have elsewhere"
        )
        text += f", {elsewhere} of all others are not"
    elif copied := told_by_others(
        chosen, _nearest({each: thumb(alone[each]) for each in known}, thumbs), FAMILY_ALPHA / 2
    ):
        text = f"{copied}, by whose samples are nearest in the smallest batch"
    if text:
        return Verdict(Outcome.REGRESSED, Reason.ANSWERS_LOST, f"{text} ({how})", metric=metric)
    return Verdict(Outcome.PASS, Reason.ANSWERS_KEPT, f"no place stands out of {how}", metric=metric)


def _odd_answers(
    chosen: Sequence[Sequence[int]],
    off: Sequence[Sequence[Floats]],
    usual: Mapping[int, Floats],
    least: Sequence[float],
) -> list[list[bool]]:
    """By batch and place, whether the answer there is far off, where the same sample's at other places are not."""
    spread = np.maximum(np.median(list(usual.values()), 0), np.median([each for some in off for each in some], 0))
    by_sample: dict[int, list[tuple[int, int]]] = {}
    for batch, some in enumerate(chosen):
        for place, index in enumerate(some):
            by_sample.setdefault(index, []).append((batch, place))

    def odd(batch: int, place: int) -> bool:
        index = chosen[batch][place]
        others = [off[b][p] for b, p in by_sample[index] if (b, p) != (batch, place)]
        if not others:
            return False
        allowed = np.max([np.median(others, 0), usual[index], spread], 0)
        return bool((off[batch][place] > np.maximum(least, TIMES * allowed)).any())

    return [[odd(batch, place) for place in range(len(some))] for batch, some in enumerate(chosen)]


def _apart(task: Task, alone: Outputs) -> Callable[[Tensors, Tensors], Floats]:
    """How far two answers to a sample are apart, by one measure or several."""
    if isinstance(task, Detection):

        def boxes(a: Tensors, b: Tensors) -> Floats:
            one = task.found(a)
            try:
                other = task.found(b)
            except UserError:  # those that the model's own decode takes were answers
                return np.ones(3)
            pairs, total = paired(one, other), len(one.scores) + len(other.scores)
            overlaps = [each[1] for each in pairs.found.values() if each is not None]
            if not overlaps:
                return np.full(3, float(total > 0))
            both = scores_of(one, other, pairs)
            wanted, scores = both / (float(np.abs(both[0]).max(initial=0.0)) or 1.0)
            sure = float(np.abs(wanted - scores).sum() / np.abs(wanted).sum().clip(1e-9))
            return np.array([1 - 2 * len(overlaps) / total, sure, 1 - float(np.mean(overlaps))])

        return boxes
    if isinstance(task, Segmentation):

        def pixels(a: Tensors, b: Tensors) -> Floats:
            one, other = (task.classes(each[task.output]) for each in (a, b))
            differ = one != other if one.shape == other.shape else np.ones(1)
            return np.array([float(np.mean(differ)) if differ.size else 0.0])

        return pixels
    scales = {name: _spreads([row[name] for row in alone[:MOST_KNOWN]]) for name in alone[0]}
    return lambda a, b: np.array([each for name, some in scales.items() for each in _by_value(a[name], b[name], *some)])


def _by_value(
    a: npt.NDArray[np.generic], b: npt.NDArray[np.generic], scale: float, slices: Floats | None
) -> tuple[float, float]:
    """On the whole, and of the slice along the first axis that is furthest off, where those have a spread of their
    own."""
    if a.shape != b.shape:
        return math.inf, math.inf
    if not a.size:
        return 0.0, 0.0
    if a.dtype.kind != "f":
        return float(np.mean(a != b)), 0.0
    power = (_numbers(a) - _numbers(b)) ** 2
    worst = 0.0 if slices is None else float(np.max(_of_slices(power) / slices))
    return math.sqrt(float(np.mean(power))) / scale, math.sqrt(worst)


def _numbers(a: npt.NDArray[np.generic]) -> Floats:
    return np.where(numbers(a), a, 0).astype(np.float64)


def _of_slices(power: Floats) -> Floats:
    found: Floats = power.reshape(len(power), -1).mean(1)
    return found


# Answers in the smallest batch that tell what answers to several samples are apart by.
MOST_KNOWN = 64
# A slice with less power than this share of all of them is judged with them.
QUIET = 1e-2


def _spreads(answers: Sequence[npt.NDArray[np.generic]]) -> tuple[float, Floats | None]:
    """What the answers to several samples are apart by, whatever they have in common, 1 where that is nothing; and the
    power of that in each slice along the first axis, if there are such."""
    if answers[0].dtype.kind != "f":
        return 1.0, None
    alike = len({each.shape for each in answers}) == 1
    common = sum(map(_numbers, answers), np.zeros(())) / len(answers) if alike else np.zeros(())
    powers = ((_numbers(each) - common) ** 2 for each in answers)
    if alike and answers[0].ndim > 1 and answers[0].size:
        slices: Floats = sum(map(_of_slices, powers), np.zeros(len(answers[0]))) / len(answers)
        power = float(slices.mean())
        return math.sqrt(power) or 1.0, np.maximum(slices, QUIET * power or 1.0)
    power = float(np.mean([np.mean(each) if each.size else 0.0 for each in powers]))
    return math.sqrt(power) or 1.0, None


def _thumb(alone: Outputs) -> Callable[[Tensors], Floats | None]:
    """Some numbers of an answer by which it is told from the answers to other samples; None where it has none such."""
    some = alone[:MOST_KNOWN]
    names = [
        name
        for name, array in alone[0].items()
        if array.dtype.kind == "f" and array.size and len({row[name].shape for row in alone}) == 1
    ]

    def few(array: npt.NDArray[Any]) -> npt.NDArray[Any]:
        return array.reshape(-1)[:: -(-array.size // ELEMENTS)]

    scales = {name: _spreads([few(row[name]) for row in some])[0] for name in names}

    def thumb(row: Tensors) -> Floats | None:
        if not names or any(row[name].shape != alone[0][name].shape for name in names):
            return None
        return np.concatenate([_numbers(few(row[name])) / scales[name] for name in names])

    return thumb


def _nearest(known: Mapping[int, Floats | None], thumbs: Sequence[Sequence[Floats | None]]) -> list[list[int]]:
    """By batch and place which of the known samples' own answers is nearest to the answer there; -1 where several are,
    or nothing tells."""
    told = {index: each for index, each in known.items() if each is not None}
    indices, table = list(told), np.stack(list(told.values())) if told else np.empty((0, 0))

    def nearest(mine: Floats | None) -> int:
        distances = np.empty(0) if mine is None else np.sum((table - mine) ** 2, 1)
        order = np.sort(distances)
        unique = len(order) > 1 and order[0] < order[1]
        return indices[int(np.argmin(distances))] if unique else -1

    return [list(map(nearest, some)) for some in thumbs]
