"""What was measured, as other people's dashboards load it: github-action-benchmark, and Bencher."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trtgate.baseline import saved_in
from trtgate.compare import by_key, require_own_sessions
from trtgate.kinds import UserError
from trtgate.records import EngineRecord, SessionRecord, name_of, read_session
from trtgate.report.words import metric_words, stack_words
from trtgate.trend import AGREEMENT, medians
from trtgate.verdict.metrics import BY_NAME

# What numbers are multiplied by, and the unit that makes; cycles are their own unit.
UNITS = {"s": (1e3, "ms"), "bytes": (1.0, "bytes")}
NANOSECONDS = 1e9
# Bencher's own measures, where ours is one; its latency is in nanoseconds, and so are all our other times.
MEASURES = {"build_seconds": "build-time", "plan_bytes": "file-size"}
IN_SECONDS = frozenset({"build_seconds"})


@dataclass(frozen=True)
class Number:
    """A metric of one engine: the median over the sessions, the lowest and the highest process, in the metric's unit.

    `where` is the runner, "" where there is but one.
    """

    where: str
    engine: str
    metric: str
    value: float
    low: float
    high: float
    stack: str

    @property
    def name(self) -> str:
        """The engine, on its runner."""
        return f"{self.where} {self.engine}".strip()

    @property
    def spread(self) -> bool:
        """Whether there is more than one number behind it."""
        return self.low < self.high


def numbers_of(runners: Mapping[str, Sequence[SessionRecord]]) -> list[Number]:
    """Every metric of every engine. Raises UserError where a runner's sessions are not of one stack."""
    found = []
    for where, sessions in runners.items():
        if not sessions:
            continue
        require_own_sessions((), sessions)
        stack = stack_words(sessions[-1].stack)
        for key, records in by_key(sessions).items():
            for metric, value in medians(records).items():
                processes = [value, *_processes(records, metric)]
                found.append(Number(where, name_of(key), metric, value, min(processes), max(processes), stack))
    if not found:
        raise UserError("nothing was measured in these sessions; name others")
    return found


def not_told(runners: Mapping[str, Sequence[SessionRecord]]) -> list[str]:
    """What the numbers are silent about: runners without a session, and engines that not all of one's sessions have
    measured, in sentences."""
    lines = []
    for where, sessions in runners.items():
        if not sessions:
            lines.append(f"{where}: no session was recorded, so nothing of it is there")
        for key, records in by_key(sessions).items():
            measured = sum(bool(record.rounds) for record in records)
            if measured < len(sessions):
                name = f"{where} {name_of(key)}".strip()
                lines.append(f"{name}: measured in {measured} of {len(sessions)} sessions")
    return lines


def _processes(records: Sequence[EngineRecord], metric: str) -> Iterator[float]:
    if metric == AGREEMENT:
        return
    for record in records:
        for sample in record.samples():
            value = BY_NAME[metric].value(sample)
            if value is not None:
                yield value


def runners_in(folder: Path) -> dict[str, list[SessionRecord]]:
    """The sessions of each sub-folder."""
    found = {path.name: saved_in(path) for path in sorted(folder.iterdir()) if path.is_dir()}
    return {name: [read_session(path) for path in files] for name, files in found.items()}


def for_github_action_benchmark(numbers: Sequence[Number]) -> list[dict[str, Any]]:
    """Its customSmallerIsBetter: a list of names, numbers and units, of what is the better the smaller it is."""
    entries = []
    for each in numbers:
        metric = BY_NAME.get(each.metric)
        if metric is None or metric.higher_is_better:
            continue
        factor, unit = UNITS.get(metric.unit, (1.0, metric.name))
        entry = {"name": f"{each.name}: {metric_words(each.metric)}", "unit": unit, "value": each.value * factor}
        if each.spread:
            entry["range"] = f"{each.low * factor:.4g} to {each.high * factor:.4g}"
        entries.append({**entry, "extra": each.stack})
    return entries


def for_bencher(numbers: Sequence[Number]) -> dict[str, dict[str, dict[str, float]]]:
    """Bencher Metric Format: measures by benchmark."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for each in numbers:
        metric = BY_NAME.get(each.metric)
        factor = NANOSECONDS if metric and metric.unit == "s" and each.metric not in IN_SECONDS else 1.0
        values = {"value": each.value * factor}
        if each.spread:
            values |= {"lower_value": each.low * factor, "upper_value": each.high * factor}
        found.setdefault(each.name, {})[MEASURES.get(each.metric, each.metric.replace("_", "-"))] = values
    return found


EXPORTS: Mapping[str, Callable[[Sequence[Number]], Any]] = {
    "github-action-benchmark": for_github_action_benchmark,
    "bencher": for_bencher,
}
