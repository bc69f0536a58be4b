"""Boxes and masks as inline SVG, in the colours of the page that they stand in."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence

from markupsafe import Markup

from trtgate.report.page import Box, Boxes, Mask, Masks
from trtgate.report.svg import COLOURS, WIDTH, drawing, number

# Letters of the numbers that boxes have, and the plates that they stand on.
TAG_HEIGHT, TAG_WIDTH = 15, 8.5
# Stretches of one colour in a mask: of more, which no eye tells apart, every other row and column is drawn.
MOST_STRETCHES = 1500


def jpeg_link(data: bytes) -> str:
    """A JPEG as an address that needs no network."""
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def boxes_svg(boxes: Boxes, title: str, name: str) -> Markup:
    """All sides' boxes over one photo; `name` is one of its own in the document."""
    height = WIDTH / boxes.aspect
    inner = [_canvas(height)]
    if boxes.jpeg:
        inner.append(
            Markup('<image href="{}" width="{}" height="{}" preserveAspectRatio="none"/>').format(
                jpeg_link(boxes.jpeg), WIDTH, number(height)
            )
        )
    paths = {each.role.value: "".join(_outline(box, height) for box in each.boxes) for each in boxes.outlines}
    # Lines of the page's ground beneath them all, so that they are seen on any photo.
    for kind in ("box under", "box"):
        inner += [
            Markup('<path class="{} {}" d="{}"/>').format(kind, role, path) for role, path in paths.items() if path
        ]
    inner += _tags([box for each in boxes.outlines for box in each.boxes if box.tag], height)
    return drawing(title, boxes.about, name, height, inner)


def boxes_legend(boxes: Boxes) -> Markup:
    """How each side's boxes are drawn."""
    items = Markup("").join(
        Markup('<li class="line {}">{}</li>').format(each.role.value, each.label) for each in boxes.outlines
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def _canvas(height: float) -> Markup:
    return Markup('<path class="canvas" d="M0 0H{}V{}H0z"/>').format(WIDTH, number(height))


def _outline(box: Box, height: float) -> str:
    across, down = box.width * WIDTH, box.height * height
    return f"M{number(box.x * WIDTH)} {number(box.y * height)}h{number(across)}v{number(down)}h{number(-across)}z"


def _tags(boxes: Sequence[Box], height: float) -> Iterator[Markup]:
    """The boxes' numbers inside their upper left corners, as far as these lie in the picture; where one would cover
    another it stands to its right."""
    taken: list[tuple[float, float, float]] = []
    for box in boxes:
        wide = len(box.tag) * TAG_WIDTH + 4
        x = min(max(box.x * WIDTH, 0.0), WIDTH - wide)
        y = min(max(box.y * height, 0.0), max(height - TAG_HEIGHT, 0.0))
        for left, right, top in sorted(taken):
            if abs(top - y) < TAG_HEIGHT and left - wide < x < right <= WIDTH - wide:
                x = right
        taken.append((x, x + wide, y))
        yield Markup('<path class="plate" d="M{} {}h{}v{}h{}z"/><text x="{}" y="{}">{}</text>').format(
            number(x), number(y), number(wide), TAG_HEIGHT, number(-wide), number(x + 2), number(y + 11.5), box.tag
        )


def mask_svg(masks: Masks, mask: Mask, name: str) -> Markup:
    """One side's mask."""
    height = WIDTH / masks.aspect
    cells, marks = _coarse(mask.cells), _coarse(mask.marks)
    inner = [_canvas(height)]
    inner += _layers(cells, {colour: f"cells {colour_class(colour)}" for colour in range(COLOURS + 1)}, height)
    inner += _layers(marks, {1: "mark some", 2: "mark"}, height)
    return drawing(f"{mask.label}, {masks.name}", masks.about, name, height, inner)


def masks_legend(masks: Masks) -> Markup:
    """What the colours of masks are."""
    items = Markup("").join(
        Markup('<li class="{}">{}</li>').format(colour_class(colour), label) for label, colour in masks.classes
    )
    return Markup('<ul class="legend">{}</ul>').format(items)


def colour_class(index: int) -> str:
    """The class of a colour; those that have none of their own share one."""
    return f"c{index}" if index < COLOURS else "old"


def _layers(rows: Sequence[Sequence[int]], kinds: Mapping[int, str], height: float) -> Iterator[Markup]:
    """The cells of each value of some kind as one path."""
    paths: dict[int, list[str]] = {}
    for y, row in enumerate(rows):
        for x, n, value in _stretches(row):
            paths.setdefault(value, []).append(f"M{x} {y}h{n}v1h-{n}z")
    for value, kind in kinds.items():
        if value in paths:
            yield Markup('<path class="{}" transform="scale({:.4f} {:.4f})" d="{}"/>').format(
                kind, WIDTH / len(rows[0]), height / len(rows), "".join(paths[value])
            )


def _stretches(row: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Where stretches of one value begin, how long they are, and the value."""
    start = 0
    for end in range(1, len(row) + 1):
        if end == len(row) or row[end] != row[start]:
            yield start, end - start, row[start]
            start = end


def _coarse(rows: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    while sum(1 for row in rows for _ in _stretches(row)) > MOST_STRETCHES:
        rows = [row[::2] for row in rows[::2]]
    return rows
