"""What people read, as plain data: one page of tables, charts and notes, which every medium draws in its own way.

`terminal.render`, `markdown.render` and `html.render` draw the same page; what has no room in a medium says so itself,
by its `room`.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from trtgate.verdict.outcome import Outcome
from trtgate.verdict.policy import GOOD


class Room(enum.IntEnum):
    """The least that something needs: 100 columns of a terminal, the width of a web page, or a page of its own."""

    TERMINAL = 0
    SUMMARY = 1
    DOCUMENT = 2


@dataclass(frozen=True)
class Cell:
    """Text; the verdict that colours it, and the number that it tells, unrounded and in the unit of the JSON."""

    text: str
    outcome: Outcome | None = None
    value: float | None = None


@dataclass(frozen=True)
class Column:
    """A heading, whose line ends are those of a narrow table; `text` is read from the left, numbers from the right."""

    name: str
    text: bool = False
    room: Room = Room.TERMINAL


@dataclass(frozen=True)
class Table:
    """Rows of cells. `grouped` columns, the first ones, are left empty by a terminal where they repeat the row before.

    `more` are rows for which a terminal has a note.
    """

    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    more: tuple[tuple[Cell, ...], ...] = ()
    room: Room = Room.TERMINAL
    grouped: int = 1


@dataclass(frozen=True)
class Notes:
    """Lines as they are. What has a title may be folded away under it."""

    lines: tuple[str, ...]
    title: str = ""
    room: Room = Room.TERMINAL


class Role(enum.Enum):
    """What a part of a chart stands for; its colour."""

    OLD = "old"
    NEW = "new"
    LIMIT = "limit"
    BOUND = "bound"
    ESTIMATE = "estimate"
    CHANGE = "change"
    BASE = "base"


@dataclass(frozen=True)
class Line:
    """Points of a plot, joined, filled down to the axis, or each by itself. Without a role it is one of several."""

    label: str
    points: tuple[tuple[float, float], ...]
    role: Role | None = None
    style: str = "line"


@dataclass(frozen=True)
class Mark:
    """A line across the plot: at a height, or with `vertical` at a place of the x axis."""

    at: float
    label: str
    role: Role
    vertical: bool = False


@dataclass(frozen=True)
class Axis:
    """What is on it: numbers, a "change" (0.05 reads +5 %) or a "share" (5 %); `names` are those of 0, 1, 2..."""

    title: str
    form: str = "number"
    names: tuple[str, ...] = ()
    hidden: bool = False


@dataclass(frozen=True)
class Plot:
    """Lines over an axis. `about` says in a sentence what is to be seen, for those who cannot."""

    title: str
    about: str
    x: Axis
    y: Axis
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()
    room: Room = Room.DOCUMENT


@dataclass(frozen=True)
class Bar:
    """A number with its interval and its limit, as far as they are known; `text` is how it is written."""

    label: str
    value: float
    text: str
    low: float | None = None
    high: float | None = None
    limit: float | None = None
    role: Role | None = None
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Bars:
    """Numbers side by side, as bars from `base` on, or as points where only the `interval` counts."""

    title: str
    about: str
    axis: Axis
    bars: tuple[Bar, ...]
    base: float = 0.0
    interval: bool = False
    room: Room = Room.DOCUMENT


@dataclass(frozen=True)
class Box:
    """A box in shares of the picture that it lies on, and the number by which it is told; empty for none."""

    x: float
    y: float
    width: float
    height: float
    tag: str = ""


@dataclass(frozen=True)
class Outlines:
    """The boxes of one side."""

    label: str
    role: Role
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Boxes:
    """Boxes over a small photo, b"" for none; the first ones below the others. `aspect` is width over height, `about`
    what is to be seen, for those who cannot."""

    about: str
    aspect: float
    jpeg: bytes
    outlines: tuple[Outlines, ...]


@dataclass(frozen=True)
class Mask:
    """Coarse cells, row by row: the number of each one's class among those of the picture, or -1 for what lies behind;
    and `marks` that say how much of each is to be pointed out, from 0 to 2."""

    label: str
    cells: tuple[tuple[int, ...], ...]
    marks: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Masks:
    """A small photo, b"" for none, beside masks of one `aspect`; `classes` are what numbers in them stand for."""

    about: str
    name: str
    aspect: float
    jpeg: bytes
    masks: tuple[Mask, ...]
    classes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Picture:
    """A sample and what was answered: `jpeg` is a small photo, b"" where none is at hand or where there is a drawing of
    the answers."""

    name: str
    jpeg: bytes
    rows: tuple[tuple[Cell, ...], ...]
    drawing: Boxes | Masks | None = None


@dataclass(frozen=True)
class Gallery:
    """Samples with what was answered on each."""

    title: str
    about: str
    columns: tuple[Column, ...]
    pictures: tuple[Picture, ...]
    room: Room = Room.DOCUMENT


Part = Table | Notes | Plot | Bars | Gallery


@dataclass(frozen=True)
class Section:
    """Parts that belong together. `folded` ones are closed where a medium can open them."""

    title: str
    parts: tuple[Part, ...]
    folded: bool = False
    outcome: Outcome | None = None


@dataclass(frozen=True)
class Headline:
    """What was decided, the worst verdict, why that is to be believed, and what to do next."""

    outcome: Outcome | None
    decided: str
    why: str = ""
    next: str = ""

    @property
    def sentence(self) -> str:
        """What was decided and what to do next, in one line."""
        return "; next: ".join(filter(None, [self.decided, self.next]))


@dataclass(frozen=True)
class Page:
    """Everything there is to read; the most important section first."""

    title: str
    headline: Headline
    sections: tuple[Section, ...]


def fitting(parts: Sequence[Part], room: Room) -> list[Part]:
    """The parts for which there is room, and something to show."""
    found = [each for each in parts if each.room <= room]
    return [each for each in found if not (isinstance(each, Notes) and not each.lines)]


def cells(*values: object) -> tuple[Cell, ...]:
    """Values as cells: text as it is, a number also by its value."""
    return tuple(map(_cell, values))


def _cell(value: object) -> Cell:
    if isinstance(value, Cell):
        return value
    if isinstance(value, Outcome):
        return Cell(value.value, value)
    return Cell(str(value), value=float(value) if isinstance(value, int | float) else None)


def failed(outcome: Outcome | None) -> bool:
    """Whether a verdict is one that ends a gate with a failure."""
    return outcome is not None and outcome not in GOOD
