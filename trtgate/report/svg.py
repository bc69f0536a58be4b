"""Charts as inline SVG. Colours are classes of the page that they stand in, so that they follow its dark mode."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from trtgate.report.page import Axis, Bar, Bars, Line, Mark, Plot
from trtgate.verdict.outcome import Outcome

# In units of the drawing; as wide as a telephone, so that its text can be read there.
WIDTH = 400
HEIGHT = 230
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 10, 36
# Where marks have labels: to the right of the plot.
LABELS = 118
# Where the numbers of bars without a label stand.
NUMBERS = 60
TEXT = 12
LINE = 15
ROW = 38
# Letters that a line holds, in wide fonts too. A bar's label that is longer is cut; the whole of it is its title.
LETTERS = 52
TICKS = 5
COLOURS = 8
# The classes of verdicts that end a gate with a failure.
FAILED = {Outcome.REGRESSED: "bad", Outcome.INCONCLUSIVE: "open", Outcome.INVALID: "invalid"}


def ticks(low: float, high: float, count: int = TICKS) -> list[float]:
    """Round numbers between two others, some `count` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def spread(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Places of labels: as near to where they belong as they can be without covering each other."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    found = [0.0] * len(places)
    previous = low - gap
    for index in order:
        previous = found[index] = max(places[index], previous + gap)
    following = high + gap
    for index in reversed(order):
        following = found[index] = min(found[index], following - gap)
    return found


def plot_svg(plot: Plot, name: str) -> Markup:
    """A plot; `name` is one of its own in the document."""
    points = [point for line in plot.lines for point in line.points]
    across = [mark for mark in plot.marks if not mark.vertical]
    dots = any(line.style == "dots" for line in plot.lines)
    x = _Scale([p[0] for p in points] + [m.at for m in plot.marks if m.vertical], plot.x, room=0.04 if dots else 0.0)
    y = _Scale([p[1] for p in points] + [m.at for m in across], plot.y, room=0.06)
    if any(line.style == "area" for line in plot.lines):
        y.low = 0.0
    y.place(HEIGHT - BOTTOM, TOP)
    x.place(LEFT if not plot.y.hidden else RIGHT, WIDTH - (LABELS if across else RIGHT))
    inner = [*_x_axis(x, HEIGHT - BOTTOM)]
    if not plot.y.hidden:
        inner += _y_axis(y, x)
    inner += _marks(plot.marks, x, y)
    inner += [_line(line, index, x, y) for index, line in enumerate(plot.lines)]
    return drawing(plot.title, plot.about, name, HEIGHT, inner)


def legend(plot: Plot) -> Markup:
    """What the lines of a plot are."""
    items = Markup("").join(
        Markup('<li class="{}">{}</li>').format(_colour(line, index), line.label)
        for index, line in enumerate(plot.lines)
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def bars_svg(bars: Bars, name: str) -> Markup:
    """Bars, each below its label."""
    numbers = [
        number for bar in bars.bars for number in (bar.value, bar.low, bar.high, bar.limit) if number is not None
    ]
    x = _Scale([*numbers, bars.base], bars.axis, room=0.04)
    x.place(RIGHT, WIDTH - (RIGHT if all(bar.label for bar in bars.bars) else NUMBERS))
    inner: list[Markup] = []
    top = float(TOP)
    rows: list[tuple[Bar, float]] = []
    # Where a label and its number do not fit side by side, all numbers stand on lines of their own.
    lines = 1 + any(bar.label and len(bar.label) + len(bar.text) >= LETTERS for bar in bars.bars)
    for bar in bars.bars:
        # A bar without a label belongs to the one above.
        top += ROW + (lines - 1) * LINE if bar.label else ROW / 2
        rows.append((bar, top))
    bottom = top + 10
    inner += _x_axis(x, bottom)
    zero = x.at(bars.base)
    for bar, at in rows:
        inner += _bar(bar, x, at, zero, lines, interval=bars.interval)
    return drawing(bars.title, bars.about, name, bottom + BOTTOM, inner)


def _bar(bar: Bar, x: _Scale, at: float, zero: float, lines: int, *, interval: bool) -> Iterable[Markup]:
    short = bar.label if len(bar.label) <= LETTERS else bar.label[: LETTERS - 1] + "…"
    label = number(at - 10 - (lines - 1) * LINE)
    yield Markup('<text x="{}" y="{}">{}<title>{}</title></text>').format(RIGHT, label, short, bar.label)
    colour = (FAILED.get(bar.outcome) if bar.outcome else None) or (bar.role.value if bar.role else "new")
    place = x.at(bar.value)
    middle = at + 1
    yield Markup('<path class="base" d="M{} {}v12"/>').format(number(zero), number(middle - 6))
    if not interval:
        yield Markup('<rect class="{}" x="{}" y="{}" width="{}" height="10" data-value="{}"/>').format(
            colour, number(min(zero, place)), number(middle - 5), number(max(abs(place - zero), 1)), repr(bar.value)
        )
    if bar.low is not None and bar.high is not None:
        yield Markup('<path class="interval {}" d="M{} {}H{}m0 -4v8M{} {}v8"/>').format(
            colour,
            number(x.at(bar.low)),
            number(middle),
            number(x.at(bar.high)),
            number(x.at(bar.low)),
            number(middle - 4),
        )
    if interval:
        yield Markup('<circle class="{}" cx="{}" cy="{}" r="4" data-value="{}"/>').format(
            colour, number(place), number(middle), repr(bar.value)
        )
    if bar.limit is not None:
        yield Markup('<path class="limit" d="M{} {}v14"/>').format(number(x.at(bar.limit)), number(middle - 6))
    yield Markup('<text class="value" x="{}" y="{}">{}</text>').format(
        WIDTH - RIGHT, number(at - 10 if bar.label else at + 5), bar.text
    )


class _Scale:
    """Where on the drawing a number lies."""

    def __init__(self, values: Sequence[float], axis: Axis, room: float = 0.0) -> None:
        low, high = (min(values), max(values)) if values else (0.0, 1.0)
        width = (high - low) or abs(high) * 0.1 or 1.0
        if high == low:
            room = 0.5
        self.low, self.high = low - room * width, high + room * width
        self.axis = axis
        self._start, self._end = 0.0, 1.0

    def place(self, start: float, end: float) -> None:
        """From where to where the axis goes on the drawing."""
        self._start, self._end = float(start), float(end)

    @property
    def ends(self) -> tuple[float, float]:
        return self._start, self._end

    def at(self, value: float) -> float:
        return self._start + (value - self.low) / (self.high - self.low) * (self._end - self._start)

    def labels(self, count: int = TICKS) -> list[tuple[float, str]]:
        """Where there is a number on the axis, and how it reads."""
        if self.axis.names:
            # Lines may begin late and end early.
            first, last = max(0, math.ceil(self.low)), min(len(self.axis.names) - 1, math.floor(self.high))
            shown = sorted({round(first + index * (last - first) / 3) for index in range(4)})
            return [(float(index), self.axis.names[index]) for index in shown]
        found = ticks(self.low, self.high, count)
        step = found[1] - found[0] if len(found) > 1 else abs(found[0]) or 1.0
        power = math.floor(math.log10(step) + 1e-9)
        # A step of 2.5 needs a digit more.
        places = -power + (abs(step / 10.0**power - 2.5) < 1e-6)
        if self.axis.form == "number":
            return [(value, f"{value + 0.0:.{max(0, places)}f}") for value in found]
        sign = "+" if self.axis.form == "change" else ""
        form = f"{sign}.{max(0, places - 2)}%"
        return [(value, format(value, form) if round(value, 12) else "0%") for value in found]


def _x_axis(x: _Scale, at: float) -> Iterable[Markup]:
    start, end = x.ends
    yield Markup('<path class="axis" d="M{} {}H{}"/>').format(number(start), number(at), number(end))
    labels = x.labels()
    for index, (value, text) in enumerate(labels):
        place = x.at(value)
        # The outer ones would stick out of the drawing.
        anchor = "start" if place < start + 14 else "end" if place > end - 14 and index == len(labels) - 1 else "middle"
        yield Markup('<path class="axis" d="M{} {}v4"/>').format(number(place), number(at))
        yield Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>').format(
            number(place), number(at + 16), anchor, text
        )
    yield Markup('<text class="quiet" x="{}" y="{}" text-anchor="middle">{}</text>').format(
        number((start + end) / 2), number(at + 31), x.axis.title
    )


def _y_axis(y: _Scale, x: _Scale) -> Iterable[Markup]:
    for value, text in y.labels(4):
        at = y.at(value)
        yield Markup('<path class="grid" d="M{} {}H{}"/>').format(number(x.ends[0]), number(at), number(x.ends[1]))
        yield Markup('<text x="{}" y="{}" text-anchor="end">{}</text>').format(
            number(x.ends[0] - 5), number(at + 4), text
        )


def _marks(marks: Sequence[Mark], x: _Scale, y: _Scale) -> Iterable[Markup]:
    across = [mark for mark in marks if not mark.vertical]
    places = spread([y.at(mark.at) for mark in across], TEXT + 2, TOP + 4, HEIGHT - BOTTOM)
    for mark, label in zip(across, places, strict=True):
        at, end = y.at(mark.at), x.ends[1]
        yield Markup('<path class="{}" d="M{} {}H{}L{} {}" data-value="{}"/>').format(
            mark.role.value, number(x.ends[0]), number(at), number(end), number(end + 8), number(label), repr(mark.at)
        )
        yield Markup('<text x="{}" y="{}">{}</text>').format(number(end + 10), number(label + 4), mark.label)
    for mark in marks:
        if mark.vertical:
            yield Markup('<path class="{}" d="M{} {}V{}"><title>{}</title></path>').format(
                mark.role.value, number(x.at(mark.at)), TOP, HEIGHT - BOTTOM, mark.label
            )


def _line(line: Line, index: int, x: _Scale, y: _Scale) -> Markup:
    colour = _colour(line, index)
    places = [(number(x.at(px)), number(y.at(py))) for px, py in line.points]
    if line.style == "dots":
        return Markup("").join(
            Markup('<circle class="{}" cx="{}" cy="{}" r="3.5"/>').format(colour, px, py) for px, py in places
        )
    path = "M" + "L".join(f"{px} {py}" for px, py in places)
    if line.style == "area" and places:
        floor = number(y.at(0.0))
        path += f"L{places[-1][0]} {floor}L{places[0][0]} {floor}Z"
        return Markup('<path class="area {}" d="{}"/>').format(colour, path)
    title = Markup("<title>{}</title>").format(line.label)
    drawn = Markup('<path class="line {}" d="{}">{}</path>').format(colour, path, title)
    if len(places) <= 2:  # a line of one point is not seen
        drawn += Markup("").join(
            Markup('<circle class="{}" cx="{}" cy="{}" r="3"/>').format(colour, *p) for p in places
        )
    return drawn


def _colour(line: Line, index: int) -> str:
    return line.role.value if line.role else f"c{index % COLOURS}"


def number(value: float) -> str:
    """A coordinate, as short as it can be."""
    return f"{value:.1f}".removesuffix(".0")


def drawing(title: str, about: str, name: str, height: float, inner: Iterable[Markup]) -> Markup:
    """A drawing of WIDTH by `height`; `name` is one of its own in the document."""
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="{}-t {}-d">'
        '<title id="{}-t">{}</title><desc id="{}-d">{}</desc>{}</svg>'
    ).format(WIDTH, number(height), name, name, name, title, name, about, Markup("").join(inner))
