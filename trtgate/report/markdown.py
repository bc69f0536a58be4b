"""Runs, comparisons and fleets as Markdown, for a job summary or a pull request."""

from __future__ import annotations

import logging
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from trtgate.ab import AbReport
from trtgate.compare import Report
from trtgate.engines.base import REFERENCE
from trtgate.fleet import Fleet
from trtgate.records import EngineRecord
from trtgate.report.terminal import (
    ab_notes,
    agreement_text,
    bounds_text,
    comparison_notes,
    floors_text,
    milliseconds,
    moved_text,
    run_notes,
    speedup_text,
    stack_line,
    stack_words,
    time_text,
)
from trtgate.verdict.paired import change_text
from trtgate.verdict.policy import GOOD

log = logging.getLogger(__name__)

# The file that GitHub's runner shows as a job's summary.
SUMMARY_VARIABLE = "GITHUB_STEP_SUMMARY"
COUNT = re.compile(r"[-+]?[\d.]")


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


def run_markdown(records: Sequence[EngineRecord], skipped: Mapping[str, str], stack: Mapping[str, Any]) -> str:
    """What a run measured, its failures and its notes."""
    rows = [
        [
            record.model,
            record.engine,
            record.batch,
            *(time_text(record.value(metric)) for metric in ("latency", "typical", "tail")),
            "reference" if record.engine == REFERENCE.id else speedup_text(record),
            agreement_text(record),
            floors_text(record),
        ]
        for record in records
    ]
    bad = [
        f"{record.name}: {decision}"
        for record in records
        for decision in record.decisions
        if decision.verdict not in GOOD
    ]
    header = [
        "model",
        "engine",
        "batch",
        "latency ms",
        "typical ms",
        "tail ms",
        "speedup",
        "top-1 (at least)",
        "verdict",
    ]
    return "\n\n".join(
        [
            "### trtgate",
            stack_line(stack),
            _table(header, rows),
            *_block(bad),
            *_block(run_notes(records, skipped), "notes"),
        ]
    )


def doctor_markdown(lines: Sequence[str]) -> str:
    """What the doctor said of a machine that is not fit."""
    return "\n\n".join(["### trtgate: this machine is not fit to gate on", *_block(lines)])


def ab_markdown(run: AbReport) -> str:
    """The table of an A/B run, then the notes of the terminal."""
    return "\n\n".join(["### trtgate: old against new, raced", _comparison_rows(run.report), *_block(ab_notes(run))])


def comparison_markdown(report: Report) -> str:
    """A table of all engines, then the notes of the terminal."""
    return "\n\n".join(
        ["### trtgate: against the baseline", _comparison_rows(report), *_block(comparison_notes(report))]
    )


def _comparison_rows(report: Report) -> str:
    rows: list[list[Any]] = []
    for each in report.engines:
        latency = each.change("latency")
        rows.append(
            [
                *each.key,
                time_text(latency.old if latency else None),
                time_text(latency.new if latency else None),
                bounds_text(latency),
                *(moved_text(each.change(metric)) for metric in ("typical", "tail")),
                each.decision.verdict.value,
                each.decision.reason.value,
            ]
        )
    rows += [
        [*key, "", "", "", "", "", decision.verdict.value, decision.reason.value]
        for key, decision in report.missing.items()
    ]
    header = ["model", "engine", "batch", "old ms", "new ms", "change", "typical", "tail", "verdict", "reason"]
    return _table(header, rows)


def fleet_markdown(fleet: Fleet) -> str:
    """All runners: what each has, then every engine of each."""
    runners = [[runner, stack_words(stack)] for runner, stack in fleet.stacks.items()]
    rows = [
        [
            row.runner,
            *row.key,
            row.sessions,
            milliseconds(row.latency),
            f"{row.speedup:.2f}",
            "" if row.change is None else change_text(math.log(row.change)),
            row.decision.verdict.value,
        ]
        for row in fleet.rows
    ]
    bad = [
        f"{row.runner} {row.key[0]} {row.key[1]} batch {row.key[2]}: {row.decision}"
        for row in fleet.rows
        if row.decision.verdict not in GOOD
    ]
    bad += [f"{name}: {decision}" for name, decision in fleet.problems.items()]
    header = ["runner", "model", "engine", "batch", "sessions", "ms", "speedup", "change", "verdict"]
    return "\n\n".join(
        ["### trtgate: the fleet", _table(["runner", "stack"], runners), _table(header, rows), *_block(bad)]
    )


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A table; columns whose cells begin with a number are right-aligned."""
    cells = [[_cell(each) for each in row] for row in rows]
    numbers = [all(COUNT.match(row[index]) or not row[index] for row in cells) for index in range(len(header))]
    rule = ["---:" if right and cells else "---" for right in numbers]
    return "\n".join("|" + "".join(f" {each} |" if each else " |" for each in row) for row in [header, rule, *cells])


def _cell(value: Any) -> str:
    """Text that stays in its cell: names come from files that others wrote."""
    return re.sub(r"\s+", " ", str(value)).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _block(lines: Sequence[str], title: str = "") -> list[str]:
    """Lines as they are, fenced; folded away under a title if there is one; nothing for no lines."""
    if not lines:
        return []
    fence = "```"
    while any(fence in line for line in lines):
        fence += "`"
    block = "\n".join([fence, *lines, fence])
    return [f"<details><summary>{title}</summary>\n\n{block}\n\n</details>" if title else block]
