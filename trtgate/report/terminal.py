"""Pages and tables for a terminal of 100 columns, through rich.

A terminal is read from its end: the last section comes first, and the headline closes.
"""

from __future__ import annotations

import io
import itertools
import sys
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import rich.table
from rich.console import Console
from rich.text import Text

from trtgate.doctor import Examination, State
from trtgate.report.page import Cell, Column, Notes, Page, Part, Room, Table, cells, fitting
from trtgate.report.words import milliseconds
from trtgate.selftest import SAME, Selftest, binomial_upper, compare_statistics
from trtgate.sensitivity import Sensitivity
from trtgate.verdict.outcome import Outcome

WIDTH = 100
# More than any table has.
UNBOUNDED = 1000
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
            found.append((section.title or page.title, texts))
    return found


def _part(part: Part, *, colour: bool, width: int) -> str:
    if isinstance(part, Table):
        return table_text(part, colour=colour, width=width)
    assert isinstance(part, Notes), "a terminal draws no charts"
    return "\n".join(part.lines)


def fold(line: str) -> str:
    """A sentence in lines of WIDTH."""
    return textwrap.fill(line, WIDTH, break_on_hyphens=False)


def table_text(table: Table, *, colour: bool = False, width: int = WIDTH) -> str:
    """A table as text. Where it is too wide, the groups' names stand on lines of their own."""
    whole = _drawn(_table(table, apart=False), width=UNBOUNDED).splitlines()
    apart = table.grouped == 1 and max(map(len, whole)) > width
    return _drawn(_table(table, apart=apart), colour=colour, width=width)


def _table(table: Table, *, apart: bool) -> rich.table.Table:
    """The columns that a terminal has room for; with the first one `apart`, its names are rows above the second's."""
    kept = [index for index, column in enumerate(table.columns) if column.room == Room.TERMINAL][apart:]
    drawn = rich.table.Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for index in kept:
        column = table.columns[index]
        # A name that is too long is folded; a number never is.
        wraps = column.name in {"model", "engine", "runner", "photo"}
        drawn.add_column(column.name, justify="left" if column.text else "right", no_wrap=not wraps, overflow="fold")
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
    # Names come from files that others wrote: a Text has no markup of theirs.
    return Text(cell.text, COLOURS[cell.outcome] if cell.outcome else "")


def _drawn(table: rich.table.Table, *, colour: bool = False, width: int = WIDTH) -> str:
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


def doctor_lines(stack: Mapping[str, Any], examination: Examination) -> list[str]:
    """What the doctor found: the stack, the engines, the machine, the conclusion."""
    engines = _wrapping("engine", "available", "fix")
    for found, group in itertools.groupby(examination.engines, key=lambda each: each[1]):
        names = "\n".join(spec.id for spec, _ in group)
        engines.add_row(names, Text("yes", "green") if found.ok else Text(found.reason), Text(found.fix))
    findings = _wrapping("what", "state", "found", "fix")
    for finding in examination.findings:
        style = {State.OK: "green", State.NOTE: "yellow"}.get(finding.state, "bold red")
        findings.add_row(finding.name, Text(finding.state.value, style), Text(finding.text), Text(finding.fix))
    known = [f"{name} {value}" for name, value in stack.items() if value not in (None, [], "")]
    return [
        "\n".join(textwrap.wrap(", ".join(known), WIDTH)),
        "",
        _drawn(engines, colour=sys.stdout.isatty()),
        "",
        _drawn(findings, colour=sys.stdout.isatty()),
        "",
        "this machine is NOT fit to gate on: see UNFIT or MISSING above"
        if examination.status
        else "this machine is fit to gate on",
    ]


def _wrapping(*names: str) -> rich.table.Table:
    """A table of sentences, which may be wrapped."""
    table = rich.table.Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for name in names:
        table.add_column(name, overflow="fold")
    return table


def sensitivity_table(rows: Sequence[Sensitivity]) -> Table:
    """One row per group of layers, the lowest SQNR first."""
    columns = (Column("quantised", text=True), *map(Column, ("layers", "agreement", "SQNR dB", "latency ms")))
    return Table(
        columns,
        tuple(
            cells(
                row.group,
                len(row.nodes),
                f"{row.agreement.top1}/{row.agreement.n}",
                f"{row.agreement.sqnr_db:.1f}",
                milliseconds(row.latency),
            )
            for row in sorted(rows, key=lambda row: row.agreement.sqnr_db)
        ),
        grouped=0,
    )


def selftest_lines(result: Selftest) -> list[str]:
    """What a selftest found: what each slowdown came to, and what block statistics would have said."""
    outcomes = (Outcome.PASS, Outcome.IMPROVED, Outcome.INCONCLUSIVE, Outcome.INVALID, Outcome.REGRESSED)
    rows = []
    for kind, trials in result.trials.items():
        counts = [result.count(kind, outcome) for outcome in outcomes]
        wrong = counts[-1] if kind is SAME else counts[0] + counts[1]
        rows.append(cells(kind.name, len(trials), *counts, f"{binomial_upper(wrong, len(trials)):.1%}"))
    names = ("races", *(outcome.value for outcome in outcomes), "wrong, at most")
    races = Table((Column("second arm", text=True), *map(Column, names)), tuple(rows), grouped=0)
    names = ("width", "false alarms", "A/A passed", "caught", "inconclusive")
    statistics = Table(
        (Column("block statistic, first look", text=True), *map(Column, names)),
        tuple(
            cells(row.statistic, f"{row.width:.2%}", row.false_alarms, row.passed, row.caught, row.open)
            for row in compare_statistics(result)
        ),
        grouped=0,
    )
    prolonged = sum(trial.prolonged for trials in result.trials.values() for trial in trials)
    return [
        f"{result.model} {result.engine} batch {result.batch}: latency {milliseconds(result.latency)} ms, "
        f"delta {result.delta:.1%}, {result.seconds:.0f} s, {prolonged} took more than the first look",
        table_text(races),
        "wrong: REGRESSED against itself, PASS of a slowed arm; the bound holds with 95 % confidence",
        f"the smallest delta this machine can gate at: {result.smallest_delta:.1%}",
        table_text(statistics),
    ]
