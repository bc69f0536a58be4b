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
from trtgate.verdict.answers import SHARE, Answers

# Of a model; those that most engines disagree on come first.
SHOWN = 24
# Rows of one sample.
ENGINES_SHOWN = 6
# What is said of an answer: its best class, and all with more of the confidence than this.
LEAST = 0.10
# Weights whose classes are those of the photos; a file of the user's own may have others.
NAMED = frozenset({"torchvision", "package"})


@dataclass(frozen=True)
class _Said:
    """What one engine answered before (None: there is no such side) and now; the reference now, where that is kept."""

    engine: str
    old: Answers | None
    new: Answers
    reference: Answers | None = None


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
    own = {
        (key[0], each.photos): each
        for key, some in samples.new.items()
        if some[-1].is_reference and (each := _newest(some))
    }
    for key, records in samples.new.items():
        new = _newest(records)
        if new is None:
            continue
        old = _newest(samples.old.get(key, ()))
        if old is not None and (old.photos != new.photos or old.classes.shape != new.classes.shape):
            old = None  # on other samples than these
        said = _Said(key[1], old, new, own.get((key[0], new.photos)))
        group = groups.setdefault((key[0], new.photos), [])
        # All batch sizes of an engine have its answers at one of them.
        if said.engine not in [each.engine for each in group]:
            group.append(said)
        named[key[0]] = records[-1].weights in NAMED
    found = []
    for (model, digest), group in groups.items():
        at_hand = photos.get(digest)
        if at_hand and at_hand.imagenet and not named[model]:
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
        f"confidence is by softmax; classes with {LEAST:.0%} of it or less are left out."
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
        row = [Cell(each.engine), _reference(each, index, photos)]
        row += [Cell("-") if side is None else _answer(side, index, photos) for side in sides]
        rows.append(tuple(row))
    name = photos.names[index] if photos else f"sample {index + 1}"
    return Picture(name, photos.thumbnail(index, None) if photos else b"", tuple(rows))


def _reference(said: _Said, index: int, photos: Photos | None) -> Cell:
    """The reference's answer, with its confidence where the run kept that."""
    best, own = int(said.new.reference[index]), said.reference
    if own is not None and int(own.classes[index, 0]) == best:
        return _answer(own, index, photos)
    return Cell(_class(best, photos))


def _answer(side: Answers, index: int, photos: Photos | None) -> Cell:
    """The best class and the others that come near it, with their confidence."""
    if not side.finite[index]:
        return Cell("not finite")
    names = [_class(int(each), photos) for each in side.classes[index]]
    if side.shares is None:
        return Cell(names[0])
    shares = side.shares[index] / SHARE
    shown = [f"{name} {share:.1%}" for name, share in zip(names, shares, strict=True) if share > LEAST]
    return Cell(", ".join(shown or [f"{names[0]} {shares[0]:.1%}"]), value=float(shares[0]))


def _class(index: int, photos: Photos | None) -> str:
    known = photos.classes if photos else ()
    return known[index] if index < len(known) else f"class {index}"
