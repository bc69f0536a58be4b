"""Pages as Markdown, for a job summary or a pull request."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from trtgate.kinds import printable
from trtgate.report.page import Notes, Page, Part, Room, Table, fitting

log = logging.getLogger(__name__)

# The file that GitHub's runner shows as a job's summary.
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
COUNT = re.compile(r"[-+~]?[\d.]")


def publish(text: str) -> None:
    """Append to the job's summary, where a runner has set the file for it."""
    path = os.environ.get(SUMMARY_VARIABLE)
    if not path:
        return
    try:
        with Path(path).open("a", encoding="utf-8") as summary:
            summary.write(f"{text}\n")
    except OSError as error:  # what was measured and decided stands, and is on the terminal
        log.warning("%s=%s cannot be written (%s)", SUMMARY_VARIABLE, path, error.strerror)


def render(page: Page) -> str:
    """A page as Markdown, the headline first."""
    title = "### trtgate" + (f": {_cell(page.title)}" if page.title else "")
    outcome = f"**{page.headline.outcome.value}** " if page.headline.outcome else ""
    blocks = [title, outcome + _cell(page.headline.sentence)]
    for section in page.sections:
        parts = fitting(section.parts, Room.SUMMARY)
        if parts and section.title and not all(isinstance(part, Notes) and part.title for part in parts):
            blocks.append(f"#### {_cell(section.title)}")
        for part in parts:
            blocks += _part(part)
    return "\n\n".join(blocks)


def doctor_markdown(lines: Sequence[str]) -> str:
    """What the doctor said of a machine that is not fit."""
    return "\n\n".join(["### trtgate: this machine is not fit to gate on", *_block(lines)])


def _part(part: Part) -> list[str]:
    if isinstance(part, Notes):
        return _block(part.lines, part.title)
    assert isinstance(part, Table), "Markdown draws no charts"
    kept = [index for index, column in enumerate(part.columns) if column.room <= Room.SUMMARY]
    header = [part.columns[index].name for index in kept]
    return [_table(header, [[row[index].text for index in kept] for row in (*part.rows, *part.more)])]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; columns whose cells begin with a number are right-aligned."""
    cells = [[_cell(each) for each in row] for row in rows]
    numbers = [all(COUNT.match(row[index]) or not row[index] for row in cells) for index in range(len(header))]
    rule = ["---:" if right and cells else "---" for right in numbers]
    lines = [[_cell(each) for each in header], rule, *cells]
    return "\n".join("|" + "".join(f" {each} |" if each else " |" for each in row) for row in lines)


def _cell(value: str) -> str:
    """Text that stays in its cell and is no markup: names come from files that others wrote."""
    # What is not printable goes first: without it two characters may be markup that were none apart.
    line = re.sub(r"\s+", " ", printable(value)).replace("&", "&amp;").replace("<", "&lt;")
    # A link or a picture begins with `](`; other brackets are those of intervals. Within a word `_` is no markup.
    return re.sub(r"[\\|`*]|(?<![^\W_])_|_(?![^\W_])|~(?![\d.])|(?<=\])\(", r"\\\g<0>", line)


def _block(lines: Sequence[str], title: str = "") -> list[str]:
    """Lines as they are, fenced; folded away under a title if there is one; nothing for no lines."""
    if not lines:
        return []
    fence, text = "```", printable("\n".join(lines))
    while fence in text:
        fence += "`"
    block = f"{fence}\n{text}\n{fence}"
    return [f"<details><summary>{_cell(title)}</summary>\n\n{block}\n\n</details>" if title else block]
