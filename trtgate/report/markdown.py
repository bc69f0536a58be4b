"""Comparisons as Markdown, for a job summary or a pull request."""

from __future__ import annotations

from trtgate.compare import Report
from trtgate.report.terminal import comparison_notes, milliseconds


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
