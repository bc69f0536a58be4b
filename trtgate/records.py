"""What a session saved, inside pytest-benchmark's JSON; written and read here and nowhere else.

A benchmark's `extra_info["trtgate"]` is an EngineRecord, `machine_info["trtgate"]` the stack, and the file's own
`"trtgate"` what the session as a whole came to.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trtgate.errors import UserError
from trtgate.race import CONTROL, Race
from trtgate.verdict.decision import Decision, Reason, Verdict
from trtgate.verdict.paired import Floats, interval

KEY = "trtgate"
# Raised when a field changes its meaning; readers refuse what is newer than they are.
SCHEMA = 1


@dataclass(frozen=True)
class EngineRecord:
    """One engine of one model at one batch size, as a session measured it. Times are seconds.

    `rounds` and `reference_rounds` are the block statistics of the same rounds of one race, in order; on a GPU they lie
    between events, and the `end_to_end` fields hold the second series, with copies. `readings` are medians of what the
    machine told between blocks, `controls` the latencies of the fixed work raced along, `layer_times` milliseconds.
    """

    model: str
    engine: str
    batch: int
    weights: str
    rounds: tuple[float, ...]
    reference_rounds: tuple[float, ...]
    percentiles: Mapping[str, float]
    iterations: int
    dropped_rounds: int = 0
    complete: bool = True
    end_to_end_rounds: tuple[float, ...] = ()
    reference_end_to_end_rounds: tuple[float, ...] = ()
    end_to_end_percentiles: Mapping[str, float] = field(default_factory=dict)
    enqueue_seconds: float | None = None
    throughput: Mapping[str, float] = field(default_factory=dict)
    readings: Mapping[str, float] = field(default_factory=dict)
    controls: Mapping[str, float] = field(default_factory=dict)
    agreement: Mapping[str, Any] = field(default_factory=dict)
    accuracy: Mapping[str, Any] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)
    layers: Mapping[str, int] = field(default_factory=dict)
    layer_times: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    decisions: tuple[Decision, ...] = ()

    @property
    def key(self) -> tuple[str, str, int]:
        """What makes two records comparable."""
        return self.model, self.engine, self.batch

    @property
    def name(self) -> str:
        return f"{self.model} {self.engine} batch {self.batch}"

    @property
    def latency(self) -> float:
        """Median of the rounds, in seconds."""
        return float(np.median(self.rounds))

    @property
    def end_to_end_latency(self) -> float | None:
        """Median of the second series' rounds, in seconds; None where there is none."""
        return float(np.median(self.end_to_end_rounds)) if self.end_to_end_rounds else None

    @property
    def images_per_second(self) -> float:
        """Batch over median latency."""
        return self.batch / self.latency

    @property
    def clock_mhz(self) -> float | None:
        """The median clock of the processor that did the work, or None where nobody tells."""
        return self.readings.get("clock_mhz")

    @property
    def reference_latency(self) -> float:
        return float(np.median(self.reference_rounds))

    @property
    def speedup(self) -> float:
        """Median over the rounds of reference / engine."""
        return float(np.median(np.asarray(self.reference_rounds) / np.asarray(self.rounds)))

    def speedup_interval(self) -> tuple[float, float] | None:
        """Bounds of the speedup, or None from too few rounds."""
        try:
            _, low, high = interval(np.log(np.asarray(self.reference_rounds) / np.asarray(self.rounds)))
        except ValueError:
            return None
        return float(np.exp(low)), float(np.exp(high))

    def log_spread(self) -> float:
        """Spread of the log of the rounds: from the first to the ninth decile."""
        return _log_spread(self.rounds)

    def end_to_end_log_spread(self) -> float:
        """The same of the second series."""
        return _log_spread(self.end_to_end_rounds)


def _log_spread(rounds: tuple[float, ...]) -> float:
    return float(np.diff(np.percentile(np.log(rounds), [10, 90]))[0])


@dataclass(frozen=True)
class SessionRecord:
    """One saved session."""

    path: Path
    datetime: str
    stack: Mapping[str, Any]
    engines: Mapping[tuple[str, str, int], EngineRecord]
    skipped: Mapping[str, str]
    unfit: tuple[str, ...]


def from_race(race: Race, model: str, engine: str, reference: str, batch: int, weights: str) -> EngineRecord:
    """What a race says of one engine."""
    return EngineRecord(
        model=model,
        engine=engine,
        batch=batch,
        weights=weights,
        rounds=_floats(race.round_latencies(engine)),
        reference_rounds=_floats(race.round_latencies(reference)),
        percentiles=race.percentiles(engine),
        iterations=race.iterations(engine),
        dropped_rounds=len(race.dropped),
        complete=race.complete,
        end_to_end_rounds=_floats(race.round_end_to_end(engine)),
        reference_end_to_end_rounds=_floats(race.round_end_to_end(reference)),
        end_to_end_percentiles=race.end_to_end_percentiles(engine),
        readings=race.readings,
        controls={arm: race.latency(arm) for arm in race.blocks if arm.startswith(CONTROL) and race.rounds},
    )


def _floats(values: Floats) -> tuple[float, ...]:
    return tuple(map(float, values))


def to_json(record: EngineRecord) -> dict[str, Any]:
    """A record as plain JSON values; the inverse of `from_json`."""
    values = {field.name: getattr(record, field.name) for field in dataclasses.fields(record)}
    values["decisions"] = [decision_to_json(decision) for decision in record.decisions]
    return {"schema": SCHEMA, **{key: list(v) if isinstance(v, tuple) else v for key, v in values.items()}}


def decision_to_json(decision: Decision) -> dict[str, Any]:
    """A decision as plain JSON values."""
    return {
        "verdict": decision.verdict.value,
        "reason": decision.reason.value,
        "message": decision.message,
        "estimate": decision.estimate,
        "low": decision.low,
        "high": decision.high,
    }


def decision_from_json(values: Mapping[str, Any]) -> Decision:
    """The inverse of `decision_to_json`. Raises KeyError, TypeError or ValueError for anything else."""
    return Decision(
        Verdict(values["verdict"]),
        Reason(values["reason"]),
        str(values["message"]),
        values["estimate"],
        values["low"],
        values["high"],
    )


TUPLES = frozenset({"rounds", "reference_rounds", "end_to_end_rounds", "reference_end_to_end_rounds", "warnings"})


def from_json(values: Mapping[str, Any]) -> EngineRecord:
    """A record from JSON values. Raises KeyError, TypeError or ValueError for anything else."""
    known = {field.name for field in dataclasses.fields(EngineRecord)}
    chosen = {key: value for key, value in values.items() if key in known}
    for name in TUPLES & chosen.keys():
        chosen[name] = tuple(chosen[name])
    chosen["decisions"] = tuple(map(decision_from_json, chosen.get("decisions", ())))
    return EngineRecord(**chosen)


def read_session(path: Path) -> SessionRecord:
    """Read a file that pytest-benchmark saved.

    Raises UserError for a file that cannot be read, is damaged, was written by a newer trtgate, or holds no rounds.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        stack = document["machine_info"].get(KEY, {})
        benchmarks = document["benchmarks"]
        summary = document.get(KEY, {})
        saved = [b["extra_info"][KEY] for b in benchmarks if KEY in b.get("extra_info", {})]
        newest = max([summary.get("schema", 0), *(each.get("schema", 0) for each in saved)])
    except OSError as error:
        raise UserError(f"baseline {path} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"baseline {path} is damaged ({error!r}); delete it and save a new one") from error
    if newest > SCHEMA:
        raise UserError(f"baseline {path} has schema {newest}, this trtgate reads up to {SCHEMA}; upgrade trtgate")
    if not saved:
        raise UserError(f"baseline {path} holds no rounds (not saved by trtgate's bench/); save a new one")
    try:
        records = [from_json(each) for each in saved]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"baseline {path} is damaged ({error!r}); delete it and save a new one") from error
    for record in records:
        if not record.rounds or len(record.rounds) != len(record.reference_rounds):
            raise UserError(f"baseline {path} has no rounds for {record.name}; save a new one")
    return SessionRecord(
        path=path,
        datetime=document.get("datetime", ""),
        stack=stack,
        engines={record.key: record for record in records},
        skipped=summary.get("skipped", {}),
        unfit=tuple(summary.get("unfit", ())),
    )
