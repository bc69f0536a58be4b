"""The charts of a report, from records and verdicts. Each side is a list of records: sessions, or processes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from trtgate.compare import Comparison
from trtgate.layers import LayerChange
from trtgate.records import EngineRecord, name_of, unpack
from trtgate.report.page import Axis, Bar, Bars, Line, Mark, Part, Plot, Role
from trtgate.report.words import bounds_cell, metric_words
from trtgate.verdict.metrics import BY_NAME
from trtgate.verdict.paired import change_text

Floats = npt.NDArray[np.float64]

# Of a distribution; more cannot be told apart on a screen.
BINS = 60
# What lies beyond is a line's end: a stall of a second would press all else against the axis. The tail is gated apart.
SHOWN_SHARE = (0.0, 98.0)
# Points of one chart; more rounds or sessions are thinned.
POINTS = 120
# Bars of one chart.
BARS = 24


def engine_parts(
    comparison: Comparison | None,
    old: Sequence[EngineRecord],
    new: Sequence[EngineRecord],
    *,
    interleaved: bool = False,
) -> tuple[Part, ...]:
    """All charts of one engine for which there is data; `interleaved` sides took turns, round by round."""
    parts: list[Part] = [*distribution(old, new)]
    if comparison is not None:
        parts += ratios(comparison, old, new, interleaved=interleaved)
        parts += metrics_chart(comparison)
        parts += layers_chart(comparison.layers)
    parts += agreement_chart(old, new)
    return tuple(parts)


def distribution(old: Sequence[EngineRecord], new: Sequence[EngineRecord]) -> list[Plot]:
    """How long the iterations of each side took, old over new."""
    times = {Role.OLD: _iterations(old), Role.NEW: _iterations(new)}
    known = [each for each in times.values() if each.size]
    if not known:
        return []
    low = min(float(np.percentile(each, SHOWN_SHARE[0])) for each in known)
    high = max(float(np.percentile(each, SHOWN_SHARE[1])) for each in known)
    if high <= low:
        return []
    edges = np.linspace(low, high, BINS + 1)
    lines = []
    for role, each in times.items():
        if each.size:
            shares = np.histogram(each, edges)[0] / each.size
            middles = (edges[1:] + edges[:-1]) / 2
            label = f"{role.value if times[Role.OLD].size else 'this run'}, {each.size} iterations"
            points = tuple((float(x), float(y)) for x, y in zip(1e3 * middles, shares, strict=True))
            lines.append(Line(label, points, role, "area"))
    beyond = " and ".join(f"{float(np.mean(each > high)):.1%} of {each.size}" for each in known)
    span = f"{low * 1e3:.4g} to {high * 1e3:.4g} ms"
    about = f"Share of the iterations by latency, from {span}; {beyond} took longer than that."
    return [Plot("latency of the iterations", about, Axis("ms"), Axis("share", hidden=True), tuple(lines))]


def _iterations(records: Sequence[EngineRecord]) -> Floats:
    times = [unpack(record.iterations["latency"]).times for record in records if "latency" in record.iterations]
    return np.concatenate(times) if times else np.empty(0)


def ratios(
    comparison: Comparison, old: Sequence[EngineRecord], new: Sequence[EngineRecord], *, interleaved: bool
) -> list[Plot]:
    """New over old latency, round by round where they took turns, else session by session; bounds and delta drawn."""
    change = comparison.change("latency")
    before, after = ([record.rounds for record in side if record.rounds] for side in (old, new))
    if change is None or not before or not after:
        return []
    verdict = change.verdict
    marks = [Mark(0.0, "no change", Role.BASE)]
    if change.delta is not None:
        marks.append(Mark(change.delta, f"delta {change_text(float(np.log1p(change.delta)))}", Role.LIMIT))
    for value, label, role in (
        (verdict.low, "at least", Role.BOUND),
        (verdict.estimate, "estimate", Role.ESTIMATE),
        (verdict.high, "at most", Role.BOUND),
    ):
        if value:
            marks.append(Mark(value - 1, f"{label} {change_text(float(np.log(value)))}", role))
    lengths = {len(rounds) for rounds in (*before, *after)}
    if interleaved and len(lengths) == 1:
        by_round = np.median(np.array(after), 0) / np.median(np.array(before), 0) - 1
        lines = [Line("new over old", _points(by_round), Role.NEW, "dots")]
        title, x = "new over old, round by round", Axis("round")
    else:
        middle = float(np.median([np.median(rounds) for rounds in before]))
        numbers = [np.array([np.median(rounds) / middle - 1 for rounds in side]) for side in (before, after)]
        lines = [
            Line("old", _points(numbers[0]), Role.OLD, "dots"),
            Line("new", _points(numbers[1], numbers[0].size), Role.NEW, "dots"),
        ]
        title, x = "each session against the old side's median", Axis("session, the old ones first")
    about = f"Change of the latency: {verdict.message}."
    return [Plot(title, about, x, Axis("change", "change"), tuple(lines), tuple(marks))]


def _points(values: Floats, start: int = 0) -> tuple[tuple[float, float], ...]:
    step = -(-values.size // POINTS)
    return tuple((float(start + index + 1), float(values[index])) for index in range(0, values.size, step))


def metrics_chart(comparison: Comparison) -> list[Bars]:
    """How far every metric moved, with its interval and its limit."""
    bars = []
    for change in comparison.changes:
        verdict = change.verdict
        if change.metric not in BY_NAME or not verdict.estimate:
            continue
        estimate, low, high = (each - 1 if each else None for each in (verdict.estimate, verdict.low, verdict.high))
        if BY_NAME[change.metric].higher_is_better:
            estimate, low, high = (None if each is None else -each for each in (estimate, high, low))
        bars.append(
            Bar(
                metric_words(change.metric) + ("" if change.gated else " (not gated)"),
                estimate or 0.0,
                bounds_cell(change).text,
                low,
                high,
                change.delta,
                outcome=verdict.outcome if change.gated else None,
            )
        )
    if not bars:
        return []
    about = "Change of every metric, worse to the right, with its interval and, as a tick, how much worse it may get."
    return [Bars("all metrics", about, Axis("change", "change"), tuple(bars), interval=True)]


def change_chart(comparisons: Sequence[Comparison]) -> list[Bars]:
    """How far the latency of every engine moved: the worst first."""
    bars = []
    for each in comparisons:
        change = each.change("latency")
        if change is None or not change.verdict.estimate:
            continue
        verdict = change.verdict
        low, high = (value - 1 if value else None for value in (verdict.low, verdict.high))
        text, estimate = bounds_cell(change).text, change.verdict.estimate
        bars.append(Bar(name_of(each.key), estimate - 1, text, low, high, change.delta, outcome=each.verdict.outcome))
    if len(bars) < 2:
        return []
    bars.sort(key=lambda bar: -bar.value)
    left = f"; the {len(bars) - BARS} best are left out" if len(bars) > BARS else ""
    about = f"Change of every engine's latency, slower to the right, with its interval and its limit as a tick{left}."
    return [Bars("latency, all engines", about, Axis("change", "change"), tuple(bars[:BARS]), interval=True)]


def speedup_chart(records: Sequence[EngineRecord]) -> list[Bars]:
    """The speedups of a run with their intervals."""
    bars = []
    for record in records:
        if record.is_reference or not record.rounds:
            continue
        bounds = record.speedup_interval()
        text = f"{record.speedup:.2f}" + (f" [{bounds[0]:.2f},{bounds[1]:.2f}]" if bounds else "")
        low, high = bounds or (None, None)
        floor = record.limits.get("speedup")
        bars.append(Bar(record.name, record.speedup, text, low, high, floor, Role.NEW))
    if not bars:
        return []
    bars.sort(key=lambda bar: -bar.value)
    left = f" The {len(bars) - BARS} slowest are left out." if len(bars) > BARS else ""
    about = (
        "The reference's latency over each engine's, with its interval. Each bar begins at 1, the reference itself "
        f"({', '.join(sorted({record.reference for record in records}))}); a red tick is its floor.{left}"
    )
    return [Bars("speedup", about, Axis("times as fast as the reference"), tuple(bars[:BARS]), base=1.0)]


def layers_chart(layers: Sequence[LayerChange]) -> list[Bars]:
    """The layers whose time or type changed most."""
    if not layers:
        return []
    bars = []
    for layer in layers:
        types = f" ({layer.old_type or '?'} -> {layer.new_type or '?'})" if layer.old_type != layer.new_type else ""
        for role, ms in ((Role.OLD, layer.old_ms), (Role.NEW, layer.new_ms)):
            label = layer.name + types if role is Role.OLD else ""
            bars.append(Bar(label, ms or 0.0, "none" if ms is None else f"{ms:.4f}", role=role))
    about = "Milliseconds of the layers whose time or type changed most, old above new: " + "; ".join(map(str, layers))
    return [Bars("layers that changed most", f"{about}.", Axis("ms"), tuple(bars))]


def agreement_chart(old: Sequence[EngineRecord], new: Sequence[EngineRecord]) -> list[Bars]:
    """How often the answers are the reference's, with the bounds of that and the floor."""
    bars = []
    for role, side in ((Role.OLD, old), (Role.NEW, new)):
        known = [record for record in side if record.agreement]
        if not known:
            continue
        # Of several builds the one that agrees least counts, as in the verdict.
        record = min(known, key=lambda each: float(each.agreement["top1"]) / float(each.agreement["n"]))
        found = record.agreement
        share, low, high = found["top1"] / found["n"], found.get("low"), found.get("high")
        bars.append(
            Bar(
                role.value if old else "this run",
                share,
                f"{share:.1%}" + ("" if low is None else f", at least {low:.1%}"),
                low,
                high,
                record.limits.get("agreement"),
                role,
            )
        )
    if not bars:
        return []
    texts = "; ".join(f"{bar.label} {bar.text}" for bar in bars)
    about = f"Share of the samples on which the answer is the reference's: {texts}."
    base = 0.0 if min(bar.low or 0.0 for bar in bars) < 0.5 else 0.5
    return [Bars("agreement", about, Axis("the reference's answer", "share"), tuple(bars), base)]
