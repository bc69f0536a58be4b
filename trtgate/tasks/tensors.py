"""Any outputs, element by element: the default for an ONNX file."""

from __future__ import annotations

import base64
import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from trtgate.expectations import Expectation
from trtgate.samples import Samples
from trtgate.tasks.base import Metric, Outputs, Score, Scores, Summary, own_scores, require_paired, spoilt_outputs
from trtgate.verdict.agreement import Rebuilt
from trtgate.verdict.decision import Decision

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TensorsTask:
    """Cosine, SQNR and the worst element of each output, the share of equal elements of integers; and a metric of the
    user's own, if any."""

    name: ClassVar[str] = "tensors"
    metric: Metric | None = None

    def compare(self, reference: Outputs, got: Outputs, samples: Samples) -> Scores:
        """Output by output; `kept` has the power of signal and noise of each slice of each, along every axis."""
        require_paired(reference, got)
        spoilt = spoilt_outputs(reference, got)
        scores: list[Score] = []
        unmeasured: list[str] = []
        kept: dict[str, Any] = {}
        same = True
        for name in reference[0]:
            pairs = [(a[name], b[name]) for a, b in zip(reference, got, strict=True)]
            same = same and all(a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)
            if all(a.dtype.kind == "f" and a.size and not np.isfinite(a).any() for a, _ in pairs):
                unmeasured.append(f"{name}: the reference has no finite number there")
            elif name not in spoilt:
                found, powers = _compare(name, pairs)
                scores += found
                kept |= {name: powers} if powers else {}
        if not spoilt:
            scores += own_scores(self.metric, reference, got)
        digest = hashlib.sha256("\0".join(samples.names).encode() + samples.digest.encode()).hexdigest()
        return Scores(
            len(reference),
            tuple(scores),
            spoilt,
            same,
            kept={"samples": digest, "digest": _digest(got), "powers": kept},
            doubt=samples.doubt,
            unmeasured=tuple(unmeasured),
        )

    def decide(self, found: Scores, expectation: Expectation, builds: Rebuilt | None = None) -> list[Decision]:
        return found.decide(expectation, "fidelity")

    def summary(self, found: Scores) -> Summary:
        return found.to_json(self.name)


def _digest(outputs: Outputs) -> str:
    digest = hashlib.sha256()
    for row in outputs:
        for name, array in row.items():
            digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _compare(
    name: str, pairs: Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]]
) -> tuple[list[Score], dict[str, Any]]:
    """The scores of one output, and the powers of its slices where all answers have one shape."""
    if any(a.shape != b.shape for a, b in pairs):
        equal = sum(a.shape == b.shape for a, b in pairs) / len(pairs)
        return [Score("share of answers of the same shape", name, equal, "agreement", "%")], {}
    if pairs[0][0].dtype.kind != "f":
        count = sum(a.size for a, _ in pairs)
        equal = sum(int(np.sum(a == b)) for a, b in pairs) / max(1, count)
        return [Score("equal elements", name, equal, "agreement", "%")], {}
    signal = noise = 0.0
    cosine, largest, off = 1.0, 0.0, 0.0
    slices: list[Floats] | None = None
    uniform = len({a.shape for a, _ in pairs}) == 1
    for before, after in pairs:
        sound = np.isfinite(before) & np.isfinite(after)
        a, b = (np.where(sound, each, 0).astype(np.float64) for each in (before, after))
        difference = (a - b) ** 2
        norms = math.sqrt(float(np.sum(a * a))) * math.sqrt(float(np.sum(b * b)))
        if norms:
            cosine = min(cosine, float(np.sum(a * b)) / norms)
        elif difference.max(initial=0.0) > NOTHING**2:
            cosine = min(cosine, 0.0)
        signal, noise = signal + float(np.sum(a * a)), noise + float(np.sum(difference))
        if a.size:
            largest, off = max(largest, float(np.abs(a).max())), max(off, math.sqrt(float(difference.max())))
        if uniform:
            found = [_along(each, axis) for axis in range(a.ndim) for each in (a * a, difference)]
            slices = found if slices is None else [x + y for x, y in zip(slices, found, strict=True)]
    if signal == 0 or noise == 0:
        sqnr = math.inf if off <= NOTHING else NO_SIGNAL_DB
    else:
        sqnr = 10 * math.log10(signal / noise)
    scores = [
        Score("cosine", name, cosine, "cosine"),
        Score("SQNR", name, sqnr, "sqnr_db", "dB"),
        # As one minus its error over the largest of the reference, so that more is better here, too.
        Score("worst element", name, 1 - off / largest if largest else float(off <= NOTHING)),
    ]
    powers = {"axes": [_pack(each) for each in slices]} if slices else {}
    return scores, powers


def _along(power: Floats, axis: int) -> Floats:
    """The mean over everything but one axis."""
    others = tuple(index for index in range(power.ndim) if index != axis)
    found: Floats = power.mean(others) if power.size else np.zeros(power.shape[axis])
    return found


def _pack(values: Floats) -> dict[str, Any]:
    raw = np.ascontiguousarray(values, "<f4").tobytes()
    return {"n": len(values), "base64": base64.b64encode(zlib.compress(raw, 9)).decode("ascii")}


# Beside a reference of zeros anything is infinitely wrong; less than this is zero.
NOTHING = 1e-3
NO_SIGNAL_DB = -200.0

# No axis is longer: what a damaged file says of its length is not believed beyond this.
MOST = 50_000_000


def _unpack(values: Mapping[str, Any]) -> Floats:
    """The inverse of `_pack`. Raises ValueError for anything else."""
    n = values["n"]
    if type(n) is not int or not 0 <= n <= MOST:
        raise ValueError("powers: n is no length of an axis")
    try:
        raw = zlib.decompressobj().decompress(base64.b64decode(values["base64"], validate=True), 4 * n + 1)
    except zlib.error as error:
        raise ValueError(f"powers cannot be unpacked ({error})") from error
    if len(raw) != 4 * n:
        raise ValueError("powers do not have the length of their axis")
    return np.frombuffer(raw, "<f4").astype(np.float64)


# Of signal to noise, as what is lost of it between two stacks: less is another rounding.
LOST_DB = 3.0
# From here on what differs is the rounding of FP32 itself.
ENOUGH_DB = 60.0
# A slice of an output (a channel, say) is spoilt when it lost this much, stands out as much from the old noise of all
# slices, and is below the engine's own floor: what rounding moves is neither.
SLICE_DB = 10.0


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
        for axis in range(len(axes[0]) // 2):
            (signal, noise), (_, noisier) = (side[2 * axis : 2 * axis + 2] for side in axes)
            if len(noise) != len(noisier) or len(noise) < 2:
                continue
            ten = 10 ** (SLICE_DB / 10)
            spoilt = (
                (noisier > ten * np.maximum(noise, np.finfo(np.float32).tiny))
                & (noisier > ten * noise.mean())
                & (noisier * 10 ** (min(floor_db, ENOUGH_DB) / 10) > signal)
                & (noisier > signal.mean() * 10 ** (-ENOUGH_DB / 10))
            )
            # The largest alone: what is wrong with a channel is seen in every row, too.
            if spoilt.any() and spoilt.sum() <= len(spoilt) // 2:
                at = int(np.argmax(np.where(spoilt, noisier, 0)))
                more = f" and {int(spoilt.sum()) - 1} more" if spoilt.sum() > 1 else ""
                found.append(f"{name}, {at} along axis {axis} of a sample{more}")
    return found
