"""The samples on which a detector's boxes or a segmenter's masks are not the reference's, or not what they were; the
reference's own, too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from trtgate.compare import Samples
from trtgate.records import EngineRecord
from trtgate.report.page import Box, Boxes, Cell, Column, Gallery, Mask, Masks, Outlines, Picture, Role
from trtgate.report.photos import Photos
from trtgate.tasks.against import pictures_in
from trtgate.tasks.detection import MOVED, SAME_BOX, Detections, Pairs, boxes_from_json, most_shown, paired
from trtgate.tasks.pictures import Pictured, furthest
from trtgate.tasks.segmentation import SmallMap
from trtgate.tasks.sketch import comparable, elements_differing, sketches_in
from trtgate.verdict.metrics import Floats

# Of an engine, the worst ones. A session keeps more, since those of two sides are not the same ones.
SHOWN = 12
# Of one picture, in words; all are drawn.
WORDS = 8
# Colours of classes that can be told apart; all others have one of their own.
COLOURS = 8
# Boxes that lie within this are shares of the picture; others are its pixels, or of a picture that nobody knows.
LARGEST_SHARE = 2.0
# By how much boxes may stick out of what the network sees and still be its pixels.
STICKS_OUT = 1.25
# Width over height of a drawing, at most and at least.
NARROWEST, WIDEST = 0.25, 4.0

OLD, NEW, ALONE = "old", "new", "this run"


@dataclass(frozen=True)
class _Engine:
    """One engine's pictures by the name of the side; both sides' are of the same samples."""

    name: str
    sides: Mapping[str, Pictured[Any]]
    n: int

    @property
    def newest(self) -> Pictured[Any]:
        return self.sides[NEW if NEW in self.sides else ALONE]


def galleries(samples: Samples, photos: Mapping[str, Photos]) -> dict[str, list[Gallery]]:
    """A gallery of each engine that has something to show, by model; `photos` by the digest of their names."""
    found: dict[str, dict[str, Gallery]] = {}
    for key, records in samples.new.items():
        shown = found.setdefault(key[0], {})
        # All batch sizes of an engine have its answers at one of them.
        if key[1] in shown:
            continue
        old = samples.old.get(key, ())
        if engine := _engine(key[1], old, records):
            made: Gallery | None = _gallery(engine, photos.get(engine.newest.photos))
        else:
            seen = [_newest(some) for other, some in samples.new.items() if other[0] == key[0]]
            made = _own(key[1], old, records, [each for each in seen if each], photos)
        if made and made.pictures:
            shown[key[1]] = made
    return {model: list(engines.values()) for model, engines in found.items() if engines}


def _engine(name: str, old: Sequence[EngineRecord], new: Sequence[EngineRecord]) -> _Engine | None:
    mine, before = _newest(new), _newest(old)
    if mine is None:
        return None
    pictures = pictures_in(mine)
    assert pictures is not None
    n = int(mine["n"])
    if before is None or any(_what(before, each) != _what(mine, each) for each in ("task", "n", "samples")):
        return _Engine(name, {ALONE if not old else NEW: pictures}, n)
    was = pictures_in(before)
    assert was is not None
    return _Engine(name, {OLD: was, NEW: pictures}, n)


def _what(scores: Mapping[str, Any], name: str) -> Any:
    return scores.get(name, scores["kept"].get(name))


def _newest(records: Sequence[EngineRecord], what: str = "pictures") -> Mapping[str, Any] | None:
    """What the last of the records that keeps pictures, or `what` else is wanted, keeps of the answers."""
    known = [record.scores for record in records if record.scores.get("kept", {}).get(what)]
    return known[-1] if known else None


def _gallery(engine: _Engine, photos: Photos | None) -> Gallery:
    boxes = any(isinstance(each, Detections) for side in engine.sides.values() for each in side.reference)
    candidates = dict.fromkeys(sample for side in engine.sides.values() for sample in side.samples)
    order = sorted(candidates, key=lambda sample: -_worst(engine, sample))[:SHOWN]
    canvas, colours = (_Canvas.of(engine), {}) if boxes else (None, _colours(engine))
    pictures = tuple(
        _boxes(engine, sample, photos, canvas) if canvas else _masks(engine, sample, photos, colours)
        for sample in order
    )
    names = ["reference", *engine.sides, *(["new against old"] if OLD in engine.sides else [])]
    return Gallery(
        engine.name,
        f"{_counts(engine, len(order))} {_about_boxes(canvas, photos) if canvas else ABOUT_MASKS}",
        tuple(Column(name, text=True) for name in names),
        pictures,
    )


def _counts(engine: _Engine, shown: int) -> str:
    counts = " and ".join(f"{side.differ} ({name})" for name, side in engine.sides.items())
    lacking = "" if OLD in engine.sides or NEW not in engine.sides else " The old side kept nothing of these to show."
    return (
        f"Of {engine.n} samples {counts} are answered otherwise than by the reference; {shown} of them "
        f"{'are' if shown != 1 else 'is'} shown, the worst first.{lacking}"
    )


ABOUT_MASKS = (
    "Each colour is a class, and what most of the reference is has none; black, or white on a dark page, is where more "
    "than half of the pixels differ from the reference, fainter where fewer do."
)


def _about_boxes(canvas: _Canvas, photos: Photos | None, whose: str = "the reference") -> str:
    text = (
        f"Lost is a box that none of its class overlaps by {SAME_BOX:g} (IoU), more is one that {whose} has not, "
        f"moved is one whose overlap is below {MOVED:g}. Numbers in brackets stand in the picture, others are scores."
    )
    if canvas.own and photos:
        text += " The boxes are no pixels of what the network sees, so that they are drawn beside no photo."
    return text


def _worst(engine: _Engine, sample: int) -> float:
    """How far off a sample is: from the reference on either side, or between the two."""
    found = [side.off[at] for side in engine.sides.values() if (at := side.at(sample)) is not None]
    both = _both(engine, sample)
    if both and isinstance(both[0], Detections):
        found.append(paired(*both).off)
    elif both:
        found.append(_share(*both))
    return max(found)


def _both(engine: _Engine, sample: int) -> tuple[Any, Any] | None:
    """The engine's answers before and now, where both are known."""
    found = [side.engine[at] for side in engine.sides.values() if (at := side.at(sample)) is not None]
    return (found[0], found[1]) if len(found) == 2 else None


def _unknown(side: Pictured[Any]) -> str:
    """Of a side that keeps nothing of a sample."""
    return "as the reference" if side.differ == len(side.samples) else "not among the worst, and not kept"


def _named(sample: int, photos: Photos | None) -> str:
    return photos.names[sample] if photos and sample < len(photos.names) else f"sample {sample + 1}"


# Boxes.


@dataclass(frozen=True)
class _Canvas:
    """What boxes are drawn on: `width` and `height` in their own unit, `aspect` as it looks. `own` is one that is only
    as large as the boxes are, with no photo that would lie behind them."""

    width: float
    height: float
    aspect: float
    own: bool

    @classmethod
    def of(cls, engine: _Engine) -> _Canvas:
        sides = engine.sides.values()
        found = [each.boxes for side in sides for each in side.reference if len(each.boxes)]
        found = found or [each.boxes for side in sides for each in side.engine if len(each.boxes)]
        corners = np.concatenate([*found, np.zeros((1, 4))])
        right, bottom = (max(float(corners[:, at::2].max()), 0.0) for at in (0, 1))
        frame = engine.newest.frame
        aspect = frame.width / frame.height if frame else 1.0
        if max(right, bottom) <= LARGEST_SHARE:
            return cls(1.0, 1.0, _bounded(aspect), False)
        if frame and right <= STICKS_OUT * frame.width and bottom <= STICKS_OUT * frame.height:
            return cls(float(frame.width), float(frame.height), _bounded(aspect), False)
        return cls(right or 1.0, bottom or 1.0, _bounded((right or 1.0) / (bottom or 1.0)), True)

    def place(self, box: Floats, tag: str) -> Box:
        """A box in shares of the canvas, cut off a little outside of it."""
        x = np.clip(box[[0, 2]] / self.width, -0.1, 1.1)
        y = np.clip(box[[1, 3]] / self.height, -0.1, 1.1)
        return Box(float(x[0]), float(y[0]), float(max(x[1] - x[0], 0)), float(max(y[1] - y[0], 0)), tag)


def _bounded(aspect: float) -> float:
    return float(np.clip(aspect, NARROWEST, WIDEST))


# One detection of whoever has it: two sides may have the reference's in other orders, and not all of them.
_Which = tuple[str, tuple[float, ...]]


def _which(whose: str, found: Detections, index: int) -> _Which:
    return whose, (*found.boxes[index].tolist(), float(found.scores[index]), float(found.labels[index]))


@dataclass
class _Tags:
    """Numbers of the boxes that differ, in the order in which they are told."""

    numbers: dict[_Which, str] = field(default_factory=dict)

    def of(self, whose: str, found: Detections, index: int) -> str:
        return self.numbers.setdefault(_which(whose, found, index), str(len(self.numbers) + 1))


def _boxes(engine: _Engine, sample: int, photos: Photos | None, canvas: _Canvas) -> Picture:
    tags, texts = _Tags(), []
    shown: dict[str, list[Detections]] = {"reference": []}
    for name, side in engine.sides.items():
        at = side.at(sample)
        if at is None:
            texts.append(_unknown(side))
            continue
        wanted, mine = side.reference[at], side.engine[at]
        shown["reference"].append(wanted)
        shown[name] = [mine]
        texts.append(_told(wanted, mine, paired(wanted, mine), tags, name))
    if (both := _both(engine, sample)) is not None:
        texts.append(_told(*both, paired(*both)))
    elif OLD in engine.sides:
        texts.append("-")
    outlines = tuple(
        Outlines(whose, ROLES[whose], tuple(_placed(whose, shown[whose], tags, canvas)))
        for whose in sorted(shown, key=DEPTH.index)
    )
    name = _named(sample, photos)
    frame = engine.newest.frame
    jpeg = photos.thumbnail(sample, frame) if photos and not canvas.own else b""
    about = "; ".join(f"{who}: {text}" for who, text in zip([*engine.sides, "new against old"], texts, strict=False))
    rows = ((Cell(_number(shown["reference"][-1])), *map(Cell, texts)),)
    return Picture(name, b"", rows, Boxes(f"boxes on {name}. {about}", canvas.aspect, jpeg, outlines))


def _placed(whose: str, found: Sequence[Detections], tags: _Tags, canvas: _Canvas) -> Iterator[Box]:
    """Where each box of one side lies, once."""
    boxes = {_which(whose, each, index): each.boxes[index] for each in found for index in range(len(each.scores))}
    for which, box in boxes.items():
        yield canvas.place(box, tags.numbers.get(which, ""))


# The widest lines lie below the others.
DEPTH = (OLD, NEW, ALONE, "reference")
ROLES = {OLD: Role.OLD, NEW: Role.NEW, ALONE: Role.NEW, "reference": Role.BASE}


def _number(found: Detections) -> str:
    return f"{len(found.scores)} box{'es' * (len(found.scores) != 1)}"


def _told(
    wanted: Detections,
    mine: Detections,
    pairs: Pairs,
    tags: _Tags | None = None,
    whose: str = "",
    against: str = "reference",
) -> str:
    """What became of boxes in words, with the tags that the boxes have in the picture: of `whose` that are held
    `against` others."""

    def tag(name: str, found: Detections, index: int) -> str:
        return f"[{tags.of(name, found, index)}] " if tags else ""

    lost = [f"{tag(against, wanted, index)}{_one(wanted, index)}" for index in pairs.lost]
    more = [f"{tag(whose, mine, index)}{_one(mine, index)}" for index in pairs.extra]
    moved = []
    for index in pairs.moved:
        other, overlap = pairs.found[index] or (0, 0.0)
        scores = f"{wanted.scores[index]:.2f} to {mine.scores[other]:.2f}"
        moved.append(f"{tag(against, wanted, index)}class {wanted.labels[index]}, {scores}, IoU {overlap:.2f}")
    kinds = (("lost", lost), ("more", more), ("moved", moved))
    parts = [f"{len(some)} {kind}: {_listed(some)}" for kind, some in kinds if some]
    return ". ".join(parts) or "all found again, and no others"


def _one(found: Detections, index: int) -> str:
    return f"class {found.labels[index]}, {found.scores[index]:.2f}"


def _listed(texts: Sequence[str]) -> str:
    more = len(texts) - WORDS
    return "; ".join([*texts[:WORDS], *([f"and {more} more"] if more > 0 else [])])


# Masks.


def _masks(engine: _Engine, sample: int, photos: Photos | None, colours: Mapping[int, int]) -> Picture:
    name = _named(sample, photos)
    wanted: SmallMap | None = None
    answers: dict[str, SmallMap] = {}
    cells: list[Cell] = []
    for side, pictured in engine.sides.items():
        at = pictured.at(sample)
        if at is None:
            cells.append(Cell(_unknown(pictured)))
            continue
        wanted, answers[side] = pictured.reference[at], pictured.engine[at]
        off = pictured.off[at]
        cells.append(Cell(f"{_percent(off)} of the pixels differ", value=off))
    assert wanted is not None
    if (both := _both(engine, sample)) is not None:
        cells.append(Cell(f"{_percent(_share(*both))} of the map's cells differ"))
    elif OLD in engine.sides:
        cells.append(Cell("-"))
    counts = Counter(wanted.classes.reshape(-1).tolist()).most_common(3)
    parts = ", ".join(f"class {label} {_percent(count / wanted.classes.size)}" for label, count in counts)
    told = zip(["reference", *engine.sides], [parts, *(cell.text for cell in cells)], strict=False)
    about = "; ".join(f"{who}: {text}" for who, text in told)
    drawn = [Mask("reference", _cells(wanted, colours), ())]
    drawn += [Mask(side, _cells(each, colours), _rows(each.marks)) for side, each in answers.items()]
    frame = engine.newest.frame
    height, width = (frame.height, frame.width) if frame else wanted.classes.shape
    seen = {colour for each in drawn for row in each.cells for colour in row}
    classes = tuple((f"class {label}", colour) for label, colour in colours.items() if colour in seen - {-1})
    if COLOURS in seen:
        classes += (("other classes", COLOURS),)
    jpeg = photos.thumbnail(sample, frame) if photos else b""
    return Picture(
        name,
        b"",
        ((Cell(f"{parts} of it"), *cells),),
        Masks(f"classes on {name}; {about}", name, _bounded(width / height), jpeg, tuple(drawn), classes),
    )


def _percent(share: float) -> str:
    """A share that is more than nothing never reads as nothing."""
    return "below 0.01%" if 0 < share < 0.0001 else f"{share:.2%}" if share < 0.01 else f"{share:.1%}"


def _share(a: SmallMap, b: SmallMap) -> float:
    """The share of cells in which two maps differ; all where they are of other sizes."""
    if a.classes.shape != b.classes.shape:
        return 1.0
    return float(np.mean(a.classes != b.classes))


def _colours(engine: _Engine) -> dict[int, int]:
    """The colour of each class in all pictures, the larger ones first; further ones have none of their own.

    What most of the reference is lies behind: -1.
    """
    behind, counts = Counter[int](), Counter[int]()
    for side in engine.sides.values():
        for each in side.reference:
            behind.update(each.classes.reshape(-1).tolist())
        for each in (*side.reference, *side.engine):
            counts.update(each.classes.reshape(-1).tolist())
    ground = {label: -1 for label, _ in behind.most_common(1)}
    others = [label for label, _ in counts.most_common(COLOURS + 1) if label not in ground]
    return {label: colour for colour, label in enumerate(others[:COLOURS])} | ground


def _cells(small: SmallMap, colours: Mapping[int, int]) -> tuple[tuple[int, ...], ...]:
    return tuple(tuple(colours.get(label, COLOURS) for label in row) for row in small.classes.tolist())


def _rows(cells: npt.NDArray[np.int64]) -> tuple[tuple[int, ...], ...]:
    return tuple(map(tuple, cells.tolist()))


# The reference itself, of which a session keeps its boxes, and of its masks a sketch.

ABOUT_SKETCHES = (
    "A session keeps too little of a reference's masks to draw them: by what it keeps, these are the samples on which "
    "they differ, and about how many of the pixels."
)


def _own(
    name: str,
    old: Sequence[EngineRecord],
    new: Sequence[EngineRecord],
    engines: Sequence[Mapping[str, Any]],
    photos: Mapping[str, Photos],
) -> Gallery | None:
    """The samples on which a reference answers otherwise than before; None where that is not known. What the samples
    are is known of the `engines` that were held against it on them."""
    for what, draw in (("boxes", _own_boxes), ("pixels", _own_masks)):
        before, now = _newest(old, what), _newest(new, what)
        if before and now and all(_what(before, each) == _what(now, each) for each in ("task", "n", "samples")):
            header = next((each for each in engines if _what(each, "samples") == _what(now, "samples")), None)
            seen = pictures_in(header) if header else None
            return draw(name, before, now, seen, photos.get(seen.photos) if seen else None)
    return None


def _own_boxes(
    name: str, before: Mapping[str, Any], now: Mapping[str, Any], seen: Pictured[Any] | None, photos: Photos | None
) -> Gallery:
    old, new = ([_finite(each) for each in boxes_from_json(side["kept"]["boxes"])] for side in (before, now))
    off = [paired(*both).off for both in zip(old, new, strict=False)]
    chosen = tuple(furthest(off)[:SHOWN])
    shown = [most_shown(old[index], new[index]) for index in chosen]
    sides = tuple(each[0] for each in shown), tuple(each[1] for each in shown)
    differ, frame = sum(each > 0 for each in off), seen.frame if seen else None
    pictured = Pictured("", frame, differ, chosen, tuple(off[index] for index in chosen), *sides)
    canvas = _Canvas.of(_Engine(name, {NEW: pictured}, len(off)))
    pictures = []
    for sample, wanted, mine in zip(chosen, *sides, strict=True):
        tags = _Tags()
        text = _told(wanted, mine, paired(wanted, mine), tags, NEW, OLD)
        outlines = tuple(
            Outlines(whose, ROLES[whose], tuple(_placed(whose, [each], tags, canvas)))
            for whose, each in ((OLD, wanted), (NEW, mine))
        )
        label = _named(sample, photos)
        jpeg = photos.thumbnail(sample, frame) if photos and not canvas.own else b""
        drawing = Boxes(f"the reference's boxes on {label}. new: {text}", canvas.aspect, jpeg, outlines)
        pictures.append(Picture(label, b"", ((Cell(_number(wanted)), Cell(text)),), drawing))
    about = f"{_own_counts(differ, len(off), now['n'], len(pictures))} {_about_boxes(canvas, photos, 'the old side')}"
    return Gallery(f"{name}, the reference", about, _OWN, tuple(pictures))


_OWN = (Column(OLD, text=True), Column("new against old", text=True))


def _finite(found: Detections) -> Detections:
    return found.at(np.isfinite(found.boxes).all(1) & np.isfinite(found.scores))


def _own_counts(differ: int, known: int, n: int, shown: int) -> str:
    of = f"{n} samples" if known == n else f"the first {known} of {n} samples, whose boxes are kept,"
    return (
        f"Of {of} {differ} {'are' if differ != 1 else 'is'} answered otherwise than before by the reference itself; "
        f"{shown} of them {'are' if shown != 1 else 'is'} shown, the worst first."
    )


def _own_masks(
    name: str, before: Mapping[str, Any], now: Mapping[str, Any], seen: Pictured[Any] | None, photos: Photos | None
) -> Gallery | None:
    [output, *_] = now["kept"]["pixels"]
    old, new = (sketches_in(side["kept"].get("sketch", {})).get(output) for side in (before, now))
    if old is None or new is None or not comparable(old, new):
        return None
    shares = elements_differing(old, new)
    frame = seen.frame if seen else None
    pictures = []
    for sample in furthest(shares)[:SHOWN]:
        label = _named(sample, photos)
        jpeg = photos.thumbnail(sample, frame) if photos else b""
        share = shares[sample]
        sizes = [" by ".join(map(str, side.shapes[sample])) for side in (old, new)]
        text = f"about {share:.0%} of the pixels differ" if share >= 0.005 else "few of the pixels differ"
        text = text if sizes[0] == sizes[1] else f"{sizes[0]} pixels became {sizes[1]}"
        pictures.append(Picture(label, jpeg, ((Cell(text),),)))
    differ = sum(each > 0 for each in shares)
    about = f"{_own_counts(differ, len(shares), now['n'], len(pictures))} {ABOUT_SKETCHES}"
    return Gallery(f"{name}, the reference", about, _OWN[1:], tuple(pictures))
