"""What a session keeps to show where an engine's answers are not the reference's: both sides' on the worst samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from trtgate import fields
from trtgate.samples import Frame, Samples
from trtgate.verdict.answers import digest_of_names

# Samples of one engine that are kept at most; a page shows fewer, those of two sides together.
MOST_SAMPLES = 24
# Pixels of a side of what a network sees: what a damaged file says is not believed beyond this.
MOST_PIXELS = 65_536
FITS = frozenset({"", "stretch", "crop", "pad"})

Answer = TypeVar("Answer")


@dataclass(frozen=True)
class Pictured(Generic[Answer]):
    """The samples on which an engine is furthest from the reference, and what both answer there.

    `photos` is a digest of the names of all samples, `frame` what the network sees of one, if that is known. `differ`
    counts all samples on which anything differs; `samples` are the indices of the worst of them, `off` how far off each
    is, by the task's own measure.
    """

    photos: str
    frame: Frame | None
    differ: int
    samples: tuple[int, ...]
    off: tuple[float, ...]
    reference: tuple[Answer, ...]
    engine: tuple[Answer, ...]

    def at(self, sample: int) -> int | None:
        """Where a sample stands among those that are kept; None where it does not."""
        return self.samples.index(sample) if sample in self.samples else None


def furthest(off: Sequence[float]) -> list[int]:
    """The samples that are off at all, the worst first, as many as are kept."""
    found = [index for index, each in enumerate(off) if each > 0]
    return sorted(found, key=lambda index: -off[index])[:MOST_SAMPLES]


def header_to_json(samples: Samples, off: Sequence[float], chosen: Sequence[int]) -> dict[str, Any]:
    """All but the answers as JSON values, `off` being of every sample; the inverse of `from_json` with them."""
    frame = samples.frame
    known = frame and max(frame.height, frame.width, frame.resize) <= MOST_PIXELS
    return {
        "photos": digest_of_names(samples.names),
        "frame": [frame.height, frame.width, frame.fit, frame.resize] if frame and known else None,
        "differ": sum(each > 0 for each in off),
        "samples": list(chosen),
        "off": [float(off[index]) for index in chosen],
    }


def from_json(
    values: Mapping[str, Any], n: int, read: Callable[[Mapping[str, Any], int], Sequence[Answer]]
) -> Pictured[Answer]:
    """What was kept of `n` samples, `read` being what makes as many answers of JSON values.

    Raises one of `fields.DAMAGED` for anything that no session writes.
    """
    samples = fields.listed(fields.count)("samples", values["samples"])
    off = fields.listed(fields.number)("off", values["off"])
    differ = fields.count("differ", values["differ"])
    count = len(samples)
    if len(set(samples)) < count or count > MOST_SAMPLES or len(off) != count or any(each >= n for each in samples):
        raise ValueError(f"pictures are of {MOST_SAMPLES} of the samples at most, each with how far off it is")
    if not count <= differ <= n or (differ and not count) or any(each <= 0 for each in off):
        raise ValueError("pictures are of samples that differ")
    sides = [tuple(read(fields.table(name, values[name]), count)) if count else () for name in ("reference", "engine")]
    photos = fields.label("photos", values["photos"])
    return Pictured(photos, _frame(values["frame"]), differ, samples, off, *sides)


def _frame(value: Any) -> Frame | None:
    if value is None:
        return None
    height, width, fit, resize = fields.items("frame", value)
    for side in (height, width):
        if not 1 <= fields.count("frame", side) <= MOST_PIXELS:
            raise ValueError(f"frame must be from 1 to {MOST_PIXELS} pixels")
    if fields.count("resize", resize) > MOST_PIXELS or fields.line("fit", fit) not in FITS:
        raise ValueError(f"frame must say how photos are fitted: {', '.join(filter(None, sorted(FITS)))}")
    return Frame(height, width, fit, resize)
