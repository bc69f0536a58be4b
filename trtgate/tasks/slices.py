"""Slices of outputs (a channel, a row), each judged by its own signal: what the noise of a whole output hides.

A slice's own signal and noise say whether it is spoilt. That a large error of one sample is no property of the slice is
told by the number of samples in which it is deaf: no nearer to the reference than zeros would be. An output that is all
zeros has no slice that stands out: what is beside it is judged as a whole.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from trtgate import fields
from trtgate.verdict.agreement import LEAST_NUMBERS, counted, filling

Floats = npt.NDArray[np.float64]
Pair = tuple[npt.NDArray[Any], npt.NDArray[Any]]

LARGEST = float(np.finfo(np.float32).max)
# No axis is longer: what a damaged file says of its length is not believed beyond this.
MOST = 50_000_000
# From here on what differs is the rounding of FP32 itself; from this floor on an engine is to compute what the
# reference computes, whatever it is given.
ENOUGH_DB = 60.0
# Against an older stack a slice is spoilt when it lost this much, and stands out as much from the old noise of all
# slices, or is deaf now: what rounding moves is neither.
SLICE_DB = 10.0
# The floor of engines that compute in floats, of however few bits.
FLOAT_DB = 20.0
# A slice with less of its own signal over noise is deaf; one with more than the other is not.
DEAF_DB, HEARD_DB = 1.0, 6.0
# What an exact engine's slice has at least, but where its noise is below FP32's rounding of the other slices.
EXACT_SLICE_DB, ROUNDING_DB = 20.0, 100.0
# Of integers: a slice in which more than this share differs, and so many times more than in the usual slice.
UNEQUAL, UNEQUAL_TIMES = 0.5, 5.0
# In so many samples at least a slice must have been heard, and in so many of them deaf: not in a few more where its
# signal is hardly any, and noise makes good what is wrong; in all of few, where single answers may flip.
SAMPLES = 3
STEADY = 0.9
# What is left of a slice's signal in one that is certainly wrong. Small probabilities that an engine of a narrow type
# has half as large again, or twice, are as deaf, and are rounding of what goes into a sigmoid.
LEFT = 0.1
# A slice that follows less than this of what the samples differ by, on most of them and whatever chance did, is stuck,
# or another sample's. Of so few samples nothing tells what they differ by.
FOLLOWS, ENOUGH_SAMPLES = 0.3, 3
# And as much must differ in so many of them (Kish's effective number).
ENOUGH_ALIKE = 5
# A slice that is as much quieter than the loudest one may be less than the steps that a narrow type has for both; so
# may what is as much below the noise that the loudest sample may have.
STEPS_DB, BELOW_FLOOR_DB = 30.0, 20.0
# Beside a reference of zeros anything is infinitely wrong; less than this is zero.
NOTHING = 1e-3


def ratio(decibels: float) -> float:
    """Decibels of power as a ratio."""
    return float(10 ** (decibels / 10))


def powers_of(pairs: Sequence[Pair], n: int) -> dict[str, Any]:
    """What is kept of an output's slices, of answers of the same shape of reference and engine to some of `n` samples:
    for each axis the power of signal and noise of each slice, the samples in which it is heard and in which it is deaf,
    and what it has left and follows of the reference's; the same powers of each sample. Axes that differ in length
    among the samples are left empty.

    Of integers the signal is 1 and the noise the share that is unequal.
    """
    first = pairs[0][0]
    if not first.ndim or len({a.ndim for a, _ in pairs}) > 1:
        return {}
    integers = first.dtype.kind != "f"
    fill = None if integers else filling([a for a, _ in pairs])
    axes: list[list[Floats]] = []
    for axis in range(first.ndim):
        lengths = {a.shape[axis] for a, _ in pairs}
        axes.append([np.zeros(next(iter(lengths)) if len(lengths) == 1 else 0) for _ in range(5)])
    wholes = [np.zeros(len(pairs)), np.zeros(len(pairs))]
    for sample, (before, after) in enumerate(pairs):
        if integers:
            signal, noise = np.ones(before.shape), np.asarray(before != after, np.float64)
            shared = 1 - noise
        else:
            sound = counted(before, after, fill)
            a, b = (np.where(sound, each, 0).astype(np.float64) for each in (before, after))
            with np.errstate(over="ignore"):
                signal, noise, shared = a * a, (a - b) ** 2, a * b
            if np.count_nonzero(sound) >= LEAST_NUMBERS:
                wholes[0][sample], wholes[1][sample] = _whole(a, b)
        for axis, kept in enumerate(axes):
            if not len(kept[0]):
                continue
            one, two, both = (_along(each, axis) for each in (signal, noise, shared))
            heard = one > 0
            deaf = two > UNEQUAL if integers else two * ratio(DEAF_DB) > one
            for index, more in enumerate((one, two, heard, heard & deaf, both)):
                kept[index] += np.asarray(more, np.float64)
    share = n / len(pairs)
    found = {
        "axes": [_pack("roots", np.sqrt(each * share)) for kept in axes for each in kept[:2]],
        "samples": [_pack("base64", each) for kept in axes for each in kept[2:4]],
        "left": [_pack("base64", _left(kept[0], kept[4])) for kept in axes],
    }
    if integers:
        return {**found, "integers": True}
    found["follows"] = [_pack("base64", each) for each in _follows(pairs, fill)]
    return {**found, "wholes": [_pack("base64", each) for each in wholes]}


def _follows(pairs: Sequence[Pair], fill: float | None) -> list[Floats]:
    """For each axis, of each slice, which part of what the samples differ by an engine gives at the most: about 1 for a
    right one, however much noise drowns it, 0 for one that is stuck; 1 where nobody knows, as of samples of more than
    one shape."""
    alone = all(a is b for a, b in pairs)  # the reference's own
    if alone or len(pairs) < ENOUGH_SAMPLES or len({each.shape for pair in pairs for each in pair}) > 1:
        return [np.ones(0) for _ in pairs[0][0].shape]

    def read(pair: Pair) -> tuple[Floats, Floats]:
        sound = counted(*pair, fill)
        a, b = (np.where(sound, each, 0).astype(np.float64) for each in pair)
        return a, b

    middles = [np.zeros(pairs[0][0].shape) for _ in range(2)]
    for pair in pairs:
        middles = [middle + each / len(pairs) for middle, each in zip(middles, read(pair), strict=True)]
    # Of each slice: the power of all, of what differs, what is shared of that, the noise in it; the squares of the
    # samples' shares of what differs; samples in which there is such, and which do not follow it.
    kept = [np.zeros((7, length)) for length in pairs[0][0].shape]
    for pair in pairs:
        a, b = read(pair)
        with np.errstate(over="ignore", invalid="ignore"):
            one, other = a - middles[0], b - middles[1]
            powers = (a * a, one * one, one * other, (one - other) ** 2)
            for axis, sums in enumerate(kept):
                found = np.stack([_along(each, axis) for each in powers])
                sums[:4] += found
                sums[4:] += found[1] ** 2, found[1] > 0, (found[1] > 0) & (found[2] < FOLLOWS * found[1])
    return [_followed(sums, pairs[0][0].size) for sums in kept]


def _followed(sums: Floats, size: int) -> Floats:
    power, apart, shared, noise, squares, there, astray = sums
    with np.errstate(all="ignore"):
        # What chance makes of noise: two standard errors.
        most = (shared + 2 * np.sqrt(noise * apart * len(power) / (there * size))) / apart
        told = (apart * ratio(ROUNDING_DB) > power) & (2 * astray > there) & np.isfinite(most)
        # Of a slice in which few samples have all of it they alone may be wrong.
        told &= apart**2 >= ENOUGH_ALIKE * squares
    found: Floats = np.where(told, np.clip(most, -LARGEST, LARGEST), 1.0)
    return found


def _whole(a: Floats, b: Floats) -> tuple[float, float]:
    """Of numbers of any size the root of the mean square, and that of their difference as a share of it; beside zeros
    as it is."""
    largest = float(np.abs(a).max())
    if not largest:
        most = float(np.abs(b).max())
        return 0.0, most * math.sqrt(float(np.mean((b / most) ** 2))) if most > NOTHING else 0.0
    size, off = (math.sqrt(float(np.mean((each / largest) ** 2))) for each in (a, a - b))
    return size * largest, off / size


def _along(power: Floats, axis: int) -> Floats:
    """The mean over everything but one axis."""
    others = tuple(index for index in range(power.ndim) if index != axis)
    found: Floats = power.mean(others) if power.size else np.zeros(power.shape[axis])
    return found


def _left(signal: Floats, shared: Floats) -> Floats:
    """Of each slice which part of its own signal an engine gives: 1 for all of it, 0 for anything else, less than that
    for its opposite."""
    with np.errstate(invalid="ignore"):
        found = np.where(signal > 0, shared / np.maximum(signal, np.finfo(np.float64).tiny), 1.0)
    left: Floats = np.clip(np.nan_to_num(found), -LARGEST, LARGEST)
    return left


def _pack(name: str, values: Floats) -> dict[str, Any]:
    # Of numbers such as 1e25 and 1e-25, or of those masked with the lowest there is, a power has no float32.
    return {"n": len(values), name: fields.packed(np.minimum(values, LARGEST))}


def _unpack(values: Mapping[str, Any]) -> Floats:
    """Powers or counts that `_pack` wrote. Raises ValueError for anything else."""
    n = values["n"]
    if type(n) is not int or not 0 <= n <= MOST:
        raise ValueError("powers: n is no length of an axis")
    # Counts, as powers of sessions saved before, are as they are.
    name = "roots" if "roots" in values else "base64"
    found = fields.unpacked("powers", base64.b64decode(values[name], validate=True), n)
    return found**2 if name == "roots" else found


def _steadily(kept: Mapping[str, Any], axis: int, n: int) -> npt.NDArray[np.bool_]:
    """Which slices are deaf in nearly all samples that they are heard in, and in enough; none of an older session's."""
    if "samples" not in kept:
        return np.zeros(n, bool)
    heard, deaf = (_unpack(each) for each in kept["samples"][2 * axis : 2 * axis + 2])
    if len(heard) != n or len(deaf) != n:
        raise ValueError("powers: the samples of an axis are not as many as its slices")
    found: npt.NDArray[np.bool_] = (deaf >= STEADY * heard) & (heard >= SAMPLES)
    return found


def _astray(kept: Mapping[str, Any], axis: int, n: int) -> npt.NDArray[np.bool_]:
    """Which slices are stuck, or another sample's; none of an older session's, or of samples of several shapes."""
    [most] = map(_unpack, kept["follows"][axis : axis + 1]) if "follows" in kept else [np.ones(0)]
    if len(most) not in {0, n}:
        raise ValueError("powers: what the slices of an axis follow is not of as many")
    return most < FOLLOWS if len(most) else np.zeros(n, bool)


def _told(name: str, axis: int, spoilt: npt.NDArray[np.bool_], noise: Floats) -> str:
    at = int(np.argmax(np.where(spoilt, noise, -1)))
    more = f" and {int(spoilt.sum()) - 1} more" if spoilt.sum() > 1 else ""
    return f"{name}, {at} along axis {axis} of a sample{more}"


def _named(name: str, found: Sequence[tuple[int, npt.NDArray[np.bool_], Floats]]) -> list[str]:
    """The slices of the one axis that tells most: what is wrong with a channel is seen in every row, too."""
    some = [each for each in found if 0 < each[1].sum() < len(each[1])]
    return [_told(name, *min(some, key=lambda each: float(each[1].mean())))] if some else []


def spoilt_slices(name: str, kept: Mapping[str, Any], floor_db: float) -> tuple[list[str], list[str]]:
    """The slices of an output that are not what the reference has, whatever the whole looks like, and those that may
    not be.

    An exact engine's have to be near. One of a narrower type is certainly wrong where few slices have far more noise
    than the usual one, and of a signal that is not all too quiet hardly anything left, deaf in nearly every sample, or
    follow nothing of what the samples differ by; most of them may be deaf.
    """
    certain, perhaps = [], []
    axes = [_unpack(each) for each in kept["axes"]]
    for axis in range(len(axes) // 2):
        signal, noise = axes[2 * axis : 2 * axis + 2]
        if len(noise) < 2 or not signal.any():
            continue
        exact, steady = floor_db >= ENOUGH_DB, _steadily(kept, axis, len(noise))
        if kept.get("integers"):
            share = noise / np.maximum(signal, 1)
            spoilt = (share > UNEQUAL) & (share > UNEQUAL_TIMES * np.median(share)) & (exact | steady)
            certain.append((axis, spoilt, noise))
        else:
            loud, left = noise > ratio(SLICE_DB) * np.median(noise), _unpack(kept["left"][axis])
            stuck = _astray(kept, axis, len(noise))
            spoilt = loud & ((steady & (left < LEFT)) | stuck) & (noise * ratio(STEPS_DB) > signal.max())
            loud &= steady
            if exact:
                spoilt = loud
                near = noise * ratio(EXACT_SLICE_DB) <= signal
                spoilt |= ~near & (noise * ratio(ROUNDING_DB) > signal.mean())
            certain.append((axis, spoilt, noise))
            # Beside a slice as loud as a mask the others are no louder than rounding, and may all be deaf.
            most = 2 * steady.sum() > len(steady)
            # Floats have steps of their own for each number, down to the smallest ones.
            stuck &= (noise * ratio(steps_below(floor_db)) > signal) & (noise * ratio(ROUNDING_DB) > signal.max())
            stuck &= floor_db >= FLOAT_DB
            perhaps.append((axis, steady if most else (loud | stuck) & ~spoilt, noise))
    return _named(name, certain), _named(name, perhaps)


def sample_decibels(kept: Mapping[str, Any], floor_db: float) -> tuple[Floats, npt.NDArray[np.bool_]] | None:
    """float64[n], of what `powers_of` kept, the signal to noise of each sample by itself, since a loud one may have all
    of the power, infinite where there is nothing to judge; and bool[n], whose noise is not less than the steps that a
    type with that floor has for all of them. None where an older session kept none."""
    if "wholes" not in kept:
        return None
    sizes, off = map(_unpack, kept["wholes"])
    if len(sizes) != len(off) or not len(off):
        raise ValueError("powers: as many samples have a signal as have noise")
    noise, largest = np.where(sizes > 0, off * sizes, off), float(sizes.max())
    with np.errstate(divide="ignore"):
        decibels = np.where(sizes > 0, -20 * np.log10(off), -np.inf)
    decibels[noise * _root(ROUNDING_DB) <= largest] = np.inf
    return decibels, noise * _root(steps_below(floor_db)) > largest


def steps_below(floor_db: float) -> float:
    """How far below the loudest a type with that floor may have no steps any more, in dB."""
    return ROUNDING_DB if floor_db >= ENOUGH_DB else max(STEPS_DB, floor_db + BELOW_FLOOR_DB)


def _root(decibels: float) -> float:
    return math.sqrt(ratio(decibels))


def lost_samples(
    old: Mapping[str, Any], new: Mapping[str, Any], least_db: float, lost_db: float, floor_db: float
) -> Floats | None:
    """float64[n], of what `powers_of` kept of either: 1 for each sample that has less than `least_db` now and had not,
    -1 for the other way round, if it moved by `lost_db`; 0 for the others. None where either kept none, or others.

    Those that may be less than the steps of a type with that floor count only if they are most of all.
    """
    before, after = (sample_decibels(side, floor_db) for side in (old, new))
    if before is None or after is None or len(before[0]) != len(after[0]):
        return None
    far = [each[0] < least_db for each in (before, after)]
    with np.errstate(invalid="ignore"):
        moved = np.abs(before[0] - after[0]) > lost_db
    changes = np.where(moved, far[1].astype(np.float64) - far[0], 0.0)
    return changes if 2 * changes.sum() > len(changes) else np.where(before[1] | after[1], changes, 0.0)


def changed_slices(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The slices of outputs whose own power alone says that they are other ones than before, whatever the whole looks
    like. Both are the `kept` of references. Raises ValueError for what is none."""
    found = []
    for name, before in old["powers"].items():
        after = new["powers"].get(name)
        if after is None or len(before["axes"]) != len(after["axes"]) or before.get("integers"):
            continue
        some = []
        for axis in range(len(before["axes"]) // 2):
            was, now = (_unpack(side["axes"][2 * axis]) for side in (before, after))
            if len(was) != len(now) or len(was) < 2 or not was.any():
                continue
            # No noise that is less makes the one of the other.
            noise = (np.sqrt(was) - np.sqrt(now)) ** 2
            apart = (noise * ratio(EXACT_SLICE_DB) > was) & (noise * ratio(ROUNDING_DB) > was.mean())
            some.append((axis, apart, noise))
        found += _named(name, some)
    return found


def lost_slices(old: Mapping[str, Any], new: Mapping[str, Any], floor_db: float) -> list[str]:
    """The slices of outputs whose noise grew as no rounding makes it: "boxes, 7 along axis 0 of a sample".

    Both are the `kept` of a comparison with the same reference on the same samples. Raises ValueError for what is none.
    """
    found = []
    for name, before in old["powers"].items():
        after = new["powers"].get(name)
        if after is None or len(before["axes"]) != len(after["axes"]):
            continue
        axes = [[_unpack(each) for each in side["axes"]] for side in (before, after)]
        some = []
        for axis in range(len(axes[0]) // 2):
            (signal, noise), (_, noisier) = (side[2 * axis : 2 * axis + 2] for side in axes)
            if len(noise) != len(noisier) or len(signal) != len(noise) or len(noise) < 2 or not signal.any():
                continue
            steady = _steadily(after, axis, len(noise)) | (floor_db >= ENOUGH_DB)
            if after.get("integers"):
                lost = noisier > UNEQUAL_TIMES * noise
                some.append((axis, lost & (noisier > UNEQUAL * signal) & steady, noisier))
                continue
            apart = (noisier > ratio(SLICE_DB) * noise.mean()) & (noisier * ratio(ENOUGH_DB) > signal.mean())
            died = (signal > ratio(HEARD_DB) * noise) & (noisier * ratio(DEAF_DB) > signal) & steady
            lost = noisier > ratio(SLICE_DB) * np.maximum(noise, np.finfo(np.float64).tiny)
            far = noisier * ratio(min(floor_db, ENOUGH_DB)) > signal
            astray = _astray(after, axis, len(noise)) & (noisier * ratio(ENOUGH_DB) > signal.mean())
            some.append((axis, lost & (astray | (far & (apart | died))), noisier))
        found += _named(name, some)
    return found
