"""Any outputs, element by element: the default for an ONNX file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from trtgate.expectations import Expectation
from trtgate.samples import Samples
from trtgate.tasks.base import (
    NO_SIGNAL_DB,
    SAME_SHAPE,
    UNUSUAL,
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
from trtgate.tasks.sketch import equal_elements, sketches_of, usual_value
from trtgate.tasks.slices import ENOUGH_SAMPLES, NOTHING, ROUNDING_DB, Floats, Pair, powers_of, ratio
from trtgate.verdict.agreement import LEAST_NUMBERS, Rebuilt, counted, filling, numbers
from trtgate.verdict.outcome import Verdict
from trtgate.verdict.shares import share_bounds


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
        scores, unmeasured = compare_outputs(list(reference[0]), reference, got, spoilt)
        if not spoilt:
            scores += own_scores(self.metric, reference, got, scores)
        return Scores(
            len(reference),
            tuple(scores),
            spoilt,
            same_bits(reference, got),
            kept=kept_of(reference, got, samples),
            doubt=samples.doubt,
            unmeasured=(*unmeasured, *stuck_outputs(list(reference[0]), reference, got, samples)),
        )

    def decide(self, found: Scores, expectation: Expectation, builds: Rebuilt | None = None) -> list[Verdict]:
        return found.decide(expectation, "fidelity")

    def summary(self, found: Scores) -> Summary:
        return found.to_json(self.name)

    def own(self, reference: Outputs, samples: Samples) -> dict[str, Summary]:
        return {"scores": sketched(self.name, reference, samples)}


def sketched(task: str, reference: Outputs, samples: Samples) -> Summary:
    """What is kept of a reference's own answers of which every output is sketched."""
    kept = {**kept_of(reference, reference, samples), "sketch": sketches_of(reference)}
    return own_summary(task, len(reference), kept)


def compare_outputs(
    names: Sequence[str], reference: Outputs, got: Outputs, spoilt: Sequence[str] = ()
) -> tuple[list[Score], list[str]]:
    """The scores of some outputs but the `spoilt` ones, and a sentence for each of which nothing can be compared."""
    scores: list[Score] = []
    unmeasured: list[str] = []
    for name in names:
        pairs = _pairs(name, reference, got)
        some = [a for a, _ in pairs if a.size]
        if some and all(a.dtype.kind == "f" and not numbers(a).any() for a in some):
            unmeasured.append(f"{name}: the reference has no finite number there")
        elif name not in spoilt:
            scores += compare_output(name, pairs)
    return scores, unmeasured


def stuck_outputs(names: Collection[str], reference: Outputs, got: Outputs, samples: Samples) -> list[str]:
    """A sentence for each output of which the answers are no nearer to the reference's than one answer to all samples
    would be: beside what those have in common one that is stuck, or answers the sample before, has little noise."""
    if samples.doubt or len(reference) < ENOUGH_SAMPLES:
        return []
    return [
        f"{name}: one answer to all samples would be as near" for name in names if _stuck(_pairs(name, reference, got))
    ]


def _stuck(pairs: Sequence[Pair]) -> bool:
    some = [a for a, _ in pairs]
    if some[0].dtype.kind != "f" or len({each.shape for pair in pairs for each in pair}) > 1:
        return False
    scale, fill = scale_of(pairs), filling(some)

    def told(a: npt.NDArray[Any], b: npt.NDArray[Any]) -> tuple[Floats, Floats]:
        sound = counted(a, b, fill)
        return np.where(sound, a, 0).astype(np.float64) / scale, np.where(sound, b, 0).astype(np.float64) / scale

    common = sum((told(*each)[0] for each in pairs), np.zeros(())) / len(pairs)
    apart = noise = whole = 0.0
    for pair in pairs:
        a, b = told(*pair)
        apart, noise = apart + float(np.sum((a - common) ** 2)), noise + float(np.sum((a - b) ** 2))
        whole += float(np.sum(a * a))
    # What differs by rounding alone is the same to all.
    return apart > whole / ratio(ROUNDING_DB) and noise >= apart * (1 - 1e-6)


def kept_of(reference: Outputs, got: Outputs, samples: Samples, names: Collection[str] | None = None) -> dict[str, Any]:
    """What a later comparison needs of all outputs, as JSON values; the powers only of those of `names`, if given."""
    digest = hashlib.sha256("\0".join(samples.names).encode() + samples.digest.encode()).hexdigest()
    powers = {}
    for name in reference[0] if names is None else names:
        alike = [(a, b) for a, b in _pairs(name, reference, got) if a.shape == b.shape]
        if alike and (found := powers_of(alike, len(reference))):
            powers[name] = found
    return {"samples": digest, "digest": digest_of(got), "powers": powers}


def same_bits(reference: Outputs, got: Outputs) -> bool:
    """Whether two sides answer the same to the last bit."""
    return digest_of(reference) == digest_of(got)


def _pairs(name: str, reference: Outputs, got: Outputs) -> list[Pair]:
    return [(a[name], b[name]) for a, b in zip(reference, got, strict=True)]


def digest_of(outputs: Outputs) -> str:
    """SHA-256 of all answers, bit by bit."""
    digest = hashlib.sha256()
    for row in outputs:
        for name, array in row.items():
            digest.update(f"{name}:{array.dtype}:{array.shape};".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# The square of a larger number may be infinite, even of float64.
SQUARED = 1e100


def scale_of(pairs: Sequence[Pair]) -> float:
    """What some floats are divided by, so that their squares are numbers."""
    floats = [each for pair in pairs for each in pair if each.dtype.kind == "f"]
    wide = [each for each in floats if float(np.finfo(each.dtype).max) > SQUARED]
    largest = max((float(np.abs(each[np.isfinite(each)]).max(initial=0.0)) for each in wide), default=0.0)
    return largest if largest > SQUARED else 1.0


def _cosine(products: Floats) -> float:
    both, *sides = products.tolist()
    return float(both / (math.sqrt(sides[0]) * math.sqrt(sides[1])))


def compare_output(name: str, pairs: Sequence[Pair]) -> list[Score]:
    """The scores of one output: of the answers of the reference's shape, and how many are where not all are.

    The cosine is that of the worst sample; answers of a few numbers, which noise may turn where all are next to zero,
    have one together.
    """
    alike = [(a, b) for a, b in pairs if a.shape == b.shape]
    scores = []
    if len(alike) < len(pairs):
        share = len(alike) / len(pairs)
        scores.append(Score(SAME_SHAPE, name, share, "agreement", "%", *share_bounds(share, len(pairs))))
    if not alike:
        return scores
    if alike[0][0].dtype.kind != "f":
        usual, differing = usual_value([a for a, _ in alike]), [np.sum(a != b) for a, b in alike]
        unusual = [np.sum((a != usual) | (b != usual)) for a, b in alike]
        all_of_them = equal_elements(name, differing, [a.size for a, _ in alike])
        return [*scores, all_of_them, equal_elements(name, differing, unusual, UNUSUAL)]
    signal = noise = largest = off = few_off = 0.0
    cosines, few = [], np.zeros(3)
    scale, fill = scale_of(alike), filling([a for a, _ in alike])
    for before, after in alike:
        sound = counted(before, after, fill)
        a, b = (np.where(sound, each, 0).astype(np.float64) / scale for each in (before, after))
        difference = (a - b) ** 2
        products = np.array([np.sum(a * b), np.sum(a * a), np.sum(b * b)])
        most = math.sqrt(float(difference.max(initial=0.0)))
        if np.count_nonzero(sound) < LEAST_NUMBERS:
            few, few_off = few + products, max(few_off, most)
        elif products[1] and products[2]:
            cosines.append(_cosine(products))
        elif most > NOTHING / scale:
            cosines.append(0.0)
        signal, noise = signal + float(np.sum(a * a)), noise + float(np.sum(difference))
        if a.size:
            largest, off = max(largest, float(np.abs(a).max())), max(off, most)
    if few[1] and few[2]:
        cosines.append(_cosine(few))
    elif few_off > NOTHING / scale:
        cosines.append(0.0)
    if signal == 0 or noise == 0:
        sqnr = math.inf if off <= NOTHING / scale else NO_SIGNAL_DB
    else:
        sqnr = 10 * math.log10(signal / noise)
    return [
        *scores,
        Score("cosine", name, min([1.0, *cosines]), "cosine"),
        Score("SQNR", name, sqnr, "sqnr_db", "dB"),
        # As one minus its error over the largest of the reference, so that more is better here, too.
        Score("worst element", name, 1 - off / largest if largest else float(off <= NOTHING / scale)),
    ]
