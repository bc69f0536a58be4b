"""Tables for a terminal of 100 columns, through rich."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trtgate.compare import Comparison, Report
from trtgate.engines.base import REFERENCE
from trtgate.records import EngineRecord
from trtgate.verdict.decision import Verdict
from trtgate.verdict.paired import change_text
from trtgate.verdict.policy import worst

WIDTH = 100
COLOURS = {
    Verdict.PASS: "green",
    Verdict.IMPROVED: "bold green",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.INVALID: "magenta",
    Verdict.REGRESSED: "bold red",
}


def render(table: Table, *, colour: bool = False, width: int = WIDTH) -> str:
    """A table as text."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=colour, no_color=not colour, highlight=False).print(table)
    return out.getvalue().rstrip("\n")


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        left = name in {"model", "engine", "verdict"}
        table.add_column(name, justify="left" if left else "right", no_wrap=True, overflow="fold")
    return table


def verdict_text(verdict: Verdict) -> Text:
    """A verdict in its colour."""
    return Text(verdict.value, style=COLOURS[verdict])


def milliseconds(seconds: float) -> str:
    """Three significant digits at least, as milliseconds."""
    value = seconds * 1e3
    return f"{value:.3f}" if value < 10 else f"{value:.2f}" if value < 100 else f"{value:.1f}"


def run_table(records: Iterable[EngineRecord]) -> Table:
    """What a run measured: one row per model, engine and batch size."""
    table = _table("model", "engine", "batch", "p50 ms", "p90 ms", "speedup", "top-1\n(at least)", "verdict")
    previous = ""
    for record in records:
        bounds = record.speedup_interval()
        speedup = f"{record.speedup:.2f}" + (f" [{bounds[0]:.2f},{bounds[1]:.2f}]" if bounds else "")
        is_reference = record.engine == REFERENCE.id
        table.add_row(
            record.model if record.model != previous else "",
            record.engine,
            str(record.batch),
            milliseconds(record.percentiles["p50"]),
            milliseconds(record.percentiles["p90"]),
            "reference" if is_reference else speedup,
            _agreement_text(record, is_reference),
            verdict_text(worst(record.decisions).verdict) if record.decisions else Text(""),
        )
        previous = record.model
    return table


def _agreement_text(record: EngineRecord, is_reference: bool) -> str:
    if record.weights == "untrained":
        return "untrained"
    if is_reference or not record.agreement:
        return "" if is_reference else "not measured"
    share = record.agreement["top1"] / record.agreement["n"]
    return f"{share:.1%} ({record.agreement['low']:.1%})"


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Old against new: one row per engine."""
    table = _table("model", "engine", "batch", "old ms", "new ms", "change", "old x", "new x", "verdict")
    for each in comparisons:
        model, engine, batch = each.key
        change = each.latency.estimate
        table.add_row(
            model,
            engine,
            str(batch),
            milliseconds(each.old_latency),
            milliseconds(each.new_latency),
            f"{change - 1:+.1%}" if change else "",
            f"{each.old_speedup:.2f}",
            f"{each.new_speedup:.2f}",
            verdict_text(each.decision.verdict),
        )
    return table


def comparison_notes(report: Report) -> list[str]:
    """What the table has no room for: the stack, the reasons, what is missing or new."""
    lines = ["stack: " + ("; ".join(report.stack_changes) or "nothing changed")]
    for each in report.engines:
        model, engine, batch = each.key
        lines.append(f"{model} {engine} batch {batch}: {each.decision.verdict.value} ({each.decision.reason.value})")
        lines.append(f"  latency: {each.latency.message}")
        slower_speedup = each.speedup.estimate
        if slower_speedup:
            lines.append(
                f"  speedup: {each.old_speedup:.2f} -> {each.new_speedup:.2f}; {each.attribution}; "
                f"time relative to the reference {change_text(math.log(slower_speedup))}"
            )
    lines += [f"MISSING: {decision.message}" for decision in report.missing.values()]
    lines += [f"new: {model} {engine} batch {batch} has no baseline" for model, engine, batch in report.added]
    return lines
