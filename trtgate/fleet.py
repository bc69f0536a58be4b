"""Many runners' sessions in one report: a folder with one sub-folder per runner, as their artifacts are downloaded.

What lies there was written by other machines: it is read as data, and what cannot be read is said and counts as
INVALID.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trtgate.baseline import saved_in
from trtgate.compare import Report, by_key, require_own_sessions
from trtgate.compared import report_from_json
from trtgate.fields import DAMAGED, read_json
from trtgate.files import is_regular
from trtgate.kinds import UserError, printable
from trtgate.outputs import is_own_output
from trtgate.records import EngineRecord, Key, SessionRecord, name_of, read_session
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import worst

# What `compare --json` and the workflows call the verdict on a runner's sessions.
OUTCOME = "verdict.json"
# What people write beside the runners, or `report --markdown` did.
PROSE = ".md"


@dataclass(frozen=True)
class FleetRow:
    """One engine on one runner: medians over its sessions in seconds, and the verdict on it.

    `change` is new over old latency where the runner has a baseline. What no session measured is None.
    """

    runner: str
    key: Key
    sessions: int
    latency: float | None
    speedup: float | None
    verdict: Verdict
    change: float | None = None


@dataclass(frozen=True)
class Fleet:
    """All runners: rows, each runner's stack, and a verdict for each runner or file that is no use.

    `compared` are the runners whose sessions were compared with a baseline.
    """

    rows: tuple[FleetRow, ...]
    stacks: Mapping[str, Mapping[str, Any]]
    problems: Mapping[str, Verdict]
    compared: frozenset[str] = frozenset()

    def verdicts(self) -> list[Verdict]:
        return [*(row.verdict for row in self.rows), *self.problems.values()]


def read_fleet(folder: Path) -> Fleet:
    """The sessions of all runners. Raises UserError for a folder that is none or has no runner in it."""
    try:
        runners = sorted(path for path in folder.iterdir() if not _is_report(path))
    except OSError as error:
        raise UserError(f"{folder} cannot be read ({error.strerror}); name the folder of the runners") from error
    if not runners:
        raise UserError(f"{folder} has no folder per runner; download the runners' records into it")
    rows: list[FleetRow] = []
    stacks: dict[str, Mapping[str, Any]] = {}
    problems: dict[str, Verdict] = {}
    compared: set[str] = set()
    owners: dict[str, str] = {}

    def tell(name: str, verdict: Verdict) -> None:
        name = _one_line(name)
        # Two names that differ in what cannot be printed must not hide one another.
        problems[name] = worst([verdict, problems.get(name, verdict)])

    for path in runners:
        runner = _one_line(path.name)
        try:
            sessions, report = _sessions(path), _report(path)
        except UserError as error:
            tell(runner, Verdict(Outcome.INVALID, Reason.NO_RECORDS, str(error)))
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
                    tell(name, Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, why))
        if report is not None:
            compared.add(runner)
            for name, verdict in _of_comparison(sessions, records, report):
                tell(f"{runner} {name}".strip(), verdict)
    if compared:
        why = f"it has no {OUTCOME}, and others have: its sessions were compared with nothing; run compare there"
        for runner in sorted(stacks.keys() - compared):
            tell(runner, Verdict(Outcome.INVALID, Reason.NO_RECORDS, why))
    return Fleet(tuple(rows), stacks, problems, frozenset(compared))


def _of_comparison(
    sessions: Sequence[SessionRecord], records: Mapping[Key, Sequence[EngineRecord]], report: Report
) -> Iterator[tuple[str, Verdict]]:
    """What a runner's comparison says beside the engines, and whether it is one of these sessions: then "" names it."""
    if set(report.sessions) != {session.digest for session in sessions}:
        why = f"{OUTCOME} was made of other sessions than these; run compare --json again"
        yield "", Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, why)
    yield from report.problems.items()
    for key, verdict in report.missing.items():
        yield name_of(key), verdict
    for key, why in _disagreements(records, report).items():
        yield name_of(key), Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, why)


def _is_report(path: Path) -> bool:
    """Whether a file is none of a runner's but what was written about them."""
    return is_regular(path) and (path.suffix == PROSE or is_own_output(path))


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
    files = sorted(each for each in path.rglob("*") if each.name == OUTCOME)
    if not files:
        return None
    if len(files) > 1:
        raise UserError(f"{files[0]} and {files[1]} cannot both be the comparison; keep the one that counts")
    return comparison_of(files[0])


def comparison_of(path: Path) -> Report:
    """The comparison in a file. Raises UserError for none."""
    if not is_regular(path):
        raise UserError(f"{path} is no regular file; run compare --json again")
    try:
        return report_from_json(read_json(path))
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except DAMAGED as error:
        what = f"{type(error).__name__}: {error}"[:200]
        raise UserError(f"{path} is damaged ({what}); run compare --json again") from error


def _own_failure(session: SessionRecord) -> Verdict | None:
    """What was wrong with a session's own run as a whole."""
    if session.unfit:
        message = f"its own run failed: {'; '.join(session.unfit)}"
        return Verdict(worst(session.failures).outcome, Reason.OWN_RUN_FAILED, message)
    if session.partial:
        message = f"it did not judge everything: {'; '.join(session.partial)}"
        return Verdict(Outcome.INVALID, Reason.OWN_RUN_FAILED, message)
    told = {f"{record.name}: {verdict}" for record in session.engines.values() for verdict in record.verdicts}
    if open_ := [each for each in session.open if each not in told]:
        message = f"its own run could not tell: {'; '.join(open_)}"
        return Verdict(Outcome.INCONCLUSIVE, Reason.OWN_RUN_FAILED, message)
    if not any(record.verdicts for record in session.engines.values()):
        return UNDECIDED
    return None


def _disagreements(records: Mapping[Key, Sequence[EngineRecord]], report: Report) -> dict[Key, str]:
    """Engines that either the sessions or the comparison know nothing of: then it is not one of these sessions."""
    compared = {*(each.key for each in report.engines), *report.added}
    return {
        **{key: f"measured, and not in {OUTCOME}" for key in records if key not in {*compared, *report.missing}},
        **{key: f"in {OUTCOME}, and not measured" for key in compared if key not in records},
    }


UNDECIDED = Verdict(Outcome.INVALID, Reason.NO_RECORDS, "nothing was decided")
# What stands for an engine that has no verdict, and need not have one.
REFERENCE = Verdict(Outcome.PASS, Reason.YARDSTICK, "the reference, which the others are held against")


def _row(runner: str, key: Key, records: Sequence[EngineRecord], report: Report | None) -> FleetRow:
    verdicts = [verdict for record in records for verdict in (*record.verdicts, *record.flaws)]
    change = None
    for each in report.engines if report else ():
        if each.key == key:
            verdicts.append(each.verdict)
            latency = each.change("latency")
            change = (latency.verdict.estimate or None) if latency else None
    return FleetRow(
        runner,
        key,
        len(records),
        _median(record.latency for record in records if record.rounds),
        _median(record.speedup for record in records if record.rounds),
        worst(verdicts or [REFERENCE if all(record.is_reference for record in records) else UNDECIDED]),
        change,
    )


def _median(values: Iterable[float]) -> float | None:
    known = list(values)
    return float(np.median(known)) if known else None
