"""From results to the page that tells of them: a run, a comparison, an A/B run, a fleet."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from trtgate.ab.results import AbReport, SideFacts
from trtgate.comparable import slower_work
from trtgate.compare import AGREEMENT, Change, Comparison, Report, Samples
from trtgate.fleet import Fleet
from trtgate.records import EngineRecord, name_of
from trtgate.report.charts import change_chart, engine_parts, speedup_chart
from trtgate.report.gallery import gallery
from trtgate.report.page import Cell, Column, Headline, Notes, Page, Part, Room, Section, Table, cells
from trtgate.report.photos import Photos
from trtgate.report.words import (
    MARK,
    agreement_cell,
    amount_text,
    bounds_cell,
    counted,
    fidelity_text,
    floor_cell,
    floors_cell,
    floors_met,
    latency_cell,
    metric_words,
    moved_cell,
    number_cell,
    photos_text,
    speedup_cell,
    stack_lines,
    stack_words,
    time_cell,
)
from trtgate.tasks.against import scores_in
from trtgate.tasks.base import Score
from trtgate.verdict.metrics import BY_NAME
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.paired import change_text
from trtgate.verdict.policy import FAMILY_ALPHA, GOOD, worst

if TYPE_CHECKING:
    from trtgate.blog import BlogRow

WIDTH = 100
# Names in one line of what is missing.
MISSING_SHOWN = 4
MODEL, ENGINE, BATCH = Column("model", text=True), Column("engine", text=True), Column("batch")
OUTCOME = Column("verdict", text=True)
# What `latency_cell` marks a number with.
LESS_SURE = f"{MARK} a measurement that is less sure: the notes say why"
NO_PHOTOS: Mapping[str, Photos] = {}
NEXT = {
    Outcome.REGRESSED: "stay with the old stack; each engine's section shows what changed in it, and in which layers",
    Outcome.INVALID: "make the machine fit (python -m trtgate doctor), then measure both sides again",
    Outcome.INCONCLUSIVE: "measure more (--processes 16 on both sides), or race both stacks (python -m trtgate ab)",
    Outcome.PASS: "the upgrade may go on",
    Outcome.IMPROVED: "the upgrade may go on; save a new baseline",
}
# Where a test failed by itself and nothing regressed.
TEST_FAILED = "mend what made that test fail, which was no verdict, then run again"
# Where there is nothing to decide on.
NOT_MEASURED = "install what is missing (python -m trtgate doctor says how), then run again"
# After a run without a baseline.
SAVE = "run with --benchmark-save=before, upgrade, run with --benchmark-compare=before"
NO_BASELINE = {
    Outcome.REGRESSED: "mend that first: this run can be no baseline",
    Outcome.INVALID: "make the machine fit (python -m trtgate doctor) and run again: this run can be no baseline",
    Outcome.INCONCLUSIVE: "measure more (more photos, a quieter machine): this run can be no baseline of others",
}
# Where nothing that is known of the stack explains it.
NOTHING_CHANGED = (
    "both sides tell of the same versions: something else differs between them, or this is one of the few false "
    "alarms; measure once more"
)
# How a change beside two numbers comes about.
CHANGES = "change: the median of the ratios new / old, round by round or process by process; not of the two columns"
# What the times in a table are; a page has room for it.
TIMES = (
    "calls are timed in blocks; a round is one block of each engine, taking turns",
    *(f"{name}: {BY_NAME[name].about}" for name in ("latency", "typical", "tail")),
)
LIMITS = "[low,high]: the interval of a number; delta: by how much it may get worse"
# Where the reason says more than the verdict does.
ADVICE = {
    Reason.MISSING: "install what is missing, or add it to acknowledged_missing in expectations.toml",
    Reason.NOT_COMPARABLE: "measure both sides alike: what differs is named above",
    Reason.BROKEN: "mend what is broken, or add it to acknowledged_missing in expectations.toml",
    Reason.MACHINE_CHANGED: "measure both sides on the machine as it is, or race both stacks (python -m trtgate ab)",
    Reason.NO_RECORDS: "mend what kept it from being measured, then measure again",
}


# A run.


def run_page(
    records: Sequence[EngineRecord],
    verdicts: Sequence[Verdict],
    stack: Mapping[str, Any],
    *,
    skipped: Mapping[str, str] | None = None,
    facts: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
    blog: Sequence[BlogRow] = (),
    report: Report | None = None,
    baseline: Sequence[str] = (),
    samples: Samples | None = None,
    photos: Mapping[str, Photos] = NO_PHOTOS,
    unsound: Sequence[Verdict] = (),
) -> Page:
    """What a run measured and decided, `verdicts` being those of its own tests; `report` is that on its baseline,
    `baseline` the names of its files and `samples` the records of both. `facts` are those of each model and engine,
    `unsound` is what no verdict tells: that the run was cut off, or that a test failed by itself."""
    own = run_verdicts(records, verdicts, None) + [("", verdict) for verdict in unsound]
    bad = [f"{name}: {verdict}" if name else str(verdict) for name, verdict in own if verdict.outcome not in GOOD]
    sections = []
    if records:
        parts: list[Part] = [
            Notes((*stack_lines(stack), *([LESS_SURE] if any(record.warnings for record in records) else []))),
            run_table(records),
            Notes(tuple(bad), room=Room.SUMMARY),
            Notes(TIMES, room=Room.DOCUMENT),
            *speedup_chart(records),
        ]
        sections.append(Section("", tuple(parts)))
    else:
        sections.append(Section("", (Notes(tuple(bad), room=Room.SUMMARY),)))
    if any("end_to_end" in record.series for record in records):
        sections.append(Section("on the GPU", (gpu_table(records),)))
    if blog:
        sections.append(Section("the blog post's protocol beside this one", (blog_table(blog),)))
    if report is not None:
        lines = (f"baseline: {', '.join(baseline)}", *comparison_notes(report))
        sections.append(
            Section("against the baseline", (comparison_table(report), *change_chart(report.engines), Notes(lines)))
        )
    compared = {each["agreement"]["n"]: each["agreement"] for each in (facts or {}).values() if "agreement" in each}
    if compared:
        whose = "PyTorch's" if all(record.weights != "onnx" for record in records) else "the reference's"
        title = f"answers, against {whose} on {', '.join(sorted(map(photos_text, compared.values())))}"
        floors = {(record.model, record.engine): record.limits.get("agreement") for record in records}
        sections.append(Section(title, (answers_table(facts or {}, floors),)))
    scored = {key: each["scores"] for key, each in (facts or {}).items() if each.get("scores")}
    # The reference's own are compared with a baseline's alone.
    if scored := {key: each for key, each in scored.items() if "sketch" not in each.get("kept", {})}:
        title = "answers, against the reference's"
        sections.append(Section(title, (Notes(tuple(score_lines(scored)), "answers"),)))
    sections.append(Section("notes", (Notes(tuple(run_notes(records, skipped or {})), "notes"),)))
    sections += _engine_sections(report, samples) if report and samples else _record_sections(records)
    sections += gallery(samples or Samples({}, {record.key: [record] for record in records}), photos)
    return Page("", run_headline(records, verdicts, report, unsound), tuple(sections))


def run_headline(
    records: Sequence[EngineRecord],
    verdicts: Sequence[Verdict],
    report: Report | None,
    unsound: Sequence[Verdict] = (),
) -> Headline:
    """What was decided, first; then what to do next."""
    bad = counted(verdict.outcome for verdict in verdicts if verdict.outcome not in GOOD)
    measured = [f"{len(records)} engine{'s' * (len(records) != 1)} measured" if records else "no engine was measured"]
    if records or verdicts:
        measured.append(f"floors and answers: {bad}" if bad else "floors met")
    if untrained := list(dict.fromkeys(record.model for record in records if record.weights == "untrained")):
        measured.append(f"answers of {', '.join(untrained)} not judged (untrained weights)")
    if unsound:
        more = f" and {len(unsound) - 1} more" if len(unsound) > 1 else ""
        measured.append(unsound[0].message + more)
    run = ", ".join(measured)
    told = run_verdicts(records, verdicts, report)
    regressed = any(verdict.outcome is Outcome.REGRESSED for _, verdict in told)
    # Why nothing else can be relied on comes first; of what regressed, a test that only failed comes last.
    invalid, failing = ([("", each) for each in unsound if failed_itself(each) is way] for way in (False, True))
    named = [*invalid, *told, *failing]
    if report is None:
        found = _headline(f"{run}; no baseline, so no upgrade was judged", named)
        # Which of the floors that were met comes first says nothing of the others.
        sections = "the section of each engine says which floors it met" if records else ""
        why = found.why if bad or unsound else sections
        then = SAVE if records or verdicts else NOT_MEASURED
        if found.outcome:
            then = NO_BASELINE.get(found.outcome, then)
        if found.next in {ADVICE[Reason.BROKEN], ADVICE[Reason.NO_RECORDS]}:
            then = found.next
        # A PASS would be read as one of an upgrade.
        found = replace(found, outcome=None if found.outcome in GOOD else found.outcome, why=why, next=then)
    else:
        against = counted(verdict.outcome for verdict in report.verdicts()) or "nothing was decided"
        found = _explained(_headline(f"against the baseline: {against}; {run}", named), report)
    return replace(found, next=TEST_FAILED) if failing and not regressed else found


def failed_itself(verdict: Verdict) -> bool:
    """Whether it stands for a test that failed by itself."""
    return verdict.reason is Reason.OWN_RUN_FAILED


def run_verdicts(
    records: Sequence[EngineRecord], verdicts: Sequence[Verdict], report: Report | None
) -> list[tuple[str, Verdict]]:
    """The verdicts of a run that count, with what each is on; "" where that is no engine."""
    named = [(record.name, verdict) for record in records for verdict in record.verdicts]
    told = [verdict for _, verdict in named]
    rest = [("", verdict) for verdict in verdicts if verdict not in told]
    return [*(comparison_verdicts(report) if report else []), *named, *rest]


def comparison_verdicts(report: Report) -> list[tuple[str, Verdict]]:
    """The verdicts of a comparison that count, with what each is on."""
    return [
        *((name_of(each.key), each.verdict) for each in report.engines),
        *((name_of(key), verdict) for key, verdict in report.missing.items()),
        *report.problems.items(),
    ]


def _explained(found: Headline, report: Report) -> Headline:
    """The headline of a comparison, with what to think of a regression that no change of the stack explains."""
    alike = found.next == NEXT[Outcome.REGRESSED] and not report.stack_changes
    return replace(found, next=NOTHING_CHANGED) if alike else found


def _headline(decided: str, named: Sequence[tuple[str, Verdict]]) -> Headline:
    """The worst of all verdicts, what it rests on, and what to do about it."""
    if not named:
        return Headline(None, decided)
    found = worst(verdict for _, verdict in named)
    name = next(name for name, verdict in named if verdict is found)
    metric = metric_words(found.metric)
    told = [name, "" if found.message.startswith(metric) else metric, found.message]
    rule = ""
    if found.low is not None and found.p is not None:
        rule = (
            f" (a bound errs in 0.5 % of cases, if noise is independent from round to round; over all verdicts of a "
            f"gate in which nothing changed REGRESSED in at most {FAMILY_ALPHA:.0%})"
        )
    advice = ADVICE.get(found.reason, NEXT[found.outcome])
    if found.reason is Reason.MISSING and metric:  # the engine is there
        advice = f"find out why the new side has no {metric}, or measure both sides alike"
    return Headline(found.outcome, decided, f"{': '.join(filter(None, told))}{rule}", advice)


def run_table(records: Iterable[EngineRecord]) -> Table:
    """What a run measured: one row per model, engine and batch size."""
    rows = list(records)
    floors = any("speedup" in record.limits for record in rows)
    columns = (
        MODEL,
        ENGINE,
        BATCH,
        Column("latency\nms"),
        Column("typical\nms", room=Room.SUMMARY),
        Column("tail\nms"),
        Column("speedup\n(by round)"),
        *([Column("floor", room=Room.SUMMARY)] if floors else []),
        Column(
            "answers\n(at least)"
            if any(record.scores.get("task", "classification") != "classification" for record in rows)
            else "top-1\n(at least)"
        ),
        OUTCOME,
    )
    return Table(
        columns,
        tuple(
            cells(
                *record.key,
                latency_cell(record),
                *(time_cell(record.value(metric)) for metric in ("typical", "tail")),
                speedup_cell(record),
                *([floor_cell(record.limits.get("speedup"), "g")] if floors else []),
                agreement_cell(record),
                floors_cell(record),
            )
            for record in rows
        ),
    )


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
    streams = next((int(row.throughput["streams"]) for row in rows if "streams" in row.throughput), 1)
    together = (Column(f"{streams} streams\nimages/s"),) if streams > 1 else ()
    columns = (
        MODEL,
        ENGINE,
        BATCH,
        Column("latency\nms"),
        Column("end to\nend ms"),
        Column("enqueue\nms"),
        Column("images/s"),
        *together,
        Column("SM MHz"),
    )
    return Table(
        columns,
        tuple(
            cells(
                *row.key,
                time_cell(row.latency if row.rounds else None),
                time_cell(row.value("end_to_end") or None),
                time_cell(row.enqueue_seconds or None),
                number_cell(row.images_per_second if row.rounds else None, ".0f"),
                *([number_cell(row.throughput.get("images_per_second"), ".0f")] if together else []),
                number_cell(row.clock_mhz or None, ".0f"),
            )
            for row in rows
        ),
    )


def blog_table(rows: Iterable[BlogRow]) -> Table:
    """Both protocols side by side."""
    names = ("blog's\nPyTorch ms", "blog's\nengine ms", "blog's\nspeedup", "latency\nms", "speedup")
    return Table(
        (MODEL, ENGINE, BATCH, *map(Column, names)),
        tuple(
            cells(
                row.model,
                row.engine,
                row.batch,
                time_cell(row.baseline),
                time_cell(row.seconds),
                number_cell(row.speedup, ".2f"),
                time_cell(row.honest_seconds),
                number_cell(row.honest_speedup, ".2f"),
            )
            for row in rows
        ),
        grouped=0,
    )


def answers_table(
    facts: Mapping[tuple[str, str], Mapping[str, Any]], floors: Mapping[tuple[str, str], float | None]
) -> Table:
    """How faithful the answers are: one row per model and engine whose answers were compared. `floors` are those of the
    agreement, as far as they are known."""
    labelled = any(each.get("accuracy") for each in facts.values())
    known = any(floors.values())
    names = (
        "agreement",
        *(("floor",) if known else ()),
        *("top-5", "cosine", "SQNR dB"),
        *(("labelled\ntop-1", "labelled\ntop-5") if labelled else ()),
    )
    rows = []
    for (model, engine), each in facts.items():
        agreement, accuracy = each.get("agreement"), each.get("accuracy")
        if not agreement:
            continue
        finite = agreement.get("finite", True)
        sqnr = agreement["sqnr_db"]
        rows.append(
            cells(
                model,
                engine,
                _share_cell(agreement, "top1"),
                *([floor_cell(floors.get((model, engine)), ".1%")] if known else []),
                _share_cell(agreement, "top5"),
                number_cell(agreement["cosine"], ".4f") if finite else "not finite",
                "not finite" if not finite else "exact" if sqnr is None else number_cell(sqnr, ".1f"),
                *([_accuracy_cell(accuracy, "top1"), _accuracy_cell(accuracy, "top5")] if labelled else []),
            )
        )
    return Table((MODEL, ENGINE, *map(Column, names)), tuple(rows), grouped=0)


# Of an engine: the outputs that are least alike; a transformer may give one for each of its layers.
OUTPUTS_SHOWN = 8


def score_lines(facts: Mapping[tuple[str, str], Mapping[str, Any]]) -> list[str]:
    """How faithful the answers of networks of the user's own are: the outputs of each engine, the least alike first."""
    lines = []
    for (model, engine), summary in facts.items():
        lines.append(f"{model} {engine}, {summary['n']} samples" + ("" if summary["finite"] else ": not finite"))
        by_output: dict[str, list[Score]] = {}
        for each in scores_in(summary).values():
            by_output.setdefault(each.of, []).append(each)
        worst_first = sorted(by_output, key=lambda name: min(each.value for each in by_output[name]))
        for name in worst_first[:OUTPUTS_SHOWN]:
            texts = [f"{each.name} {each.text(each.value)}" for each in by_output[name]]
            lines.append(f"  {name}: {', '.join(texts)}" if name else f"  {', '.join(texts)}")
        if len(worst_first) > OUTPUTS_SHOWN:
            lines.append(f"  and {len(worst_first) - OUTPUTS_SHOWN} outputs more")
    return lines


def _share_cell(agreement: Mapping[str, Any], which: str) -> Cell:
    return Cell(f"{agreement[which]}/{agreement['n']}", value=agreement[which] / agreement["n"])


def _accuracy_cell(accuracy: Mapping[str, Any] | None, what: str) -> Cell:
    if not accuracy:
        return Cell("")
    ours, reference = (accuracy[f"{who}_{what}"] / accuracy["n"] for who in ("engine", "reference"))
    return Cell(f"{ours:.1%} ({(ours - reference) * 100:+.1f})", value=ours)


def _record_sections(records: Sequence[EngineRecord]) -> list[Section]:
    """Every engine of a run that has no baseline."""
    found = []
    for record in records:
        outcome = worst(record.verdicts).outcome if record.verdicts else None
        lines = [str(verdict) for verdict in record.verdicts]
        parts = (Notes(tuple(lines), room=Room.DOCUMENT), *engine_parts(None, [], [record]), *_plan_part(record))
        found.append(Section(record.name, parts, folded=True, outcome=outcome))
    return found


def _plan_part(record: EngineRecord) -> tuple[Part, ...]:
    """What is known of an engine's plan, and of the types that its layers have."""
    lines = [
        f"plan: {metric_words(name)} {f'{value:,}' if isinstance(value, int) else _rounded(value)}"
        for name, value in record.plan.items()
    ]
    if record.layers:
        lines.append("layers: " + ", ".join(f"{count} {kind}" for kind, count in record.layers.items()))
    return (Notes(tuple(lines), "plan", room=Room.DOCUMENT),) if lines else ()


def _rounded(value: Any) -> Any:
    return f"{value:.3g}" if isinstance(value, float) else value


# A comparison.


def comparison_page(report: Report, samples: Samples | None = None, photos: Mapping[str, Photos] = NO_PHOTOS) -> Page:
    """Saved sessions against saved sessions."""
    parts: tuple[Part, ...] = (
        comparison_table(report),
        *change_chart(report.engines),
        Notes(tuple(comparison_notes(report))),
        Notes((*TIMES, LIMITS), room=Room.DOCUMENT),
    )
    known = samples or Samples({}, {})
    return Page(
        "against the baseline",
        comparison_headline(report),
        (Section("", parts), *_engine_sections(report, known), *gallery(known, photos)),
    )


def comparison_headline(report: Report, *, raced: bool = False) -> Headline:
    """The verdicts of a comparison in one place; `raced` against each other, they cannot be asked for that."""
    decided = counted(verdict.outcome for verdict in report.verdicts()) or "nothing was decided"
    named = comparison_verdicts(report)
    found = _explained(_headline(f"old against new: {decided}", named), report)
    if raced and found.next == NEXT[Outcome.INCONCLUSIVE]:
        few = worst(verdict for _, verdict in named).reason is Reason.TOO_FEW_ROUNDS
        more = "rounds (a larger --rounds, or none)" if few else "processes (--processes 12)"
        return replace(found, next=f"race more {more}, or a quieter machine")
    return found


def comparison_table(report: Report) -> Table:
    """Old against new: one row per engine."""
    columns = (
        MODEL,
        ENGINE,
        BATCH,
        *map(Column, ("latency\nold ms", "latency\nnew ms", "latency\nchange", "typical\nchange", "tail\nchange")),
        OUTCOME,
        Column("reason", text=True, room=Room.SUMMARY),
    )
    rows = []
    for each in report.engines:
        latency = each.change("latency")
        rows.append(
            cells(
                *each.key,
                time_cell(latency.old if latency else None),
                time_cell(latency.new if latency else None),
                bounds_cell(latency),
                *(moved_cell(each.change(metric)) for metric in ("typical", "tail")),
                each.verdict.outcome,
                each.verdict.reason.value,
            )
        )
    more = [
        cells(*key, "", "", "", "", "", verdict.outcome, verdict.reason.value)
        for key, verdict in report.missing.items()
    ]
    return Table(columns, tuple(rows), tuple(more))


def comparison_notes(report: Report) -> list[str]:
    """What the table has no room for: the stack, the reasons, what is missing or new."""
    lines = [CHANGES] if report.engines else []
    lines.append("stack: " + ("; ".join(report.stack_changes) or "nothing changed"))
    if report.limit_changes:
        lines.append(f"expectations changed: {'; '.join(_alike(report.limit_changes))}")
    lines += [f"{verdict}: {name}" for name, verdict in report.problems.items()]
    for each in report.engines:
        lines += engine_notes(each)
    lines += missing_notes(report)
    return lines + [f"new: {name_of(key)} has no baseline" for key in report.added]


def _alike(changes: Sequence[str]) -> list[str]:
    """Changes of expectations, each said once for all engines that it is one of."""
    engines: dict[str, list[str]] = {}
    for text in changes:
        engine, _, change = text.partition(": ")
        engines.setdefault(change, []).append(engine)
    more = {change: f" and {len(names) - 1} more" if len(names) > 1 else "" for change, names in engines.items()}
    return [f"{change} ({names[0]}{more[change]})" for change, names in engines.items()]


def engine_notes(each: Comparison) -> list[str]:
    """One engine: the verdict, every metric that is not well, and in one line those that are."""
    verdict = each.verdict
    lines = [f"{name_of(each.key)}: {verdict.outcome.value} ({verdict.reason.value})"]
    if each.invalid:
        lines.append(f"  {each.invalid.message}")
    elif slower := slower_work(each.controls, each.delta):
        lines.append(f"  {slower}: the machine was slower, which hides no slowdown")
    fine = []
    for change in each.changes:
        found = change.verdict
        if change.metric == "latency" or (change.gated and found.outcome not in GOOD):
            state = "" if change.metric == "latency" else f"{found.outcome.value} ({found.reason.value}), "
            lines.append(f"  {metric_words(change.metric)}: {state}{found.message}")
        elif change.gated and not _share_found(change):
            moved = moved_cell(change).text
            fine.append(metric_words(change.metric) + ("" if moved == "-" else f" {moved}"))
    if fine:
        lines += textwrap.wrap(
            f"within their limits: {', '.join(dict.fromkeys(fine))}",
            WIDTH - 2,
            initial_indent="  ",
            subsequent_indent="    ",
        )
    speedup = each.change("speedup")
    if speedup and speedup.old and speedup.new:
        gated = "" if speedup.gated else " (printed, not gated)"
        lines.append(f"  speedup: {speedup.old:.2f} -> {speedup.new:.2f}{gated}; {each.attribution}; {each.clocks}")
    if each.baseline_differs:
        lines.append(f"  the old side does not agree with itself, {each.baseline_differs}")
    return lines + [f"  layer {layer}" for layer in each.layers]


def missing_notes(report: Report) -> list[str]:
    """What the new side lacks, by reason: eighteen engines of a runtime that is gone are one line."""
    groups: dict[tuple[bool, str], list[str]] = {}
    for key, verdict in report.missing.items():
        groups.setdefault((verdict.reason is not Reason.MISSING, verdict.message), []).append(name_of(key))
    lines = []
    for (fine, why), names in groups.items():
        shown = ", ".join(names[:MISSING_SHOWN]) + (
            f" and {len(names) - MISSING_SHOWN} more" if len(names) > MISSING_SHOWN else ""
        )
        advice = "" if fine else "; if that is meant, add it to acknowledged_missing in expectations.toml"
        lines.append(f"MISSING: {shown}: {why}{advice}")
    return lines


def _engine_sections(report: Report, samples: Samples, *, interleaved: bool = False) -> list[Section]:
    """Every engine by itself: all metrics, charts, and what was built."""
    found = []
    for each in report.engines:
        old, new = samples.old.get(each.key, []), samples.new.get(each.key, [])
        plan = _plan_part(new[-1]) if new else ()
        parts = (metrics_table(each), *engine_parts(each, old, new, interleaved=interleaved), *plan)
        outcome = each.verdict.outcome
        found.append(Section(name_of(each.key), parts, folded=outcome in GOOD, outcome=outcome))
    return found


def metrics_table(each: Comparison) -> Table:
    """All metrics of one engine, with what was decided on each."""
    columns = (
        Column("metric", text=True),
        *map(Column, ("old", "new", "change", "limit")),
        OUTCOME,
        Column("because", text=True),
    )
    rows = []
    for change in each.changes:
        limit = Cell("-") if change.delta is None else Cell(f"{change.delta:.1%}", value=change.delta)
        outcome = Cell(change.verdict.outcome.value if change.gated else "not gated", change.verdict.outcome)
        share = _share_found(change)
        rows.append(
            cells(
                metric_words(change.metric),
                Cell(amount_text(change.metric, change.old), value=change.old),
                share or Cell(amount_text(change.metric, change.new), value=change.new),
                Cell("-") if share else bounds_cell(change),
                limit,
                outcome if change.gated else Cell("not gated"),
                change.verdict.message,
            )
        )
    return Table(columns, tuple(rows), room=Room.DOCUMENT, grouped=0)


def _share_found(change: Change) -> Cell | None:
    """Of an agreement that share itself: it is held against a floor, and not against the old side's."""
    share = change.verdict.estimate
    if change.metric != AGREEMENT or change.new is not None or share is None:
        return None
    return Cell(f"{share:.1%}", value=share)


# An A/B run.


def ab_page(run: AbReport, photos: Mapping[str, Photos] = NO_PHOTOS) -> Page:
    """Two stacks raced against each other."""
    report = run.report
    keys = [each.comparison.key for each in run.results]
    samples = Samples(
        *(
            {key: each.samples.get(side, ()) for key, each in zip(keys, run.results, strict=True)}
            for side in ("old", "new")
        )
    )
    parts: tuple[Part, ...] = (
        comparison_table(report),
        *change_chart(report.engines),
        Notes(tuple(ab_notes(run))),
        Notes((*TIMES, LIMITS), room=Room.DOCUMENT),
    )
    return Page(
        "old against new, raced",
        comparison_headline(report, raced=True),
        (Section("", parts), *_engine_sections(report, samples, interleaved=True), *gallery(samples, photos)),
    )


def ab_notes(run: AbReport) -> list[str]:
    """What the table has no room for: the stacks, what was built, the reasons, the layers."""
    report = run.report
    lines = [CHANGES] if report.engines else []
    lines.append("old -> new: " + ("; ".join(report.stack_changes) or "the same versions of everything"))
    lines.append(f"on {stack_words(run.stacks['new'])}")
    lines += [f"left out: {engine} ({why})" for engine, why in run.left_out.items()]
    lines += [f"{verdict}: {name}" for name, verdict in report.problems.items()]
    for each in run.results:
        lines += [
            *engine_notes(each.comparison),
            *(f"  answers, {pair}: {fidelity_text(found)}" for pair, found in each.agreement.items()),
            f"  built: {_built_text(each.old)} -> {_built_text(each.new)}",
            *(f"  note: {note}" for note in each.notes),
        ]
    lines += missing_notes(report)
    return lines + [f"new: {name_of(key)} is on the new side only" for key in report.added]


def _built_text(side: SideFacts) -> str:
    plan = "" if side.plan_bytes is None else f"plan {side.plan_bytes / 1e6:.1f} MB, "
    time = "" if side.build_seconds is None else f"in {side.build_seconds:.1f} s, "
    return f"{plan}{time}memory {side.memory_bytes / 1e6:.0f} MB"


# A fleet.


def fleet_page(fleet: Fleet) -> Page:
    """All runners: what each has, then every engine of each."""
    runners = Table(
        (Column("runner", text=True), Column("stack", text=True)),
        tuple(cells(runner, stack_words(stack)) for runner, stack in fleet.stacks.items()),
        room=Room.SUMMARY,
        grouped=0,
    )
    columns = (
        Column("runner", text=True),
        MODEL,
        ENGINE,
        BATCH,
        Column("sessions", room=Room.SUMMARY),
        *map(Column, ("latency\nms", "speedup", "latency\nchange")),
        OUTCOME,
    )
    rows = tuple(
        cells(
            row.runner,
            *row.key,
            row.sessions,
            time_cell(row.latency),
            number_cell(row.speedup, ".2f"),
            "" if row.change is None else Cell(change_text(math.log(row.change)), value=row.change),
            row.verdict.outcome if row.runner in fleet.compared else floors_met(row.verdict.outcome),
        )
        for row in fleet.rows
    )
    bad = [
        f"{row.runner} {row.key[0]} {row.key[1]} batch {row.key[2]}: {row.verdict}"
        for row in fleet.rows
        if row.verdict.outcome not in GOOD
    ]
    bad += [f"{name}: {verdict}" for name, verdict in fleet.problems.items()]
    named = [(f"{row.runner} {name_of(row.key)}", row.verdict) for row in fleet.rows] + [*fleet.problems.items()]
    counts = counted(verdict.outcome for _, verdict in named)
    runners_ = f"{len(fleet.stacks)} runner{'s' * (len(fleet.stacks) != 1)}"
    headline = _headline(f"{runners_}: {counts or 'nothing was decided'}", named)
    if not fleet.compared:
        floors = "floors met" if named and not bad else counts or "nothing was decided"
        found = _headline(f"{runners_}: {floors}; no runner has a comparison, so no upgrade was judged", named)
        if not bad:
            found = replace(found, why="", next="promote a baseline, and compare with it (BASELINE)")
        elif found.outcome and found.next == NEXT[found.outcome]:
            found = replace(found, next="mend that first: a run that did not pass can be no baseline")
        headline = found
    return Page("the fleet", headline, (Section("", (runners, Table(columns, rows), Notes(tuple(bad)))),))
