"""What an A/B run found, as any other comparison and as JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from trtgate.compare import (
    Comparison,
    Report,
    nothing_compared,
)
from trtgate.compared import report_to_json as compared_to_json
from trtgate.records import EngineRecord, Key
from trtgate.samples import Samples
from trtgate.stack import changed_fields, steady
from trtgate.verdict.outcome import Verdict


@dataclass(frozen=True)
class SideFacts:
    """One side's engine: seconds of each process, and what was built. Sizes are bytes."""

    processes: tuple[float, ...]
    build_seconds: float | None
    plan_bytes: int | None
    memory_bytes: int
    layers: Mapping[str, int]


@dataclass(frozen=True)
class AbResult:
    """One engine of one model at one batch size on both stacks: the comparison, and what it rests on.

    `samples` are the records of each side's processes.
    """

    comparison: Comparison
    old: SideFacts
    new: SideFacts
    agreement: Mapping[str, Mapping[str, Any]]
    notes: tuple[str, ...]
    rounds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    end_to_end_rounds: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    readings: Mapping[str, float] = field(default_factory=dict)
    samples: Mapping[str, Sequence[EngineRecord]] = field(default_factory=dict)


@dataclass(frozen=True)
class AbReport:
    """A whole run: the comparison of all engines, what was left out on both sides and why, and each engine's facts;
    `not_raced` holds verdicts on those of `left_out` that were asked for by name, `given` are the samples of each
    model."""

    stacks: Mapping[str, Mapping[str, Any]]
    left_out: Mapping[str, str]
    results: tuple[AbResult, ...]
    missing: Mapping[Key, Verdict] = field(default_factory=dict)
    added: tuple[Key, ...] = ()
    given: tuple[Samples, ...] = ()
    not_raced: Mapping[str, Verdict] = field(default_factory=dict)

    @property
    def report(self) -> Report:
        """The run as any other comparison."""
        changed = changed_fields(steady(self.stacks["old"]), steady(self.stacks["new"]))
        # A worker has no settings of its own that could differ: the driver gave both the same.
        engines = tuple(each.comparison for each in self.results)
        others = [*self.missing, *self.added, *self.left_out]
        problems = nothing_compared([each.key for each in engines], others)
        return Report(engines, self.missing, {**problems, **self.not_raced}, self.added, tuple(changed))


def report_to_json(run: AbReport) -> dict[str, Any]:
    """A whole run as plain JSON values: that of its comparison, and what it rests on."""
    document = compared_to_json(run.report)
    more = [
        {
            "old": asdict(each.old),
            "new": asdict(each.new),
            "rounds": {arm: list(rounds) for arm, rounds in each.rounds.items()},
            "end_to_end_rounds": {arm: list(rounds) for arm, rounds in each.end_to_end_rounds.items()},
            "readings": dict(each.readings),
            "agreement": {pair: dict(found) for pair, found in each.agreement.items()},
            "notes": list(each.notes),
        }
        for each in run.results
    ]
    document["engines"] = [{**both, **each} for both, each in zip(document["engines"], more, strict=True)]
    return {
        **document,
        "stacks": {side: dict(stack) for side, stack in run.stacks.items()},
        "left_out": dict(run.left_out),
    }
