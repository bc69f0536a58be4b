"""Pages and tables for a terminal of 100 columns, through rich.

A terminal is read from its end: the last section comes first, and the headline closes.
"""

from __future__ import annotations

import io
import sys
import textwrap

import rich.table
from rich.console import Console
from rich.text import Text

from trtgate.kinds import printable
from trtgate.report.page import Cell, Notes, Page, Part, Room, Table, fitting
from trtgate.verdict.outcome import Outcome

WIDTH = 100
# More than any table has.
UNBOUNDED = 1_000
COLOURS = {
    Outcome.PASS: "green",
    Outcome.IMPROVED: "bold green",
    Outcome.INCONCLUSIVE: "yellow",
    Outcome.INVALID: "magenta",
    Outcome.REGRESSED: "bold red",
}


def render(page: Page, *, colour: bool = False, width: int = WIDTH) -> str:
    """A page as text."""
    texts = [text for _, texts in sections(page, colour=colour, width=width) for text in texts]
    return "\n".join([*texts, fold(page.headline.sentence)])


def sections(page: Page, *, colour: bool = False, width: int = WIDTH) -> list[tuple[str, list[str]]]:
    """Titles and texts of a page in the order of reading, without the headline."""
    found = []
    for section in reversed(page.sections):
        parts = reversed(fitting(section.parts, Room.TERMINAL))
        texts = [_part(part, colour=colour, width=width) for part in parts]
        if texts:
            found.append((printable(section.title or page.title), texts))
    return found


def _part(part: Part, *, colour: bool, width: int) -> str:
    if isinstance(part, Table):
        return table_text(part, colour=colour, width=width)
    assert isinstance(part, Notes), "a terminal draws no charts"
    return printable("\n".join(part.lines))


def fold(line: str) -> str:
    """A sentence in lines of WIDTH."""
    return textwrap.fill(printable(line), WIDTH, break_on_hyphens=False)


def table_text(table: Table, *, colour: bool = False, width: int = WIDTH) -> str:
    """A table as text. Where it is too wide, the groups' names stand on lines of their own."""
    whole = drawn(_table(table, apart=False), width=UNBOUNDED).splitlines()
    apart = table.grouped == 1 and max(map(len, whole)) > width
    return drawn(_table(table, apart=apart), colour=colour, width=width)


def _table(table: Table, *, apart: bool) -> rich.table.Table:
    """The columns that a terminal has room for; with the first one `apart`, its names are rows above the second's."""
    kept = [index for index, column in enumerate(table.columns) if column.room == Room.TERMINAL][apart:]
    drawn = rich.table.Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for index in kept:
        column = table.columns[index]
        # Text that is too long is folded; a number never is.
        drawn.add_column(
            printable(column.name),
            justify="left" if column.text else "right",
            no_wrap=not column.text,
            overflow="fold",
        )
    previous: tuple[str, ...] = ()
    for row in table.rows:
        group = tuple(cell.text for cell in row[: table.grouped])
        texts = [_text(row[index]) for index in kept]
        if apart:
            if group != previous:
                drawn.add_row(_text(row[0]))
            texts[0] = Text("  ") + texts[0]
        elif group and group == previous:
            texts[: len(group)] = [Text("")] * len(group)
        drawn.add_row(*texts)
        previous = group
    return drawn


def _text(cell: Cell) -> Text:
    # Names come from files that others wrote: a Text has no markup of theirs, and this no escape sequences.
    return Text(printable(cell.text), COLOURS[cell.outcome] if cell.outcome else "")


def drawn(table: rich.table.Table, *, colour: bool = False, width: int = WIDTH) -> str:
    out = io.StringIO()
    plain = Console(
        file=out, width=width, force_terminal=colour, no_color=not colour, highlight=False, markup=False, emoji=False
    )
    plain.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def print_page(page: Page) -> None:
    """A page on standard output, in colour where that is a terminal."""
    print(render(page, colour=sys.stdout.isatty()))


def print_table(table: Table) -> None:
    """A table on standard output, in colour where that is a terminal."""
    print(table_text(table, colour=sys.stdout.isatty()))
