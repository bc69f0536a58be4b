"""Saved sessions against saved sessions: what changed, by how much, and what the verdict is."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from trtgate.engines.base import REFERENCE
from trtgate.errors import UserError
from trtgate.expectations import Expectations
from trtgate.layers import LayerChange, changed_layers
from trtgate.plans import changed_fields
from trtgate.records import SCHEMA, EngineRecord, SessionRecord, decision_to_json
from trtgate.stack import steady
from trtgate.verdict.decision import Decision, Reason, Verdict
from trtgate.verdict.paired import change_text
from trtgate.verdict.policy import GOOD, worst
from trtgate.verdict.sessions import decide_sessions

Key = tuple[str, str, int]

# Fields that name the machine. Another one makes every ratio meaningless, so such a baseline is refused.
HARDWARE = ("cpu", "machine", "gpu")


@dataclass(frozen=True)
class Comparison:
    """One engine, old against new. Times are medians over the sessions, in seconds; speedups likewise.

    `end_to_end` is the decision on the second series where there is one; `controls` are log ratios new / old of the
    fixed work, `layers` what changed most between the newest sessions.
    """

    key: Key
    old_latency: float
    new_latency: float
    old_reference: float
    new_reference: float
    old_speedup: float
    new_speedup: float
    latency: Decision
    speedup: Decision
    end_to_end: Decision | None = None
    old_clock: float | None = None
    new_clock: float | None = None
    controls: Mapping[str, float] = field(default_factory=dict)
    layers: tuple[LayerChange, ...] = ()

    @property
    def clocks(self) -> str:
        """Whether the clock moved or the cycles did (time x clock), where both sides know their clock in MHz."""
        if not self.old_clock or not self.new_clock:
            return "clock unknown"
        clock = float(np.log(self.new_clock / self.old_clock))
        cycles = float(np.log(self.new_latency / self.old_latency)) + clock
        return f"clock {self.old_clock:.0f} -> {self.new_clock:.0f} MHz, cycles {change_text(cycles)}"

    @property
    def decision(self) -> Decision:
        """The worst of latency, speedup and end-to-end time, but for what is only the reference's own noise.

        A speedup that cannot be told fails no engine whose own times are good, and the reference itself fails only by a
        proven regression: eager PyTorch at batch 1 is as unsteady as the host that launches it.
        """
        own = self.own
        if self.key[1] == REFERENCE.id:
            if own.verdict is not Verdict.INCONCLUSIVE:
                return own
            message = f"the yardstick, which fails only by a proven regression: {own.message}"
            return replace(own, verdict=Verdict.PASS, reason=Reason.YARDSTICK, message=message)
        return own if self.only_reference_is_unsure else worst([own, self.speedup])

    @property
    def only_reference_is_unsure(self) -> bool:
        """Whether the speedup cannot be told although the engine's own times can, and are good."""
        return self.speedup.verdict is Verdict.INCONCLUSIVE and self.own.verdict in GOOD

    @property
    def own(self) -> Decision:
        """The worst of latency and end-to-end time."""
        return worst([self.latency, *([self.end_to_end] if self.end_to_end else [])])

    @property
    def attribution(self) -> str:
        """log speedup = log reference - log engine: both parts, so that a faster PyTorch is seen as what it is."""
        engine = float(np.log(self.new_latency / self.old_latency))
        reference = float(np.log(self.new_reference / self.old_reference))
        controls = "".join(f", {name} {change_text(change)}" for name, change in self.controls.items())
        return f"engine {change_text(engine)}, reference {change_text(reference)}{controls}"


@dataclass(frozen=True)
class Report:
    """A whole comparison; `missing` holds decisions on what the baseline has and the new side lacks."""

    engines: tuple[Comparison, ...]
    missing: Mapping[Key, Decision]
    added: tuple[Key, ...]
    stack_changes: tuple[str, ...]

    def decisions(self) -> list[Decision]:
        """All decisions of the report."""
        return [each.decision for each in self.engines] + list(self.missing.values())


def require_usable(baseline: SessionRecord, stack: Mapping[str, Any]) -> None:
    """Raises UserError when the baseline's own run failed, or when it was measured on another CPU or GPU."""
    if baseline.unfit:
        raise UserError(
            f"baseline {baseline.path} must not be used: its own run failed ({baseline.unfit[0]}); save a sound one"
        )
    require_same_hardware(baseline, stack)


def require_same_hardware(old: SessionRecord, stack: Mapping[str, Any]) -> None:
    """Raises UserError when the baseline was measured on another CPU or GPU."""
    for name in HARDWARE:
        before, now = old.stack.get(name), stack.get(name)
        if before != now:
            raise UserError(
                f"baseline {old.path} was measured on another {name} ({before}, this machine has {now}); "
                "save a baseline on this machine"
            )


def compare_sessions(old: Sequence[SessionRecord], new: Sequence[SessionRecord], expectations: Expectations) -> Report:
    """Decide on every engine of the baseline `old`.

    Raises UserError when a side is empty, a session is unfit to be compared with, or the hardware differs.
    """
    if not old or not new:
        raise UserError("a comparison needs at least one session on each side; save some with --benchmark-save")
    for session in old:
        require_usable(session, new[0].stack)
    for session in new[1:]:
        require_same_hardware(session, new[0].stack)
    before, after = _by_key(old), _by_key(new)
    skipped = {name: reason for session in new for name, reason in session.skipped.items()}
    return Report(
        engines=tuple(_compare(key, before[key], after[key], expectations) for key in before if key in after),
        missing={key: _missing(key, skipped, expectations) for key in before if key not in after},
        added=tuple(key for key in after if key not in before),
        stack_changes=tuple(changed_fields(steady(old[-1].stack), steady(new[-1].stack))),
    )


def _by_key(sessions: Sequence[SessionRecord]) -> dict[Key, list[EngineRecord]]:
    found: dict[Key, list[EngineRecord]] = {}
    for session in sessions:
        for key, record in session.engines.items():
            found.setdefault(key, []).append(record)
    return found


def _compare(
    key: Key, old: Sequence[EngineRecord], new: Sequence[EngineRecord], expectations: Expectations
) -> Comparison:
    expectation = expectations.of(key[0], key[1])
    times_old, times_new = _values(old, "latency"), _values(new, "latency")
    slowness_old, slowness_new = 1 / _values(old, "speedup"), 1 / _values(new, "speedup")
    spread = max(record.log_spread() for record in old)
    end_to_end = None
    if any(not record.complete for record in [*old, *new]):
        invalid = Decision(Verdict.INVALID, Reason.DISTURBED, "a race was not finished: too many disturbed rounds")
        latency = speedup = invalid
    else:
        if all(record.end_to_end_rounds for record in [*old, *new]):
            end_to_end = decide_sessions(
                _values(old, "end_to_end_latency"),
                _values(new, "end_to_end_latency"),
                delta=expectation.delta,
                absolute_floor=expectation.absolute_floor,
                within_spread=max(record.end_to_end_log_spread() for record in old),
            )
        latency = decide_sessions(
            times_old,
            times_new,
            delta=expectation.delta,
            absolute_floor=expectation.absolute_floor,
            within_spread=spread,
        )
        # Engine time in units of the reference's: grows when the speedup shrinks, so the same rule applies.
        speedup = decide_sessions(slowness_old, slowness_new, delta=expectation.delta, within_spread=spread)
    return Comparison(
        key=key,
        old_latency=float(np.median(times_old)),
        new_latency=float(np.median(times_new)),
        old_reference=float(np.median(_values(old, "reference_latency"))),
        new_reference=float(np.median(_values(new, "reference_latency"))),
        old_speedup=float(np.median(1 / slowness_old)),
        new_speedup=float(np.median(1 / slowness_new)),
        latency=latency,
        speedup=speedup,
        end_to_end=end_to_end,
        old_clock=_clock(old),
        new_clock=_clock(new),
        controls=_control_changes(old, new),
        layers=changed_layers(old[-1].layer_times, new[-1].layer_times),
    )


def _control_changes(old: Sequence[EngineRecord], new: Sequence[EngineRecord]) -> dict[str, float]:
    """Log ratios new / old of the fixed work that every record of both sides has."""
    names = [name for name in old[0].controls if all(name in record.controls for record in [*old, *new])]
    medians = [{name: np.median([record.controls[name] for record in side]) for name in names} for side in (old, new)]
    return {name: float(np.log(medians[1][name] / medians[0][name])) for name in names}


def _clock(records: Sequence[EngineRecord]) -> float | None:
    known = [record.clock_mhz for record in records if record.clock_mhz]
    return float(np.median(known)) if known else None


def _values(records: Sequence[EngineRecord], name: str) -> Any:
    return np.array([getattr(record, name) for record in records], np.float64)


def _missing(key: Key, skipped: Mapping[str, str], expectations: Expectations) -> Decision:
    name = f"{key[0]} {key[1]}"
    if any(fnmatch.fnmatch(name, pattern) for pattern in expectations.acknowledged_missing):
        return Decision(Verdict.PASS, Reason.ACKNOWLEDGED, f"{name} is missing, as acknowledged")
    why = f" ({skipped[name]})" if name in skipped else " (renamed, deselected or not asked for?)"
    return Decision(
        Verdict.REGRESSED,
        Reason.MISSING,
        f"{name} batch {key[2]} is in the baseline but was not measured{why}; "
        "if that is meant, add it to acknowledged_missing in expectations.toml",
    )


def report_to_json(report: Report) -> dict[str, Any]:
    """A comparison as plain JSON values."""
    return {
        "schema": SCHEMA,
        "stack_changes": list(report.stack_changes),
        "engines": [
            {
                "model": each.key[0],
                "engine": each.key[1],
                "batch": each.key[2],
                "old_latency": each.old_latency,
                "new_latency": each.new_latency,
                "old_reference": each.old_reference,
                "new_reference": each.new_reference,
                "old_speedup": each.old_speedup,
                "new_speedup": each.new_speedup,
                "old_clock_mhz": each.old_clock,
                "new_clock_mhz": each.new_clock,
                "latency": decision_to_json(each.latency),
                "speedup": decision_to_json(each.speedup),
                "end_to_end": decision_to_json(each.end_to_end) if each.end_to_end else None,
                "controls": dict(each.controls),
                "layers": [str(layer) for layer in each.layers],
                "decision": decision_to_json(each.decision),
            }
            for each in report.engines
        ],
        "missing": [
            {"model": key[0], "engine": key[1], "batch": key[2], "decision": decision_to_json(decision)}
            for key, decision in report.missing.items()
        ],
        "added": [list(key) for key in report.added],
    }
