"""Comparisons as Markdown, for a job summary or a pull request."""

from __future__ import annotations

import math

from trtgate.ab import AbReport
from trtgate.compare import Report
from trtgate.report.terminal import ab_notes, comparison_notes, milliseconds
from trtgate.verdict.paired import change_text


def ab_markdown(report: AbReport) -> str:
    """The table of an A/B run, then the notes of the terminal."""
    lines = [
        "| model | engine | batch | old ms | new ms | change | verdict | reason |",
        "| --- | --- | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for each in report.results:
        cells = [
            each.model,
            each.engine,
            str(each.batch),
            milliseconds(each.old.latency),
            milliseconds(each.new.latency),
            "" if each.latency.estimate is None else change_text(math.log(each.latency.estimate)),
            each.decision.verdict.value,
            each.decision.reason.value,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", "```", *ab_notes(report), "```", ""])


def comparison_markdown(report: Report) -> str:
    """A table of all engines, then the notes of the terminal."""
    lines = [
        "| model | engine | batch | old ms | new ms | old speedup | new speedup | verdict | reason |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | --- | --- |",
    ]
    for each in report.engines:
        model, engine, batch = each.key
        cells = [
            model,
            engine,
            str(batch),
            milliseconds(each.old_latency),
            milliseconds(each.new_latency),
            f"{each.old_speedup:.2f}",
            f"{each.new_speedup:.2f}",
            each.decision.verdict.value,
            each.decision.reason.value,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    for (model, engine, batch), decision in report.missing.items():
        lines.append(f"| {model} | {engine} | {batch} | | | | | {decision.verdict.value} | {decision.reason.value} |")
    return "\n".join([*lines, "", "```", *comparison_notes(report), "```", ""])
