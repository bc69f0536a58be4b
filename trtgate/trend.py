"""Saved sessions over time: where a metric stepped, by how much, and what to put it down to.

The change points are Apache Otava's: E-divisive (Matteson and James 2014) with Student's t in place of permutations, in
windows (Fleming et al. 2023, "Hunter"). What is added here is what a step needs to be told: sessions on either side.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np
import numpy.typing as npt

from trtgate.comparable import own_controls
from trtgate.compare import samples_of
from trtgate.kinds import UserError
from trtgate.records import MEAN, EngineRecord, Key, SessionRecord, medians_of
from trtgate.stack import changed_fields, steady
from trtgate.verdict.metrics import BY_NAME, METRICS
from trtgate.verdict.paired import change_text

Floats = npt.NDArray[np.float64]

# Sessions that a window of Otava sees at once, and the p and the relative change that it asks for.
WINDOW = 50
MAX_P = 0.001
# Sessions of one stack differ by 0.4 to 1.5 % (tests/studies/trend.py): less is not worth getting up for.
MIN_CHANGE = 0.01
# Sessions on either side of a step. One night that stands out is an outlier and would be gone the night after: without
# this up to 1.7 false steps are told in 100 nights of a series, with it up to 0.5.
SIDE = 3
# Fixed work that moved by this share of what the metric moved, the same way, says that the machine did.
MACHINE_SHARE = 0.5
AGREEMENT = "agreement"
# Answers of which none agree are a step, and nothing has no logarithm.
LEAST = 1e-4


@dataclass(frozen=True)
class Step:
    """A change point: the first value after it by its index, the medians of either side, and what it is put down to.

    `cause` is "machine" (the fixed work moved along), "stack" or "unexplained"; `detail` names what moved.
    """

    index: int
    before: float
    after: float
    cause: str
    detail: str

    @property
    def change(self) -> float:
        """Log ratio after / before."""
        return log_change(self.before, self.after)


@dataclass(frozen=True)
class Series:
    """One metric of one engine on one machine; `sessions` are indices into the trend's."""

    machine: str
    key: Key
    metric: str
    sessions: tuple[int, ...]
    values: tuple[float, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True)
class Trend:
    """All sessions, the oldest first, what is measured in them, and what changed in a machine's stack before each."""

    sessions: tuple[SessionRecord, ...]
    series: tuple[Series, ...]
    stack_changes: Mapping[int, tuple[str, ...]]


def require_otava() -> None:
    """Raises UserError where Otava is not installed."""
    try:
        import otava.analysis  # noqa: F401
    except ImportError as error:
        raise UserError(
            "a trend needs apache-otava; pip install --no-deps -r requirements-trend.txt, or make environment"
        ) from error


def change_points(values: Sequence[float]) -> list[int]:
    """Indices of the first value after each step of float64[N] values, none below zero."""
    from otava.analysis import compute_change_points

    if len(values) < 2 * SIDE or min(values) == max(values):
        return []
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # sides without any variance, as sizes of plans have
        found, _ = compute_change_points(list(values), WINDOW, MAX_P, MIN_CHANGE)
    ends = [0, *(int(each.index) for each in found), len(values)]
    return [at for start, at, end in zip(ends, ends[1:], ends[2:], strict=False) if min(at - start, end - at) >= SIDE]


def trend(sessions: Sequence[SessionRecord]) -> Trend:
    """Every metric of every engine on every machine over time; one session counts once, as often as it was copied.
    Raises UserError for fewer than two sessions."""
    ordered = tuple(
        {each.digest: each for each in sorted(sessions, key=lambda each: (when(each), str(each.path)))}.values()
    )
    if len(ordered) < 2:
        raise UserError("a trend needs two sessions or more; save some with --benchmark-save")
    require_otava()
    machines = [machine_of(session) for session in ordered]
    measured = [samples_of([], [session]).new for session in ordered]
    found = []
    for machine in dict.fromkeys(machines):
        mine = [index for index, name in enumerate(machines) if name == machine]
        for key in dict.fromkeys(key for index in mine for key in measured[index]):
            there = {index: medians(measured[index][key]) for index in mine if key in measured[index]}
            for metric in (*(each.name for each in METRICS), AGREEMENT):
                known = [(index, values[metric]) for index, values in there.items() if metric in values]
                if known:
                    found.append(_series(machine, key, metric, known, ordered, measured))
    return Trend(ordered, tuple(found), _stack_changes(ordered, machines))


def when(session: SessionRecord) -> datetime:
    """When a session was saved; the beginning of time where it does not say."""
    try:
        told = datetime.fromisoformat(session.datetime.replace("Z", "+00:00"))
    except ValueError:
        told = datetime.min
    return told if told.tzinfo else told.replace(tzinfo=timezone.utc)


def machine_of(session: SessionRecord) -> str:
    """What a series may not mix: the processor that did the work, on one host."""
    stack = session.stack
    return " on ".join(str(stack[name]) for name in ("gpu" if stack.get("gpu") else "cpu", "node") if stack.get(name))


def medians(records: Sequence[EngineRecord]) -> dict[str, float]:
    """Every metric of an engine that was measured: medians over its records, one for each session."""
    measured = [record for record in records if record.rounds]
    values = {
        metric.name: [value for each in measured if (value := each.value(metric.name)) is not None]
        for metric in METRICS
    }
    values[AGREEMENT] = [each.agreement["top1"] / each.agreement["n"] for each in records if each.agreement]
    return {name: float(np.median(some)) for name, some in values.items() if some}


def _series(
    machine: str,
    key: Key,
    metric: str,
    known: Sequence[tuple[int, float]],
    sessions: Sequence[SessionRecord],
    measured: Sequence[Mapping[Key, Sequence[EngineRecord]]],
) -> Series:
    indices, values = zip(*known, strict=True)
    ats = change_points(values)
    ends = [0, *ats, len(values)]
    steps = []
    for start, at, end in zip(ends, ends[1:], ends[2:], strict=False):
        before, after = float(np.median(values[start:at])), float(np.median(values[at:end]))
        controls = [
            [medians_of([own_controls(each) for each in measured[index][key]]) for index in indices[a:b]]
            for a, b in ((start, at), (at, end))
        ]
        cause, detail = "machine", _machine(metric, log_change(before, after), *controls)
        if not detail:
            # The point where the two sides differ most may be a session off.
            near = range(max(start + 1, at - 1), min(end, at + 2))
            pairs = [(sessions[indices[index - 1]], sessions[indices[index]]) for index in near]
            fields = [change for a, b in pairs for change in changed_fields(steady(a.stack), steady(b.stack))]
            cause, detail = ("stack", "; ".join(fields)) if fields else ("unexplained", "")
        steps.append(Step(at, before, after, cause, detail))
    return Series(machine, key, metric, indices, values, tuple(steps))


def log_change(before: float, after: float) -> float:
    """Log ratio after / before."""
    return math.log(max(after, LEAST) / max(before, LEAST)) if 0 in {before, after} else math.log(after / before)


def _machine(
    metric: str, change: float, before: Sequence[Mapping[str, float]], after: Sequence[Mapping[str, float]]
) -> str:
    """The fixed work that moved along, the way that the metric did; nothing where none did."""
    known = BY_NAME.get(metric)
    if known is None or known.unit == "bytes":
        return ""  # no machine changes what is answered, or how large a plan is
    slower = -change if known.higher_is_better else change
    # The mean follows whoever else uses the machine.
    for name in sorted({name for each in before for name in each if not name.endswith(MEAN)}):
        sides = [[each[name] for each in side if name in each] for side in (before, after)]
        if all(sides):
            moved = math.log(float(np.median(sides[1])) / float(np.median(sides[0])))
            if moved * math.copysign(1.0, slower) >= MACHINE_SHARE * abs(slower):
                return f"{name} {change_text(moved)}"
    return ""


def _stack_changes(sessions: Sequence[SessionRecord], machines: Sequence[str]) -> dict[int, tuple[str, ...]]:
    last: dict[str, SessionRecord] = {}
    found = {}
    for index, (session, machine) in enumerate(zip(sessions, machines, strict=True)):
        if machine in last and (changed := changed_fields(steady(last[machine].stack), steady(session.stack))):
            found[index] = tuple(changed)
        last[machine] = session
    return found


def trend_to_json(found: Trend) -> dict[str, Any]:
    """A trend as plain JSON values."""
    return {
        "sessions": [{"path": str(each.path), "datetime": each.datetime} for each in found.sessions],
        "stack_changes": {str(index): list(changed) for index, changed in found.stack_changes.items()},
        "series": [asdict(each) for each in found.series],
    }
