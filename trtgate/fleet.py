"""Many runners' sessions in one report: a folder with one sub-folder per runner, as their artifacts are downloaded.

What lies there was written by other machines: it is read as data, and what cannot be read is said and counts as
INVALID.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtgate.baseline import saved_in
from trtgate.compare import Report, by_key, report_from_json, require_own_sessions
from trtgate.errors import UserError, printable
from trtgate.fields import DAMAGED, read_json
from trtgate.files import is_regular
from trtgate.records import EngineRecord, Key, SessionRecord, name_of, read_session
from trtgate.verdict.decision import Decision, Reason, Verdict
from trtgate.verdict.policy import worst

# What `compare --json` and the workflows call the decision on a runner's sessions.
VERDICT = "verdict.json"
# What `report --markdown` may have left among the runners.
OWN = ".md"


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
    """All runners: rows, each runner's stack, and a decision for each runner or file that is no use.

    `compared` are the runners whose sessions were compared with a baseline.
    """

    rows: tuple[FleetRow, ...]
    stacks: Mapping[str, Mapping[str, Any]]
    problems: Mapping[str, Decision]
    compared: frozenset[str] = frozenset()

    def decisions(self) -> list[Decision]:
        return [*(row.decision for row in self.rows), *self.problems.values()]


def read_fleet(folder: Path) -> Fleet:
    """The sessions of all runners. Raises UserError for a folder that is none or has no runner in it."""
    try:
        runners = sorted(path for path in folder.iterdir() if path.suffix != OWN or not is_regular(path))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); name the folder of the runners") from error
    if not runners:
        raise UserError(f"{folder} has no folder per runner; download the runners' records into it")
    rows: list[FleetRow] = []
    stacks: dict[str, Mapping[str, Any]] = {}
    problems: dict[str, Decision] = {}
    compared: set[str] = set()
    owners: dict[str, str] = {}

    def tell(name: str, decision: Decision) -> None:
        name = _one_line(name)
        # Two names that differ in what cannot be printed must not hide one another.
        problems[name] = worst([decision, problems.get(name, decision)])

    for path in runners:
        runner = _one_line(path.name)
        try:
            sessions, report = _sessions(path), _report(path)
        except UserError as error:
            tell(runner, Decision(Verdict.INVALID, Reason.NO_RECORDS, str(error)))
            continue
        stacks[runner] = sessions[-1].stack
        records = by_key(sessions)
        rows += [_row(runner, key, some, report) for key, some in records.items()]
        for session in sessions:
            if (bad := _own_failure(session)) is not None:
                tell(f"{runner} {session.path.name}", bad)
            if (owner := owners.setdefault(session.digest, runner)) != runner:
                for name, other in ((runner, owner), (owner, runner)):
                    why = f"it holds the same session as {other}; a runner's records are its own"
                    tell(name, Decision(Verdict.INVALID, Reason.NOT_COMPARABLE, why))
        if report is not None:
            compared.add(runner)
            for name, decision in _of_comparison(sessions, records, report):
                tell(f"{runner} {name}".strip(), decision)
    if compared:
        why = f"it has no {VERDICT}, and others have: its sessions were compared with nothing; run compare there"
        for runner in sorted(stacks.keys() - compared):
            tell(runner, Decision(Verdict.INVALID, Reason.NO_RECORDS, why))
    return Fleet(tuple(rows), stacks, problems, frozenset(compared))


def _of_comparison(
    sessions: Sequence[SessionRecord], records: Mapping[Key, Sequence[EngineRecord]], report: Report
) -> Iterator[tuple[str, Decision]]:
    """What a runner's comparison says beside the engines, and whether it is one of these sessions: then "" names it."""
    if set(report.sessions) != {session.digest for session in sessions}:
        why = f"{VERDICT} was made of other sessions than these; run compare --json again"
        yield "", Decision(Verdict.INVALID, Reason.NOT_COMPARABLE, why)
    yield from report.problems.items()
    for key, decision in report.missing.items():
        yield name_of(key), decision
    for key, why in _disagreements(records, report).items():
        yield name_of(key), Decision(Verdict.INVALID, Reason.NOT_COMPARABLE, why)


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())


def _sessions(path: Path) -> list[SessionRecord]:
    """A runner's sessions. Raises UserError for no folder, for none in it, and for what cannot be one runner's."""
    if path.is_symlink() or not path.is_dir():
        raise UserError("it is no folder; download the runner's records as they are")
    for each in sorted(path.rglob("*")):
        if each.is_symlink():
            raise UserError(f"{each} is a link, and what it leads to is no record of the runner's; copy that")
    sessions = [read_session(file) for file in saved_in(path)]
    if not sessions:
        raise UserError("no session was recorded")
    require_own_sessions((), sessions)
    return sessions


def _report(path: Path) -> Report | None:
    """What a comparison said of a runner's sessions; None where there was no baseline to compare with."""
    files = sorted(each for each in path.rglob("*") if each.name == VERDICT)
    if not files:
        return None
    if len(files) > 1:
        raise UserError(f"{files[0]} and {files[1]} cannot both be the comparison; keep the one that counts")
    if not is_regular(files[0]):
        raise UserError(f"{files[0]} is no regular file; run compare --json again")
    try:
        return report_from_json(read_json(files[0]))
    except OSError as error:
        raise UserError(f"{files[0]} cannot be read ({error.strerror})") from error
    except DAMAGED as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{files[0]} is damaged ({what}); run compare --json again") from error


def _own_failure(session: SessionRecord) -> Decision | None:
    """What was wrong with a session's own run as a whole."""
    if session.unfit:
        message = f"its own run failed: {'; '.join(session.unfit)}"
        return Decision(Verdict.REGRESSED, Reason.OWN_RUN_FAILED, message)
    if session.partial:
        message = f"it did not judge everything: {'; '.join(session.partial)}"
        return Decision(Verdict.INVALID, Reason.OWN_RUN_FAILED, message)
    told = {f"{record.name}: {decision}" for record in session.engines.values() for decision in record.decisions}
    if open_ := [each for each in session.open if each not in told]:
        message = f"its own run could not tell: {'; '.join(open_)}"
        return Decision(Verdict.INCONCLUSIVE, Reason.OWN_RUN_FAILED, message)
    return None


def _disagreements(records: Mapping[Key, Sequence[EngineRecord]], report: Report) -> dict[Key, str]:
    """Engines that either the sessions or the comparison know nothing of: then it is not one of these sessions."""
    compared = {*(each.key for each in report.engines), *report.added}
    return {
        **{key: f"measured, and not in {VERDICT}" for key in records if key not in {*compared, *report.missing}},
        **{key: f"in {VERDICT}, and not measured" for key in compared if key not in records},
    }


def _row(runner: str, key: Key, records: Sequence[EngineRecord], report: Report | None) -> FleetRow:
    decisions = [decision for record in records for decision in (*record.decisions, *record.flaws)]
    change = None
    for each in report.engines if report else ():
        if each.key == key:
            decisions.append(each.decision)
            latency = each.change("latency")
            change = (latency.decision.estimate or None) if latency else None
    return FleetRow(
        runner,
        key,
        len(records),
        float(np.median([record.latency for record in records])),
        float(np.median([record.speedup for record in records])),
        worst(decisions) if decisions else Decision(Verdict.INVALID, Reason.NO_RECORDS, "nothing was decided"),
        change,
    )
