"""The page of a trend: where something stepped, then every metric over time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from trtgate.kinds import printable
from trtgate.records import name_of
from trtgate.report.page import (
    Axis,
    Cell,
    Column,
    Headline,
    Line,
    Mark,
    Notes,
    Page,
    Part,
    Plot,
    Role,
    Room,
    Section,
    Table,
    cells,
)
from trtgate.report.words import amount_text, metric_words
from trtgate.trend import LEAST, SIDE, Series, Step, Trend, machine_of
from trtgate.verdict.paired import change_text

# Lines of one chart, and points of one line; longer series are thinned to what a screen can show.
LINES = 6
# Steps named below a chart; all of them are in the table.
TOLD = 2
POINTS = 250


def trend_page(found: Trend) -> Page:
    """All metrics over time; steps first."""
    stepped = [(series, step) for series in found.series for step in series.steps]
    # The newest first: it is the one that somebody may still do something about.
    stepped.sort(key=lambda each: -each[0].sessions[each[1].index])
    unexplained = sum(step.cause == "unexplained" for _, step in stepped)
    short = sum(len(series.values) < 2 * SIDE for series in found.series)
    untold = f" ({'all' if short == len(found.series) else short} too short to have one)" if short else ""
    where = f"{len(found.series)} series of {len(found.sessions)} sessions{untold}"
    gone = _gone(found)
    lost = f"; {len(gone)} engine{'s are' if len(gone) > 1 else ' is'} not in the newest session" if gone else ""
    headline = Headline(
        None,
        f"{len(stepped)} step{'s' * (len(stepped) != 1)} in {where}, {unexplained} of them unexplained{lost}"
        if stepped
        else f"no step in {where}{lost}",
        _why(found, stepped),
        "race the stacks on either side of an unexplained step (python -m trtgate ab)" if unexplained else "",
    )
    changes = [
        f"{_date(found, index)} {printable(found.sessions[index].path.name)}: {'; '.join(changed)}"
        for index, changed in found.stack_changes.items()
    ]
    told = [] if stepped or short == len(found.series) else ["nothing stepped"]
    if short:
        told.append(f"a step has {SIDE} sessions on either side: {short} series of fewer than {2 * SIDE} can have none")
    steps: tuple[Part, ...] = (*([_steps_table(found, stepped)] if stepped else []), Notes(tuple(told)))
    sections = [
        Section("what stepped", steps),
        *([Section("what is gone", (Notes(tuple(gone)),))] if gone else []),
        Section("what changed in the stack", (Notes(tuple(changes) or ("nothing changed in the stack",)),)),
    ]
    for metric in dict.fromkeys(series.metric for series in found.series):
        some = [series for series in found.series if series.metric == metric]
        if metric not in {"latency", "speedup"} and not any(set(series.values) - {series.values[0]} for series in some):
            names = Notes((f"the same in all sessions: {len(some)} series",), room=Room.DOCUMENT)
            sections.append(Section(metric_words(metric), (names,), folded=True))
            continue
        stepping = any(series.steps for series in some)
        parts: tuple[Part, ...] = (*_plots(found, metric, some), _now_table(some))
        sections.append(Section(metric_words(metric), parts, folded=not (stepping or metric == "latency")))
    return Page("trend", headline, tuple(sections))


def _gone(found: Trend) -> list[str]:
    """The engines that the newest session of their machine has no time of, each with its last one that has."""
    machines = [machine_of(session) for session in found.sessions]
    newest = {machine: index for index, machine in enumerate(machines)}
    lines = []
    for series in found.series:
        now, last = newest[series.machine], series.sessions[-1]
        if series.metric == "latency" and last < now:
            why = found.sessions[now].skipped.get(" ".join(series.key[:2]), "")
            lines.append(
                f"not in the newest session: {name_of(series.key)}, last on {_date(found, last)}, on {series.machine}"
                + (f"; then {printable(why)}" if why else "")
            )
    return lines


def _why(found: Trend, stepped: Sequence[tuple[Series, Step]]) -> str:
    if not stepped:
        return ""
    series, step = stepped[0]
    return (
        f"the newest: {metric_words(series.metric)} of {' '.join(map(str, series.key[:2]))} batch {series.key[2]} "
        f"{change_text(step.change)} since {_date(found, series.sessions[step.index])}, {_cause(step)}"
    )


def _cause(step: Step) -> str:
    return {"machine": "the machine's", "stack": "the stack's", "unexplained": "unexplained"}[step.cause] + (
        f" ({step.detail})" if step.detail else ""
    )


def _date(found: Trend, index: int) -> str:
    return found.sessions[index].datetime[:10]


def _steps_table(found: Trend, stepped: Iterable[tuple[Series, Step]]) -> Table:
    columns = (
        Column("since", text=True),
        Column("model", text=True),
        Column("engine", text=True),
        Column("batch"),
        Column("metric", text=True),
        *map(Column, ("before", "after", "change")),
        Column("cause", text=True),
        Column("what moved", text=True, room=Room.SUMMARY),
        Column("machine", text=True, room=Room.SUMMARY),
    )
    rows = [
        cells(
            _date(found, series.sessions[step.index]),
            *series.key,
            metric_words(series.metric),
            Cell(amount_text(series.metric, step.before), value=step.before),
            Cell(amount_text(series.metric, step.after), value=step.after),
            Cell(change_text(step.change), value=math.exp(step.change)),
            step.cause,
            step.detail,
            series.machine,
        )
        for series, step in stepped
    ]
    return Table(columns, tuple(rows), grouped=0)


def _plots(found: Trend, metric: str, some: Sequence[Series]) -> list[Plot]:
    """A line for each engine and machine, each against its own first sessions: so a step of any is seen."""
    machines = dict.fromkeys(series.machine for series in some)
    groups: dict[tuple[str, int], list[Series]] = {}
    for series in some:
        groups.setdefault((series.key[0], series.key[2]), []).append(series)
    x = Axis("session", names=tuple(_date(found, index)[5:] for index in range(len(found.sessions))))
    plots = []
    for (model, batch), group in groups.items():
        # What stepped goes together, where its line is not one of many.
        group.sort(key=lambda series: not series.steps)
        for start in range(0, len(group), LINES):
            shown = group[start : start + LINES]
            lines = tuple(
                Line(series.key[1] + (f", {series.machine}" if len(machines) > 1 else ""), _points(series))
                for series in shown
            )
            steps = [
                (series.sessions[step.index], f"{series.key[1]} {change_text(step.change)}")
                for series in shown
                for step in series.steps
            ]
            told = "; ".join(f"{text} since {_date(found, index)}" for index, text in steps[:TOLD]) or "no step"
            told += f" and {len(steps) - TOLD} more" if len(steps) > TOLD else ""
            there = {index for series in shown for index in series.sessions}
            marks = [
                Mark(index - 0.5, f"{_date(found, index)}: {'; '.join(changed)}", Role.CHANGE, vertical=True)
                for index, changed in found.stack_changes.items()
                if index in there
            ]
            marks += [Mark(index - 0.5, text, Role.LIMIT, vertical=True) for index, text in steps]
            about = (
                f"Change of {metric_words(metric)} against the first sessions; {told}. Vertical lines: a change of the "
                "stack, and in red a step."
            )
            title = f"{model} batch {batch}"
            plots.append(Plot(title, about, x, Axis("change", "change"), lines, tuple(marks)))
    return plots


def _points(series: Series) -> tuple[tuple[float, float], ...]:
    end = series.steps[0].index if series.steps else len(series.values)
    first = float(np.median(series.values[:end])) or LEAST
    stride = -(-len(series.values) // POINTS)
    pairs = list(zip(series.sessions, series.values, strict=True))
    kept = sorted({*range(0, len(pairs), stride), len(pairs) - 1})
    return tuple((float(pairs[index][0]), pairs[index][1] / first - 1) for index in kept)


def _now_table(some: Sequence[Series]) -> Table:
    columns = (
        Column("machine", text=True),
        Column("model", text=True),
        Column("engine", text=True),
        Column("batch"),
        *map(Column, ("sessions", "first", "last", "steps")),
    )
    rows = [
        cells(
            series.machine,
            *series.key,
            len(series.values),
            *(Cell(amount_text(series.metric, each), value=each) for each in (series.values[0], series.values[-1])),
            len(series.steps),
        )
        for series in some
    ]
    return Table(columns, tuple(rows), room=Room.DOCUMENT, grouped=0)
