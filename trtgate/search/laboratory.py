"""Where versions are tried and raced: a side for each, workers, and A/B runs."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trtgate.ab.engines import OldSideFails
from trtgate.ab.results import AbReport
from trtgate.ab.run import PROCESSES, run_ab
from trtgate.engines import parse_spec
from trtgate.kinds import UserError, printable
from trtgate.measure.remote import Place, Worker, WorkerError
from trtgate.progress import Progress
from trtgate.search.environments import NotInstallable
from trtgate.search.question import ANSWERS, BUILD, Question, Raced, Tried, Versions
from trtgate.settings import Settings
from trtgate.verdict.agreement import BAND, SPARE_PHOTOS
from trtgate.verdict.bisection import Relation, State, relation_of
from trtgate.verdict.metrics import BY_NAME
from trtgate.verdict.outcome import Verdict

# Builds a side, of which the time is asked, or what they answer: those of one version may differ.
BUILDS = 3
# More of everything for what was open.
AGAIN = 2


@dataclass(frozen=True)
class Effort:
    """How much an A/B run measures."""

    rounds: int | None
    processes: int
    rebuilds: int | None


def effort(question: Question, processes: int | None, *, again: bool) -> Effort:
    """As much as a metric takes: what is not a time is not raced for, and what is the same every time not repeated.

    Without a number of `processes` as many as an A/B run has.
    """
    processes = processes or PROCESSES[question.device]
    known, factor = BY_NAME.get(question.metric), AGAIN if again else 1
    if known is None:
        builds = BUILDS if question.metric == ANSWERS else 1
        return Effort(1, builds, builds)
    if known.rule == "builds":
        return Effort(1, BUILDS * factor, BUILDS * factor)
    return Effort(1 if known.rule == "number" else None, processes * factor, None)


@dataclass(frozen=True)
class Installed:
    """The laboratory on this machine: A/B runs between the sides that `versions` makes.

    `processes` is how many a side has; None: as many as an A/B run.
    """

    question: Question
    versions: Versions
    settings: Settings
    progress: Progress
    processes: int | None = None

    def prepare(self, version: str) -> Tried:
        """As `Laboratory.prepare`."""
        try:
            place = self.versions.get(version)
        except NotInstallable as error:
            return Tried(State.ABSENT, line_of(str(error)), error.what)
        # A machine that lacked memory or time once says nothing of a version.
        found = self._tried(version, place)
        return found if found.state is State.WORKS else self._tried(version, place)

    def _tried(self, version: str, place: Path | Place) -> Tried:
        engine = self.question.engine
        try:
            with contextlib.closing(Worker(self.question.called(version), place)) as worker:
                try:
                    worker.greet()
                except WorkerError as error:
                    # An environment is made for its worker: if none starts, that is the version's doing. An image may
                    # have no Python, and says nothing of its engine then.
                    if isinstance(place, Path):
                        raise
                    return Tried(State.ABSENT, line_of(str(error)), "cannot be started")
                told = worker.ask("describe", device=self.settings.device, engines=[engine])["engines"][engine]
        except WorkerError as error:
            return Tried(State.FAILS, line_of(str(error)))
        return Tried(State.WORKS) if told["ok"] else Tried(State.FAILS, line_of(told["reason"]))

    def race(self, old: str, new: str, *, again: bool) -> Raced:
        """As `Laboratory.race`."""
        question, started = self.question, time.monotonic()
        much = effort(question, self.processes, again=again)
        self.progress.say(f"racing {question.called(old)} against {new}" + (", with more processes" if again else ""))
        expectations = self.settings.expectations.only(
            question.model, question.engine, BY_NAME.get(question.metric), question.delta
        )
        found = Raced(old, new, Relation.OPEN, again, "", much.processes, 0.0)
        try:
            report = run_ab(
                {"old": self.versions.get(old), "new": self.versions.get(new)},
                # The reference of an ONNX file is a runtime like others, and nobody asked about that.
                replace(self.settings, expectations=expectations, engines=(parse_spec(question.engine),)),
                [question.engine],
                rounds=much.rounds,
                rebuilds=much.rebuilds,
                processes=much.processes,
                progress=self.progress,
            )
        except NotInstallable as error:
            raise UserError(f"a version that was installed before cannot be now ({error}); run it again") from error
        except WorkerError as error:
            if again and isinstance(error, OldSideFails):
                raise UserError(
                    f"{question.called(old)} does not run {question.engine} ({line_of(str(error))}); mend that and run "
                    f"it again, or begin with a good {question.noun} in which it runs"
                ) from error
            found = replace(found, message=line_of(str(error)))
        else:
            found = read_report(found, report, question)
        found = replace(found, seconds=time.monotonic() - started)
        self.progress.say(f"{old} -> {new}: {found.relation.value}: {found.message}")
        return found


def read_report(raced: Raced, report: AbReport, question: Question) -> Raced:
    """The race with what its A/B run came to. Raises UserError for a metric that was not measured, and for
    answers that are none."""
    raced = replace(raced, stack=tuple(map(line_of, report.report.stack_changes)))
    for verdict in report.missing.values():
        return replace(raced, relation=Relation.LOST, message=line_of(verdict.message))
    if not report.results:
        why = "; ".join(report.left_out.values()) or "nothing was measured"
        raise UserError(f"--engine {question.engine} cannot be raced ({line_of(why)}); give another one")
    [result] = report.results
    comparison, answers = result.comparison, result.agreement["new with old"]
    raced = replace(raced, layers=tuple(line_of(str(each)) for each in comparison.layers), answers=answers)
    if question.metric == BUILD:
        return replace(raced, relation=Relation.SAME, message="it is built, loaded and run on both sides")
    if question.metric == ANSWERS and answers.get("finite", True) and answers["cosine"] is None:
        raise UserError(
            f"{question.called(raced.old)} has no finite logit on any photo, as {raced.new} has none; begin with a "
            f"good {question.noun} that answers"
        )
    if question.metric == ANSWERS:
        return _answered(raced, answers, result.agreement.get("old with old"), question.delta)
    change = comparison.change(question.metric)
    if change is None and comparison.invalid is not None:
        # Not a round was left in which this machine was alone.
        return replace(raced, relation=Relation.OPEN, message=line_of(comparison.invalid.message))
    if change is None:
        raise UserError(f"--metric {question.metric} was not measured for {question.engine}; give another one")
    verdict = change.verdict
    # Rounds that were disturbed say nothing of a time; sizes do not depend on who else used the machine.
    if comparison.invalid is not None and BY_NAME[question.metric].unit != "bytes":
        verdict = replace(verdict, **_reason(comparison.invalid))
    return replace(
        raced,
        relation=relation_of(verdict, question.delta),
        message=line_of(verdict.message),
        **{name: getattr(verdict, name) for name in ("estimate", "low", "high")},
        before=change.old,
        after=change.new,
    )


def _reason(verdict: Verdict) -> dict[str, Any]:
    return {"outcome": verdict.outcome, "reason": verdict.reason, "message": verdict.message}


def _answered(raced: Raced, answers: Mapping[str, Any], rebuilt: Mapping[str, Any] | None, delta: float) -> Raced:
    """Photos are counted, not sampled: it is on these that a version answers otherwise or does not.

    `rebuilt` is how builds of the old version agree. Where they are not the same to the last bit, a new build may
    change answers, too, without a new version.
    """
    n, changed = answers["n"], answers["n"] - answers["top1"]
    if not answers.get("finite", True):
        return replace(raced, relation=Relation.WORSE, message="NaN or infinity stand in other logits than before")
    message = f"{changed} of {n} answers changed" + (f", {delta:.1%} may" if delta else "")
    steady = rebuilt is None or rebuilt["sqnr_db"] is None
    if rebuilt and not steady and 0 < changed <= BAND * (rebuilt["n"] - rebuilt["top1"]) + SPARE_PHOTOS:
        message = f"{message}; a new build of {raced.old} may change as many"
        return replace(raced, relation=Relation.SAME, message=message)
    return replace(raced, relation=Relation.WORSE if changed / n > delta else Relation.SAME, message=message)


def line_of(text: str) -> str:
    """What a worker or an installer said, in one printable line."""
    return " ".join(printable(text).split())
