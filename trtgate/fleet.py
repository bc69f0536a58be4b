"""Many runners' sessions in one report: a folder with one sub-folder per runner, as their artifacts are downloaded.

What lies there was written by other machines: it is read as data, and what cannot be read is said and counts as
INVALID.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from trtgate.baseline import saved_in
from trtgate.errors import UserError
from trtgate.records import EngineRecord, SessionRecord, decision_from_json, read_session
from trtgate.verdict.decision import Decision, Reason, Verdict
from trtgate.verdict.policy import worst

# What `compare --json` and the workflows call the decision on a runner's sessions.
VERDICT = "verdict.json"
Key = tuple[str, str, int]


@dataclass(frozen=True)
class FleetRow:
    """One engine on one runner: medians over its sessions in seconds, and the decision on it.

    `change` is new over old latency where the runner has a baseline.
    """

    runner: str
    key: Key
    sessions: int
    latency: float
    speedup: float
    decision: Decision
    change: float | None = None


@dataclass(frozen=True)
class Fleet:
    """All runners: rows, each runner's stack, and a decision for each runner or file that is no use."""

    rows: tuple[FleetRow, ...]
    stacks: Mapping[str, Mapping[str, Any]]
    problems: Mapping[str, Decision]

    def decisions(self) -> list[Decision]:
        return [*(row.decision for row in self.rows), *self.problems.values()]


def read_fleet(folder: Path) -> Fleet:
    """The sessions of all runners. Raises UserError for a folder that is none or has no runner in it."""
    runners = sorted(path for path in folder.glob("*") if path.is_dir())
    if not runners:
        raise UserError(f"{folder} has no folder per runner; download the runners' records into it")
    rows: list[FleetRow] = []
    stacks: dict[str, Mapping[str, Any]] = {}
    problems: dict[str, Decision] = {}
    for path in runners:
        try:
            sessions = [read_session(file) for file in saved_in(path)]
            if not sessions:
                raise UserError("no session was recorded")
            decided = _decided(path)
        except UserError as error:
            problems[path.name] = Decision(Verdict.INVALID, Reason.NO_RECORDS, str(error))
            continue
        stacks[path.name] = sessions[-1].stack
        rows += _rows(path.name, sessions, decided)
        for session in sessions:
            for reason in (*session.unfit, *session.partial):
                problems[f"{path.name} {session.path.name}"] = Decision(
                    Verdict.REGRESSED if session.unfit else Verdict.INVALID,
                    Reason.OWN_RUN_FAILED,
                    f"its own run failed: {reason}" if session.unfit else f"it did not judge everything: {reason}",
                )
        problems.update({f"{path.name} {name}": decision for name, decision in decided.problems.items()})
        for key, decision in decided.missing.items():
            problems[f"{path.name} {key}"] = decision
    return Fleet(tuple(rows), stacks, problems)


@dataclass(frozen=True)
class _Decided:
    """What a comparison said of a runner's engines, and of those that it lacks."""

    engines: Mapping[Key, tuple[Decision, float | None]]
    missing: Mapping[str, Decision]
    problems: Mapping[str, Decision] = field(default_factory=dict)


def _decided(path: Path) -> _Decided:
    files = sorted(path.glob(f"**/{VERDICT}"))
    if not files:
        return _Decided({}, {})
    try:
        document = json.loads(files[-1].read_text())
        engines = {
            (each["model"], each["engine"], each["batch"]): (
                decision_from_json(each["decision"]),
                each["metrics"].get("latency", {}).get("decision", {}).get("estimate"),
            )
            for each in document["engines"]
        }
        missing = {
            f"{each['model']} {each['engine']}": decision_from_json(each["decision"]) for each in document["missing"]
        }
        problems = {name: decision_from_json(each) for name, each in document.get("problems", {}).items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{files[-1]} is damaged ({error!r})") from error
    return _Decided(engines, missing, problems)


def _rows(runner: str, sessions: list[SessionRecord], decided: _Decided) -> list[FleetRow]:
    by_key: dict[Key, list[EngineRecord]] = {}
    for session in sessions:
        for key, record in session.engines.items():
            by_key.setdefault(key, []).append(record)
    rows = []
    for key, records in by_key.items():
        own = [decision for record in records for decision in record.decisions]
        compared, change = decided.engines.get(key, (None, None))
        decisions = [*own, *([compared] if compared else [])]
        rows.append(
            FleetRow(
                runner,
                key,
                len(records),
                float(np.median([record.latency for record in records])),
                float(np.median([record.speedup for record in records])),
                worst(decisions) if decisions else Decision(Verdict.INVALID, Reason.NO_RECORDS, "nothing was decided"),
                change,
            )
        )
    return rows
