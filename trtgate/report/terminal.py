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

from trtgate.ab import AbReport, SideFacts
from trtgate.blog import BlogRow
from trtgate.compare import Change, Comparison, Report
from trtgate.doctor import Examination, State
from trtgate.engines.base import REFERENCE
from trtgate.fleet import FleetRow
from trtgate.records import EngineRecord, name_of
from trtgate.selftest import SAME, Selftest, binomial_upper, compare_statistics
from trtgate.sensitivity import Sensitivity
from trtgate.verdict.decision import Decision, Verdict
from trtgate.verdict.paired import change_text
from trtgate.verdict.policy import GOOD, SEVERITY, worst

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
    # Names come from files that others wrote: no markup of theirs.
    plain = Console(
        file=out, width=width, force_terminal=colour, no_color=not colour, highlight=False, markup=False, emoji=False
    )
    plain.print(table)
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


def _table(*columns: str) -> Table:
    table = Table(box=None, header_style="bold", pad_edge=False, padding=(0, 1, 0, 0))
    for name in columns:
        left = name in {"model", "engine", "verdict"}
        # A name that is too long is folded; a number never is.
        wraps = name in {"model", "engine", "runner"}
        table.add_column(name, justify="left" if left else "right", no_wrap=not wraps, overflow="fold")
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
    table = _table("model", "engine", "batch", "latency\nms", "tail\nms", "speedup", "top-1\n(at least)", "verdict")
    previous = ""
    for record in records:
        is_reference = record.engine == REFERENCE.id
        table.add_row(
            record.model if record.model != previous else "",
            record.engine,
            str(record.batch),
            *(time_text(record.value(metric)) for metric in ("latency", "tail")),
            "reference" if is_reference else speedup_text(record),
            agreement_text(record),
            floors_text(record),
        )
        previous = record.model
    return table


def time_text(seconds: float | None) -> str:
    """Milliseconds, or a dash for what was not measured."""
    return "-" if seconds is None else milliseconds(seconds)


def floors_text(record: EngineRecord) -> Text:
    """What a run without a baseline can say: whether its floors are met. No upgrade is judged by that."""
    if not record.decisions:
        return Text("")
    verdict = worst(record.decisions).verdict
    return Text("floors met", COLOURS[Verdict.PASS]) if verdict in GOOD else verdict_text(verdict)


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
        end_to_end = row.value("end_to_end")
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


def photos_text(agreement: Mapping[str, Any]) -> str:
    """How many photos an agreement rests on: crops of one are no independent ones."""
    n, photos = agreement["n"], agreement.get("photos", agreement["n"])
    return f"{n} photos" if photos == n else f"{n} crops of {photos} photos"


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
        finite = agreement.get("finite", True)
        sqnr = agreement["sqnr_db"]
        table.add_row(
            model,
            engine,
            f"{agreement['top1']}/{n}",
            f"{agreement['top5']}/{n}",
            f"{agreement['cosine']:.4f}" if finite else "not finite",
            "not finite" if not finite else "exact" if sqnr is None else f"{sqnr:.1f}",
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
    """Old against new: one row per engine; times and changes are those of the latency unless the column says."""
    table = _table("model", "engine", "batch", "old ms", "new ms", "change", "typical", "tail", "verdict")
    previous = ""
    for each in comparisons:
        model, engine, batch = each.key
        latency = each.change("latency")
        table.add_row(
            model if model != previous else "",
            engine,
            str(batch),
            time_text(latency.old if latency else None),
            time_text(latency.new if latency else None),
            bounds_text(latency),
            *(moved_text(each.change(metric)) for metric in ("typical", "tail")),
            verdict_text(each.decision.verdict),
        )
        previous = model
    return table


def moved_text(change: Change | None) -> str:
    """How far a metric moved, as its rule estimates it."""
    if change is None or not change.decision.estimate:
        return "-"
    return change_text(math.log(change.decision.estimate))


def bounds_text(change: Change | None) -> str:
    """The same with its interval, where there is one."""
    decision = change.decision if change else None
    if decision is None or not decision.low or not decision.high:
        return moved_text(change)
    return f"{moved_text(change)} [{change_text(math.log(decision.low))},{change_text(math.log(decision.high))}]"


def comparison_notes(report: Report) -> list[str]:
    """What the table has no room for: the stack, the reasons, what is missing or new."""
    lines = ["stack: " + ("; ".join(report.stack_changes) or "nothing changed")]
    if report.limit_changes:
        lines.append(f"expectations changed: {'; '.join(report.limit_changes)}")
    lines += [f"{decision}: {name}" for name, decision in report.problems.items()]
    for each in report.engines:
        lines += engine_notes(each)
    lines += missing_notes(report)
    lines += [f"new: {name_of(key)} has no baseline" for key in report.added]
    return lines


def engine_notes(each: Comparison) -> list[str]:
    """One engine: the verdict, every metric that is not well, and in one line those that are."""
    decision = each.decision
    lines = [f"{name_of(each.key)}: {decision.verdict.value} ({decision.reason.value})"]
    if each.invalid:
        lines.append(f"  {each.invalid.message}")
    fine = []
    for change in each.changes:
        found = change.decision
        if change.metric == "latency" or (change.gated and found.verdict not in GOOD):
            state = "" if change.metric == "latency" else f"{found.verdict.value} ({found.reason.value}), "
            lines.append(f"  {metric_words(change.metric)}: {state}{found.message}")
        elif change.gated:
            moved = moved_text(change)
            fine.append(metric_words(change.metric) + ("" if moved == "-" else f" {moved}"))
    if fine:
        lines += textwrap.wrap(
            f"within their limits: {', '.join(fine)}", WIDTH - 2, initial_indent="  ", subsequent_indent="    "
        )
    speedup = each.change("speedup")
    if speedup and speedup.old and speedup.new:
        lines.append(
            f"  speedup: {speedup.old:.2f} -> {speedup.new:.2f} (printed, not gated); {each.attribution}; {each.clocks}"
            if not speedup.gated
            else f"  speedup: {speedup.old:.2f} -> {speedup.new:.2f}; {each.attribution}; {each.clocks}"
        )
    if each.baseline_differs:
        lines.append(f"  the old side does not agree with itself, {each.baseline_differs}")
    return lines + [f"  layer {layer}" for layer in each.layers]


def metric_words(name: str) -> str:
    """A metric's name as people write it."""
    return name.replace("_", " ")


def missing_notes(report: Report) -> list[str]:
    """What the new side lacks, by reason: eighteen engines of a runtime that is gone are one line."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for key, decision in report.missing.items():
        groups.setdefault((decision.verdict in GOOD, decision.message), []).append(name_of(key))
    lines = []
    for (fine, why), names in groups.items():
        shown = ", ".join(names[:MISSING_SHOWN]) + (
            f" and {len(names) - MISSING_SHOWN} more" if len(names) > MISSING_SHOWN else ""
        )
        advice = "" if fine else "; if that is meant, add it to acknowledged_missing in expectations.toml"
        lines.append(f"MISSING: {shown}: {why}{advice}")
    return lines


# Names in one line of what is missing.
MISSING_SHOWN = 4


def closing_lines(records: Sequence[EngineRecord], decisions: Sequence[Decision], report: Report | None) -> list[str]:
    """What was decided, first; then what to do next."""
    counts = {verdict: sum(each.verdict is verdict for each in decisions) for verdict in SEVERITY}
    bad = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if count and verdict not in GOOD)
    engines = f"{len(records)} engines measured" if len(records) != 1 else "1 engine measured"
    floors = f"floors and answers: {bad}" if bad else "floors met"
    if report is None:
        return [
            f"{engines}, {floors}; no baseline, so no upgrade was judged; next: --benchmark-save=before, upgrade, "
            "--benchmark-compare=before"
        ]
    compared = report.decisions()
    counts = {verdict: sum(each.verdict is verdict for each in compared) for verdict in SEVERITY}
    against = ", ".join(f"{count} {verdict.value}" for verdict, count in counts.items() if count)
    return [f"against the baseline: {against}; {engines}, {floors}"]


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


def ab_notes(run: AbReport) -> list[str]:
    """What the table has no room for: the stacks, what was built, the reasons, the layers."""
    report = run.report
    lines = ["old -> new: " + ("; ".join(report.stack_changes) or "the same versions of everything")]
    lines += [f"left out: {engine} ({why})" for engine, why in run.left_out.items()]
    lines += [f"{decision}: {name}" for name, decision in report.problems.items()]
    for each in run.results:
        lines += [
            *engine_notes(each.comparison),
            *(f"  answers, {pair}: {_fidelity_text(found)}" for pair, found in each.agreement.items()),
            f"  built: {_built_text(each.old)} -> {_built_text(each.new)}",
            *(f"  note: {note}" for note in each.notes),
        ]
    lines += missing_notes(report)
    lines += [f"new: {name_of(key)} is on the new side only" for key in report.added]
    return lines


def _fidelity_text(found: Mapping[str, Any]) -> str:
    if not found.get("finite", True):
        return "the logits hold NaN or infinity"
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
    """What a selftest found: what each slowdown came to, and what block statistics would have said."""
    verdicts = (Verdict.PASS, Verdict.IMPROVED, Verdict.INCONCLUSIVE, Verdict.INVALID, Verdict.REGRESSED)
    outcomes = _table("engine", "races", *(verdict.value for verdict in verdicts), "wrong, at most")
    outcomes.columns[0].header = "second arm"
    for kind, trials in result.trials.items():
        counts = [result.count(kind, verdict) for verdict in verdicts]
        wrong = counts[-1] if kind is SAME else counts[0] + counts[1]
        outcomes.add_row(
            kind.name,
            str(len(trials)),
            *map(str, counts),
            f"{binomial_upper(wrong, len(trials)):.1%}",
        )
    table = _table("engine", "width", "false alarms", "A/A passed", "caught", "inconclusive")
    table.columns[0].header = "block statistic, first look"
    for row in compare_statistics(result):
        table.add_row(
            row.statistic, f"{row.width:.2%}", str(row.false_alarms), str(row.passed), str(row.caught), str(row.open)
        )
    prolonged = sum(trial.prolonged for trials in result.trials.values() for trial in trials)
    return [
        f"{result.model} {result.engine} batch {result.batch}: {milliseconds(result.latency)} ms, "
        f"delta {result.delta:.1%}, {result.seconds:.0f} s, {prolonged} took more than the first look",
        render(outcomes),
        "wrong: REGRESSED against itself, PASS of a slowed arm; the bound holds with 95 % confidence",
        f"the smallest delta this machine can gate at: {result.smallest_delta:.1%}",
        render(table),
    ]
