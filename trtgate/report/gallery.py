"""The samples on which old, new and reference do not all give one answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from trtgate.compare import Samples
from trtgate.records import EngineRecord
from trtgate.report.disagreements import galleries
from trtgate.report.page import Cell, Column, Gallery, Picture, Section
from trtgate.report.photos import Photos
from trtgate.verdict.answers import Answers

# Of a model; those that most engines disagree on come first.
SHOWN = 24
# Rows of one sample.
ENGINES_SHOWN = 6
# Weights whose classes are those of the photos; a file of the user's own may have others.
NAMED = frozenset({"torchvision", "package"})


@dataclass(frozen=True)
class _Said:
    """What one engine answered before (None: there is no such side) and now."""

    engine: str
    old: Answers | None
    new: Answers


def gallery(samples: Samples, photos: Mapping[str, Photos]) -> list[Section]:
    """One section for each model; `photos` by the digest of their names, as the answers have it."""
    drawn = galleries(samples, photos)
    return [
        *_classified(samples, photos),
        *(Section(f"{TITLE}: {model}", tuple(some), folded=True) for model, some in drawn.items()),
    ]


TITLE = "answers that differ"


def _classified(samples: Samples, photos: Mapping[str, Photos]) -> list[Section]:
    """What classifiers answered."""
    groups: dict[tuple[str, str], list[_Said]] = {}
    named: dict[str, bool] = {}
    for key, records in samples.new.items():
        new = _newest(records)
        if new is None:
            continue
        old = _newest(samples.old.get(key, ()))
        if old is not None and (old.photos != new.photos or old.classes.shape != new.classes.shape):
            old = None  # on other samples than these
        said = _Said(key[1], old, new)
        group = groups.setdefault((key[0], new.photos), [])
        # All batch sizes of an engine have its answers at one of them.
        if said.engine not in [each.engine for each in group]:
            group.append(said)
        named[key[0]] = records[-1].weights in NAMED
    found = []
    for (model, digest), group in groups.items():
        at_hand = photos.get(digest)
        if at_hand and not named[model]:
            at_hand = replace(at_hand, classes=())
        shown = _gallery(model, group, at_hand)
        if shown.pictures:
            found.append(Section(f"{TITLE}: {model}", (shown,), folded=True))
    return found


def _newest(records: Sequence[EngineRecord]) -> Answers | None:
    known = [record.answers for record in records if record.answers]
    return Answers.from_json(known[-1]) if known else None


def _gallery(model: str, group: Sequence[_Said], photos: Photos | None) -> Gallery:
    differ = np.sum([_differ(each) for each in group], 0)
    order = [int(index) for index in np.argsort(-differ, kind="stable") if differ[index]]
    pictures = tuple(_picture(index, group, photos) for index in order[:SHOWN])
    left = f", of which the {SHOWN} that most engines differ on are shown" if len(order) > SHOWN else ""
    alone = all(each.old is None for each in group)
    who = "engines and reference" if alone else "old, new and reference"
    about = (
        f"{len(order)} of {differ.size} samples on which {who} do not all give one answer{left}. The "
        "margin is the logit of the answer less that of the next best class."
    )
    names = ["engine", "reference", *(["this run"] if alone else ["old", "new"])]
    columns = tuple(Column(name, text=True) for name in names)
    return Gallery("", about, columns, pictures)


def _differ(said: _Said) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """bool[N]: where an answer is not the reference's, or not what it was."""
    differ = ~said.new.agree(said.new.reference)
    if said.old is not None:
        differ |= said.old.classes[:, 0] != said.new.classes[:, 0]
    found: np.ndarray[tuple[int, ...], np.dtype[np.bool_]] = differ
    return found


def _picture(index: int, group: Sequence[_Said], photos: Photos | None) -> Picture:
    alone = all(each.old is None for each in group)
    rows = []
    differing = [each for each in group if _differ(each)[index]]
    for each in differing[:ENGINES_SHOWN]:
        sides = [each.new] if alone else [each.old, each.new]
        row = [Cell(each.engine), Cell(_class(int(each.new.reference[index]), photos))]
        row += [Cell("-") if side is None else _answer(side, index, photos) for side in sides]
        rows.append(tuple(row))
    name = photos.names[index] if photos else f"sample {index + 1}"
    return Picture(name, photos.thumbnail(index, None) if photos else b"", tuple(rows))


def _answer(side: Answers, index: int, photos: Photos | None) -> Cell:
    """The best class with its margin."""
    logits = side.logits[index].astype(np.float64)
    name = _class(int(side.classes[index, 0]), photos)
    if not np.isfinite(logits[0]):
        return Cell("not finite")
    if logits.size == 1:
        return Cell(name)
    margin = float(logits[0] - logits[1])
    return Cell(f"{name}, margin {margin:.2f}", value=margin)


def _class(index: int, photos: Photos | None) -> str:
    known = photos.classes if photos else ()
    return known[index] if index < len(known) else f"class {index}"
