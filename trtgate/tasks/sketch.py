"""What a session keeps of the reference's own answers: small sketches, by which a later one is told from it.

A count sketch adds every element, with a random sign, to a random one of a few numbers. The squared distance of two
sketches is that of the answers themselves, but for some percent. Integers are sketched as which value stands where, so
that the squared distance is twice the number of elements that differ.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from trtgate import fields
from trtgate.tasks.base import NO_SIGNAL_DB, SAME_SHAPE, UNUSUAL, Outputs, Score
from trtgate.tasks.slices import NOTHING
from trtgate.verdict.agreement import masked
from trtgate.verdict.shares import groups_of, share_bounds

Floats = npt.NDArray[np.float64]
Keys = npt.NDArray[np.uint64]

# Numbers that the sketches of one output have together, over all samples: the noise power is then known to 2 %.
SIZE = 4096
# Elements at once, so that the memory stays flat, and what is made of them in the cache.
CHUNK = 1 << 16
# Of numbers beyond those of float32 that is kept.
LARGEST = float(np.finfo(np.float32).max)
# No session has more samples: what a damaged file says is not believed beyond this.
MOST = 10_000_000


@dataclass(frozen=True)
class Sketch:
    """One output's answers to N samples: `shapes`, where in each there is no number (`marks`, digests, "" for
    nowhere), and float64[N] `power`, float64[N,W] `sums`; of integers the power is the number of elements, and
    float64[N] `unusual` how many of them are not `usual`, the most frequent value; None of a session that kept none."""

    integers: bool
    shapes: tuple[tuple[int, ...], ...]
    marks: tuple[str, ...]
    power: Floats
    sums: Floats
    usual: int = 0
    unusual: Floats | None = None

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values; the inverse of `from_json`."""
        return {
            "integers": self.integers,
            "shapes": [list(each) for each in self.shapes],
            "marks": list(self.marks),
            # float32 has numbers such as 1e25 and 1e-25, and has not their powers.
            "roots": fields.packed(np.minimum(np.sqrt(self.power), LARGEST)),
            "width": self.sums.shape[1],
            "sums": fields.packed(np.clip(self.sums, -LARGEST, LARGEST).reshape(-1)),
            **({} if self.unusual is None else {"usual": self.usual, "unusual": fields.packed(self.unusual)}),
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Sketch:
        """A sketch from JSON values. Raises one of `fields.DAMAGED` for anything that `to_json` does not write."""
        shapes = fields.listed(fields.listed(fields.count))("shapes", values["shapes"])
        marks = fields.listed(fields.line)("marks", values["marks"])
        n, width = len(shapes), fields.batch("width", values["width"])
        if len(marks) != n or not 1 <= n <= MOST or width > SIZE:
            raise ValueError("a sketch is of as many shapes as marks, and no wider than it can be")
        # Sessions saved before have kept powers.
        kept = "roots" if "roots" in values else "power"
        power = fields.unpacked(kept, base64.b64decode(values[kept], validate=True), n)
        sums = fields.unpacked("sums", base64.b64decode(values["sums"], validate=True), n * width)
        if not (np.isfinite(power).all() and np.isfinite(sums).all() and (power >= 0).all()):
            raise ValueError("a sketch holds finite numbers, and powers from 0 on")
        if kept == "roots":
            power = power**2
        usual, unusual = values.get("usual", 0), None
        if type(usual) is not int:
            raise ValueError("the usual value of integers is one")
        if "unusual" in values:
            unusual = fields.unpacked("unusual", base64.b64decode(values["unusual"], validate=True), n)
            if not ((unusual >= 0) & (unusual <= power * (1 + 1e-6))).all():
                raise ValueError("no more elements are unusual than there are")
        integers = fields.flag("integers", values["integers"])
        return cls(integers, shapes, marks, power, sums.reshape(n, width), usual, unusual)


def sketch_of(name: str, arrays: Sequence[npt.NDArray[Any]]) -> Sketch:
    """The sketch of one output's answers, one array for each sample, of at least one."""
    integers, width = arrays[0].dtype.kind != "f", max(1, SIZE // len(arrays))
    power, sums, marks = np.zeros(len(arrays)), np.zeros((len(arrays), width)), []
    for index, array in enumerate(arrays):
        seed = int.from_bytes(hashlib.sha256(f"{name}\0{index}".encode()).digest()[:8], "little")
        places = hashlib.sha256()
        none = True
        for keys, values, odd in _elements(array.reshape(-1), seed, integers=integers):
            power[index] += float(np.sum(values * values))
            signs = 1.0 - 2.0 * (keys & np.uint64(1)).astype(np.float64)
            buckets = ((keys >> np.uint64(32)) % np.uint64(width)).astype(np.int64)
            sums[index] += np.bincount(buckets, signs * values, width)
            none &= not odd.any()
            places.update(odd.tobytes())
        marks.append("" if none else places.hexdigest()[:16])
    found = Sketch(integers, tuple(tuple(each.shape) for each in arrays), tuple(marks), power, sums)
    if not integers:
        return found
    usual = usual_value(arrays)
    return replace(found, usual=usual, unusual=np.array([np.sum(each != usual) for each in arrays], np.float64))


def _elements(
    flat: npt.NDArray[Any], seed: int, *, integers: bool
) -> Iterator[tuple[Keys, Floats, npt.NDArray[np.int8]]]:
    """Random keys of the elements, their values, and what is no number (int8: 0 for a number, else which), in parts."""
    for start in range(0, flat.size, CHUNK):
        part = flat[start : start + CHUNK]
        keys = _mixed(np.arange(start, start + part.size, dtype=np.uint64) * GOLDEN + np.uint64(seed))
        if integers:
            yield _mixed(keys ^ part.astype(np.int64).view(np.uint64)), np.ones(part.size), np.zeros(part.size, np.int8)
            continue
        values = part.astype(np.float64)
        odd = _odd(values)
        yield keys, np.where(odd == 0, np.clip(values, -LARGEST, LARGEST), 0.0), odd


def _odd(values: Floats) -> npt.NDArray[np.int8]:
    """Which elements are no numbers: 0 for a number, else which."""
    large = np.where(masked(values), np.where(values > 0, 2, 3), 0)
    return np.where(np.isnan(values), 1, large).astype(np.int8)


GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mixed(keys: Keys) -> Keys:
    """splitmix64, which is the same with every version of numpy."""
    keys = (keys ^ (keys >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    keys = (keys ^ (keys >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    found: Keys = keys ^ (keys >> np.uint64(31))
    return found


def usual_value(arrays: Sequence[npt.NDArray[Any]]) -> int:
    """The most frequent value of some integers or flags; 0 where there are none."""
    counts = Counter[int]()
    for each in arrays:
        values, times = np.unique(each, return_counts=True)
        counts.update(dict(zip(map(int, values), times.tolist(), strict=True)))
    return counts.most_common(1)[0][0] if counts else 0


def comparable(old: Sketch, new: Sketch) -> bool:
    """Whether two sketches are of as many samples, and made alike."""
    older = new.integers and old.unusual is not None and new.unusual is None
    return len(old.shapes) == len(new.shapes) and old.sums.shape == new.sums.shape and not older


def compare_sketches(name: str, old: Sketch, new: Sketch) -> list[Score] | None:
    """How alike two references' answers to the same samples are; None where one has NaN, infinity or a mask elsewhere.

    As `tensors.compare_output`: of the answers of one shape, and how many are where not all are. Raises ValueError for
    answers to other samples.
    """
    if not comparable(old, new):
        raise ValueError(f"{len(old.shapes)} answers cannot be compared with {len(new.shapes)}")
    alike = np.array([a == b and old.integers == new.integers for a, b in zip(old.shapes, new.shapes, strict=True)])
    same = all(a == b for a, b, fits in zip(old.marks, new.marks, alike, strict=True) if fits)
    if not same or (any(new.marks) and not any(old.marks)):
        return None
    scores = []
    if not alike.all():
        share = float(alike.mean())
        scores.append(Score(SAME_SHAPE, name, share, "agreement", "%", *share_bounds(share, len(alike))))
    if not alike.any():
        return scores
    off = (old.sums - new.sums)[alike]
    signal, noise = float(old.power[alike].sum()), float((off**2).sum())
    if old.integers:
        differing, sizes = (off**2).sum(1) / 2, old.power[alike]
        scores.append(equal_elements(name, differing, sizes))
        if old.unusual is not None and new.unusual is not None and old.usual == new.usual:
            # Where elements differ either one is unusual: of two values that is how many are, of more it is the most.
            most = (old.unusual[alike] + new.unusual[alike] + differing) / 2
            scores.append(equal_elements(name, differing, most, UNUSUAL))
        return scores
    return [*scores, Score("SQNR", name, _decibels(signal, noise, float(np.abs(off).max())), "sqnr_db", "dB")]


def elements_differing(old: Sketch, new: Sketch) -> list[float]:
    """About which share of each sample's integers is another one; 0 where none is, 1 where the shapes are others.

    The fewer numbers a sample's sketch has, the rougher: with 17 of them, as of 240 samples, within a third as a rule.
    """
    distances = ((old.sums - new.sums) ** 2).sum(1) / 2
    return [
        1.0 if a != b else min(1.0, float(distance / power)) if power else 0.0
        for a, b, distance, power in zip(old.shapes, new.shapes, distances, old.power, strict=True)
    ]


EQUAL = "equal elements"


def equal_elements(
    name: str, differing: Sequence[float] | Floats, sizes: Sequence[float] | Floats, what: str = EQUAL
) -> Score:
    """Of integers the share of elements that are equal, from how many differ in each sample, and how many there are."""
    groups = groups_of(len(sizes))
    off, count = (np.bincount(groups, np.asarray(each, np.float64)) for each in (differing, sizes))

    def equal(off: float, count: float) -> float:
        # Where there is nothing, nothing differs.
        return min(1.0, max(0.0, 1 - off / count)) if count > 0 else 1.0

    without = tuple(equal(*each) for each in zip(off.sum() - off, count.sum() - count, strict=True))
    key = "" if what == UNUSUAL else "agreement"
    return Score(what, name, equal(off.sum(), count.sum()), key, "%", without=without)


def _decibels(signal: float, noise: float, off: float) -> float:
    """`off` is what no element is off by more than, but by chance: beside zeros there is no share of anything."""
    if not signal or not noise:
        return math.inf if off <= NOTHING else NO_SIGNAL_DB
    return 10 * math.log10(signal / noise)


def marks_of(outputs: Outputs) -> dict[str, list[str]]:
    """Where there is no number in the outputs of floats, by name: a digest for each sample, "" for nowhere."""
    floats = [name for name, array in outputs[0].items() if np.asarray(array).dtype.kind == "f"]
    return {name: [_marked(np.asarray(row[name])) for row in outputs] for name in floats}


def _marked(array: npt.NDArray[Any]) -> str:
    flat = array.reshape(-1)
    odd = [_odd(flat[start : start + CHUNK].astype(np.float64)) for start in range(0, flat.size, CHUNK)]
    return hashlib.sha256(b"".join(each.tobytes() for each in odd)).hexdigest()[:16] if any(map(np.any, odd)) else ""


def marks_in(values: Any, n: int) -> dict[str, tuple[str, ...]]:
    """The inverse of `marks_of` for `n` samples. Raises one of `fields.DAMAGED` for anything else."""
    found = fields.mapped(fields.listed(fields.line))("marks", values)
    if any(len(each) != n for each in found.values()):
        raise ValueError(f"marks are of {n} samples")
    return found


def sketches_of(outputs: Outputs) -> dict[str, Any]:
    """The sketches of all outputs by name, as JSON values."""
    return {name: sketch_of(name, [np.asarray(row[name]) for row in outputs]).to_json() for name in outputs[0]}


def sketches_in(values: Any) -> dict[str, Sketch]:
    """The inverse of `sketches_of`. Raises one of `fields.DAMAGED` for anything else."""
    return {
        fields.line("an output", name): Sketch.from_json(each) for name, each in fields.table("sketch", values).items()
    }
