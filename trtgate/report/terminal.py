"""Tables for a terminal of 100 columns, through rich."""

from __future__ import annotations

import io
import itertools
import math
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from trtgate.ab import AbReport, AbResult, SideFacts
from trtgate.blog import BlogRow
from trtgate.compare import Comparison, Report
from trtgate.doctor import Examination, State
from trtgate.engines.base import REFERENCE
from trtgate.fleet import FleetRow
from trtgate.records import EngineRecord
from trtgate.selftest import Selftest, binomial_upper, compare_statistics
from trtgate.sensitivity import Sensitivity
from trtgate.verdict.decision import Verdict
from trtgate.verdict.paired import change_text
from trtgate.verdict.policy import GOOD, worst

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
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        left = name in {"model", "engine", "verdict"}
        table.add_column(name, justify="left" if left else "right", no_wrap=True, overflow="fold")
    return table


def print_table(table: Table) -> None:
    """A table on standard output, in colour where that is a terminal."""
    print(render(table, colour=sys.stdout.isatty()))


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
        is_reference = record.engine == REFERENCE.id
        table.add_row(
            record.model if record.model != previous else "",
            record.engine,
            str(record.batch),
            *(milliseconds(record.percentiles[q]) if q in record.percentiles else "-" for q in ("p50", "p90")),
            "reference" if is_reference else speedup_text(record),
            agreement_text(record),
            verdict_text(worst(record.decisions).verdict) if record.decisions else Text(""),
        )
        previous = record.model
    return table


def run_notes(records: Iterable[EngineRecord], skipped: Mapping[str, str]) -> list[str]:
    """What makes measurements less sure and what was left out; what several engines share is said once."""
    said: dict[tuple[str, str], list[str]] = {}
    raced: dict[str, list[str]] = {}
    for record in records:
        where = f"{record.model} batch {record.batch}"
        raced.setdefault(where, []).append(record.engine)
        for warning in record.warnings:
            said.setdefault((where, warning), []).append(record.engine)
    for name, reason in skipped.items():
        model, _, engine = name.rpartition(" ")
        said.setdefault((model, f"skipped: {reason}"), []).append(engine)
    return [
        f"{where} {'all engines' if engines == raced.get(where) else ', '.join(engines)}: {what}"
        for (where, what), engines in said.items()
    ]


def gpu_table(records: Iterable[EngineRecord]) -> Table:
    """What a GPU adds to the table: time with copies, the host's share, and throughput."""
    rows = list(records)
    streams = next((int(row.throughput["streams"]) for row in rows if row.throughput), 1)
    together = [f"{streams} streams\nimages/s"] if streams > 1 else []
    table = _table(
        "model", "engine", "batch", "compute\nms", "end to\nend ms", "enqueue\nms", "images/s", *together, "SM MHz"
    )
    previous = ""
    for row in rows:
        end_to_end = row.end_to_end_latency
        clock = row.clock_mhz
        table.add_row(
            row.model if row.model != previous else "",
            row.engine,
            str(row.batch),
            milliseconds(row.latency) if row.rounds else "-",
            milliseconds(end_to_end) if end_to_end else "-",
            milliseconds(row.enqueue_seconds) if row.enqueue_seconds else "-",
            f"{row.images_per_second:.0f}" if row.rounds else "-",
            *([f"{row.throughput['images_per_second']:.0f}" if row.throughput else "-"] if together else []),
            f"{clock:.0f}" if clock else "-",
        )
        previous = row.model
    return table


def blog_table(rows: Iterable[BlogRow]) -> Table:
    """Both protocols side by side."""
    table = _table(
        "model", "engine", "batch", "blog's\nPyTorch ms", "blog's\nengine ms", "blog's\nspeedup", "this ms", "speedup"
    )
    for row in rows:
        table.add_row(
            row.model,
            row.engine,
            str(row.batch),
            milliseconds(row.baseline),
            milliseconds(row.seconds),
            f"{row.speedup:.2f}",
            milliseconds(row.honest_seconds),
            f"{row.honest_speedup:.2f}",
        )
    return table


def stack_line(stack: Mapping[str, Any]) -> str:
    """What a run was measured on, in one line."""
    if stack.get("gpu"):
        return (
            f"{stack['gpu']}, driver {stack['driver']}, CUDA {stack['cuda']}, torch {stack['torch']}\n"
            f"reference: eager FP32, cuDNN {stack['cudnn']} on without benchmark mode, TF32 off"
        )
    return f"{stack['cpu']}, {stack['threads']} threads, torch {stack['torch']}"


def stack_words(stack: Mapping[str, Any]) -> str:
    """What tells one machine of a fleet from another: processor, driver and runtimes."""
    known = {name: stack.get(name) for name in ("driver", "cuda", "tensorrt", "onnxruntime", "openvino", "torch")}
    words = [str(stack.get("gpu") or stack.get("cpu")), *(f"{name} {value}" for name, value in known.items() if value)]
    return ", ".join(words)


def fleet_table(rows: Iterable[FleetRow]) -> Table:
    """Every engine of every runner."""
    table = _table("runner", "model", "engine", "batch", "ms", "speedup", "change", "verdict")
    table.columns[0].justify = "left"
    previous = ""
    for row in rows:
        table.add_row(
            row.runner if row.runner != previous else "",
            *map(str, row.key),
            milliseconds(row.latency),
            f"{row.speedup:.2f}",
            "" if row.change is None else change_text(math.log(row.change)),
            verdict_text(row.decision.verdict),
        )
        previous = row.runner
    return table


def answers_table(facts: Mapping[tuple[str, str], Mapping[str, Any]]) -> Table:
    """How faithful the answers are: one row per model and engine whose answers were compared."""
    labelled = any(each.get("accuracy") for each in facts.values())
    columns = ["model", "engine", "agreement", "top-5", "cosine", "SQNR dB"]
    table = _table(*columns, *(["labelled\ntop-1", "labelled\ntop-5"] if labelled else []))
    for (model, engine), each in facts.items():
        agreement, accuracy = each.get("agreement"), each.get("accuracy")
        if not agreement:
            continue
        n = agreement["n"]
        sqnr = agreement["sqnr_db"]
        table.add_row(
            model,
            engine,
            f"{agreement['top1']}/{n}",
            f"{agreement['top5']}/{n}",
            f"{agreement['cosine']:.4f}",
            "exact" if sqnr is None else f"{sqnr:.1f}",
            *([_accuracy_text(accuracy, "top1"), _accuracy_text(accuracy, "top5")] if labelled else []),
        )
    return table


def _accuracy_text(accuracy: Mapping[str, Any] | None, what: str) -> str:
    if not accuracy:
        return ""
    ours, reference = (accuracy[f"{who}_{what}"] / accuracy["n"] for who in ("engine", "reference"))
    return f"{ours:.1%} ({(ours - reference) * 100:+.1f})"


def speedup_text(record: EngineRecord) -> str:
    """The speedup with its interval, where there are rounds."""
    bounds = record.speedup_interval()
    speedup = f"{record.speedup:.2f}" if record.rounds else "-"
    return speedup + (f" [{bounds[0]:.2f},{bounds[1]:.2f}]" if bounds else "")


def agreement_text(record: EngineRecord) -> str:
    """Top-1 agreement with its lower bound, or why there is none; empty for the reference."""
    if record.weights == "untrained":
        return "untrained"
    is_reference = record.engine == REFERENCE.id
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
            change_text(math.log(change)) if change else "",
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
                f"time relative to the reference {change_text(math.log(slower_speedup))}; {each.clocks}"
            )
        if each.speedup.verdict not in GOOD and each.key[1] != REFERENCE.id:
            whose = "; the noise is the reference's, so the engine's own times decide"
            lines.append(f"  speedup by itself: {each.speedup}{whose if each.only_reference_is_unsure else ''}")
        if each.end_to_end:
            lines.append(f"  end to end: {each.end_to_end.message}")
        lines += [f"  layer {layer}" for layer in each.layers]
    lines += [f"MISSING: {decision.message}" for decision in report.missing.values()]
    lines += [f"new: {model} {engine} batch {batch} has no baseline" for model, engine, batch in report.added]
    return lines


def doctor_lines(stack: Mapping[str, Any], examination: Examination) -> list[str]:
    """What the doctor found: the stack, the engines, the machine, the conclusion."""
    engines = _table("engine", "available", "fix")
    for found, group in itertools.groupby(examination.engines, key=lambda each: each[1]):
        names = "\n".join(spec.id for spec, _ in group)
        engines.add_row(names, Text("yes", "green") if found.ok else found.reason, found.fix)
    findings = _table("what", "state", "found", "fix")
    for finding in examination.findings:
        style = {State.OK: "green", State.NOTE: "yellow", State.UNFIT: "bold red"}[finding.state]
        findings.add_row(finding.name, Text(finding.state.value, style), finding.text, finding.fix)
    for table in (engines, findings):
        for column in table.columns:
            column.justify, column.no_wrap = "left", False
    known = [f"{name} {value}" for name, value in stack.items() if value not in (None, [], "")]
    return [
        "\n".join(textwrap.wrap(", ".join(known), WIDTH)),
        "",
        render(engines, colour=sys.stdout.isatty()),
        "",
        render(findings, colour=sys.stdout.isatty()),
        "",
        "this machine is fit to gate on" if examination.fit else "this machine is NOT fit to gate on: see UNFIT above",
    ]


def ab_table(results: Sequence[AbResult]) -> Table:
    """Old against new, raced: one row per engine and batch size."""
    table = _table("model", "engine", "batch", "old ms", "new ms", "change", "same\nanswers", "verdict")
    previous = ""
    for each in results:
        bounds = (each.latency.estimate, each.latency.low, each.latency.high)
        change = [change_text(math.log(value)) for value in bounds if value is not None]
        both = each.agreement["new with old"]
        table.add_row(
            each.model if each.model != previous else "",
            each.engine,
            str(each.batch),
            milliseconds(each.old.latency),
            milliseconds(each.new.latency),
            f"{change[0]} [{change[1]}, {change[2]}]" if len(change) == len(bounds) else "-",
            f"{both['top1']}/{both['n']}",
            verdict_text(each.decision.verdict),
        )
        previous = each.model
    return table


def ab_notes(report: AbReport) -> list[str]:
    """What the table has no room for: the stacks, what was built, the reasons, the layers."""
    lines = ["old -> new: " + ("; ".join(report.stack_changes) or "the same versions of everything")]
    lines += [f"left out: {engine} ({why})" for engine, why in report.left_out.items()]
    for each in report.results:
        decision = each.decision
        name = f"{each.model} {each.engine} batch {each.batch}"
        lines += [
            f"{name}: {decision.verdict.value} ({decision.reason.value})",
            f"  latency: {each.latency.message}",
            *([f"  end to end: {each.end_to_end.message}"] if each.end_to_end else []),
            *(f"  answers, {pair}: {_fidelity_text(found)}" for pair, found in each.agreement.items()),
            *(f"  {bad.verdict.value}: {bad.message}" for bad in each.answers if bad.verdict is not Verdict.PASS),
            f"  built: {_built_text(each.old)} -> {_built_text(each.new)}",
            *(f"  layer {layer}" for layer in each.layers),
            *(f"  note: {note}" for note in each.notes),
        ]
    return lines


def _fidelity_text(found: Mapping[str, Any]) -> str:
    sqnr = "the same to the last bit" if found["sqnr_db"] is None else f"SQNR {found['sqnr_db']:.1f} dB"
    return f"top-1 {found['top1']}/{found['n']}, worst cosine {found['cosine']:.4f}, {sqnr}"


def _built_text(side: SideFacts) -> str:
    plan = "" if side.plan_bytes is None else f"plan {side.plan_bytes / 1e6:.1f} MB, "
    time = "" if side.build_seconds is None else f"in {side.build_seconds:.1f} s, "
    return f"{plan}{time}memory {side.memory_bytes / 1e6:.0f} MB"


def sensitivity_table(rows: Sequence[Sensitivity]) -> Table:
    """One row per group of layers, the lowest SQNR first."""
    table = _table("engine", "layers", "agreement", "SQNR dB", "ms")
    table.columns[0].header = "quantised"
    for row in sorted(rows, key=lambda row: row.agreement.sqnr_db):
        agreement = row.agreement
        table.add_row(
            row.group,
            str(len(row.nodes)),
            f"{agreement.top1}/{agreement.n}",
            f"{agreement.sqnr_db:.1f}",
            milliseconds(row.latency),
        )
    return table


def selftest_lines(result: Selftest) -> list[str]:
    """What a selftest found, in sentences and one table."""
    n, m = len(result.same), len(result.slowed)
    missed = m - result.caught
    counts = {
        name: ", ".join(
            f"{sum(trial.decision.verdict is verdict for trial in trials)} {verdict.value}"
            for verdict in Verdict
            if any(trial.decision.verdict is verdict for trial in trials)
        )
        for name, trials in (("same", result.same), ("slowed", result.slowed))
    }
    reruns = sum(trial.reran for trial in (*result.same, *result.slowed))
    table = _table("engine", "width", "false alarms", "A/A passed", "caught", "inconclusive")
    table.columns[0].header = "block statistic, no rerun"
    for row in compare_statistics(result):
        table.add_row(
            row.statistic, f"{row.width:.2%}", str(row.false_alarms), str(row.passed), str(row.caught), str(row.open)
        )
    return [
        f"{result.model} {result.engine} batch {result.batch}: {milliseconds(result.latency)} ms, "
        f"delta {result.delta:.1%}, {result.seconds:.0f} s, {reruns} reruns",
        f"A/A races: {counts['same']}; {result.false_alarms} false alarms in {n}, "
        f"at most {binomial_upper(result.false_alarms, n):.1%} of races with 95 % confidence",
        f"slowed by {result.slowdown:.1%}: {counts['slowed']}; {missed} missed in {m}, "
        f"at most {binomial_upper(missed, m):.1%} of races with 95 % confidence",
        f"the smallest delta this machine can gate at: {result.smallest_delta:.1%}",
        render(table),
    ]
