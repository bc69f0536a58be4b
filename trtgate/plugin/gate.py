"""What one pytest session measured and decided, and the exit status that follows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from trtgate.compare import (
    Comparison,
    Report,
    compare_records,
    compare_sessions,
    corrected_comparisons,
    lenient,
    of_other_sizes,
    samples_of,
    unharmed,
)
from trtgate.console import Steady
from trtgate.files import path_mistake
from trtgate.kinds import EngineSpec, UserError, printable
from trtgate.measure.spread import PROCESSES, unfinished_file
from trtgate.options import read_settings
from trtgate.plugin.course import Course
from trtgate.records import EngineRecord, SessionRecord, fixed_work, medians_of
from trtgate.report.page import Page
from trtgate.report.pages import run_page, run_verdicts
from trtgate.report.photos import Photos
from trtgate.samples import Samples
from trtgate.settings import Settings
from trtgate.stack import stack
from trtgate.thumbnails import own_photos, shipped_photos
from trtgate.verdict.outcome import Outcome, Reason, Verdict, broken, not_raced
from trtgate.verdict.policy import EXIT_INCONCLUSIVE, EXIT_PASS, EXIT_REGRESSED, GOOD, exit_status, more_may_decide

if TYPE_CHECKING:
    from trtgate.blog import BlogRow


@contextlib.contextmanager
def usage_errors() -> Iterator[None]:
    """A mistake of the user's is pytest's UsageError: one sentence, and status 4."""
    try:
        yield
    except UserError as error:
        raise pytest.UsageError(str(error)) from error
    except OSError as error:
        if (sentence := path_mistake(error)) is None:
            raise
        raise pytest.UsageError(printable(sentence)) from error


class Gate:
    """What one pytest session measured and decided."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.course = Course(config)
        self.terminal: Steady | None = None
        self._raced: dict[tuple[str, str, int], EngineRecord] = {}
        self._facts: dict[tuple[str, str], dict[str, Any]] = {}
        self._decided: dict[tuple[str, str, int | None], list[Verdict]] = {}
        self.skipped: dict[str, str] = {}
        self.verdicts: list[Verdict] = []
        self.blog: list[BlogRow] = []
        self.baseline: list[SessionRecord] = []
        self.stepped_over: list[str] = []
        self.refused = False
        self.document: dict[str, Any] | None = None
        self.unsaved = ""
        self.unwritten = ""
        # Whether the exit status is made, and whether the tables are begun.
        self.ended = self.shown = False
        self._photos: dict[str, Photos] = {}
        self._report: Report | None = None
        self._settings: Settings | None = None
        self._stack: dict[str, Any] | None = None

    @property
    def settings(self) -> Settings:
        """The options of this run. Raises pytest.UsageError for wrong ones."""
        if self._settings is None:
            with usage_errors():
                found = read_settings(self.config.getoption, self.config.getoption("require"))
                kept = any(map(self.config.getoption, ("benchmark_save", "benchmark_autosave", "benchmark_compare")))
                asked = self.config.getoption("processes")
                if asked is not None and asked < 1:
                    raise UserError(f"--processes {asked}: give a number from 1 on")
                self._settings = replace(found, processes=asked or (PROCESSES[found.device] if kept else 0))
        return self._settings

    @property
    def stack(self) -> Mapping[str, Any]:
        """The fingerprint of this machine and its software."""
        if self._stack is None:
            self._stack = stack(self.settings.threads, self.settings.device)
        return self._stack

    def required(self, spec: EngineSpec, *, alone: bool = False) -> bool:
        """Whether --require names the engine or, unless it has to be named `alone`, its backend."""
        names = {spec.id} if alone else {spec.id, spec.backend}
        return bool(names & set(self.config.getoption("require")))

    def skip(self, model: str, spec: EngineSpec, reason: str) -> None:
        """Note that an engine was not measured, so that a comparison can say why."""
        self.skipped[f"{model} {spec.id}"] = reason

    def note_broken(self, model: str, spec: EngineSpec, reason: str) -> None:
        """Decide on an engine whose runtime is there and is broken: nothing passes that leaves it out unasked."""
        if not self.settings.expectations.acknowledges(model, spec.id):
            self._decide(broken(reason))

    def note_asked(self, model: str, spec: EngineSpec, reason: str) -> None:
        """Decide on an engine that --engine names and that was not measured: nothing passes that leaves it out."""
        asked = spec.id in self.config.getoption("engine")
        if asked and not self.settings.expectations.acknowledges(model, spec.id):
            self._decide(not_raced(f"{model} {spec.id}", "--engine", reason))

    def note_broken_by(self, nodeid: str, verdict: Verdict) -> None:
        """Decide on a broken runtime that kept a test from being run."""
        self.course.note_settled(nodeid)
        self._decide(verdict)

    def note_unbatched(self, model: str) -> None:
        """Decide on batch sizes that were asked for and that a model's reference cannot run."""
        if verdict := self.settings.not_batched(model):
            self._decide(verdict)

    def _decide(self, verdict: Verdict) -> None:
        """Keep a verdict on no single test, once."""
        if verdict not in self.verdicts:
            self.verdicts.append(verdict)

    def add(self, record: EngineRecord) -> EngineRecord:
        """Keep what a race says of an engine."""
        if record.weights == "untrained" and self.config.getoption("require_trained", False):
            self._refuse_untrained(record.model)
        return self._raced.setdefault(record.key, record)

    def _refuse_untrained(self, model: str) -> None:
        message = (
            f"--require-trained: {model} has untrained weights; give --weights {model}=PATH, or torchvision's cache"
        )
        self._decide(Verdict(Outcome.REGRESSED, Reason.MISSING, message))

    def note(self, model: str, engine: str, **facts: Any) -> None:
        """Keep facts of an engine that are no part of its race: fields of its record."""
        self._facts.setdefault((model, engine), {}).update(facts)

    def note_samples(self, samples: Samples) -> None:
        """Remember where the photos are that a report may show."""
        self._photos.update(own_photos(samples))

    @property
    def records(self) -> dict[tuple[str, str, int], EngineRecord]:
        """The records of all raced engines with everything noted and decided so far."""
        return {key: self._complete(record) for key, record in self._raced.items()}

    @property
    def facts(self) -> Mapping[tuple[str, str], Mapping[str, Any]]:
        """What was noted of each engine, raced or not."""
        return self._facts

    def _complete(self, record: EngineRecord) -> EngineRecord:
        model, engine, batch = record.key
        decided = [self._decided.get((model, engine, size), []) for size in (None, batch)]
        facts = self._facts.get((model, engine), {})
        return replace(record, **facts, verdicts=tuple(verdict for some in decided for verdict in some))

    def settle(
        self,
        node: pytest.Item,
        verdict: Verdict,
        model: str,
        engine: str,
        batch: int | None = None,
        details: str = "",
    ) -> None:
        """Fail the test unless the verdict is good; the exit status will say which kind of failure it was."""
        self.verdicts.append(verdict)
        self._decided.setdefault((model, engine, batch), []).append(verdict)
        self.show(node, verdict, details)

    def show(self, node: pytest.Item, verdict: Verdict, details: str = "") -> None:
        """Fail the test unless the verdict is good. It counts where it was made: in the report on the baseline."""
        if verdict.outcome in GOOD:
            return
        self.course.note_settled(node.nodeid)
        pytest.fail(printable("\n".join(filter(None, [str(verdict), details]))), pytrace=False)

    def note_unwritten(self, sentence: str) -> None:
        """Remember what could not be written or shown in the end, when the exit status is made already."""
        self.unwritten = "; ".join(filter(None, (self.unwritten, sentence)))

    def report(self) -> Report | None:
        """This run against the baseline, or None without one; final once the tests are over."""
        if self.baseline and self._report is None:
            report = compare_sessions(self.baseline, [self.as_session()], self.settings.expectations)
            missing = dict(report.missing)
            for key, verdict in report.missing.items():
                if verdict.outcome is not Outcome.REGRESSED or f"{key[0]} {key[1]}" in self.skipped:
                    continue  # what was skipped is missing by something of its own
                if why := self.course.kept_from(key):
                    missing[key] = Verdict(Outcome.INVALID, Reason.NO_RECORDS, f"not measured: {why}")
            problems = dict(report.problems)
            if partial := self.course.partial():
                problems["this run"] = _in_part(partial[0])
            self._report = replace(report, missing=missing, problems=problems)
        return self._report

    def comparison(self, record: EngineRecord) -> Comparison | None:
        """This engine against the baseline, or None where the baseline has no such engine."""
        # What it answers is not known before all tests are over; the report has it.
        mine = [[without_answers(each.engines[record.key]) for each in self.baseline if record.key in each.engines]]
        if not mine[0]:
            return None
        mine.append([without_answers(record)])
        old, new = ({record.key: side} for side in mine)
        found = compare_records(old, new, self.settings.expectations, "sessions", {}).engines[0]
        [found] = corrected_comparisons([found], self._others(found))
        alone = all(key[1] == record.engine for each in self.baseline for key in each.engines)
        sizes = [[each.sizes_of(record.model) for each in side] for side in (self.baseline, [self.as_session()])]
        return of_other_sizes(unharmed(found if alone else lenient(found)), *sizes)

    def _others(self, comparison: Comparison) -> int:
        """How many verdicts the report will hold on other engines, of which nothing may be known yet."""
        return (len(self.baseline[0].engines) - 1) * len(comparison.changes)

    def fixed_work(self, model: str) -> dict[int, dict[str, float]]:
        """By batch size what fixed work took for the baseline, in seconds."""
        found: dict[int, list[dict[str, float]]] = {}
        for session in self.baseline:
            for (name, _, size), record in session.engines.items():
                if name == model and record.controls:
                    found.setdefault(size, []).append(fixed_work(record))
        return {size: medians_of(some) for size, some in found.items()}

    def open_metrics(self, record: EngineRecord) -> list[str]:
        """What of this engine more processes may decide against the baseline."""
        comparison = self.comparison(record)
        if comparison is None:
            return []
        family = len(comparison.changes) + self._others(comparison)
        return [verdict.metric for verdict in comparison.verdicts if more_may_decide(verdict, family)]

    def as_session(self) -> SessionRecord:
        """What has been measured so far, as a saved session has it; its own failures are told by its tests."""
        records = {key: replace(record, verdicts=()) for key, record in self.records.items()}
        sizes = {model: frozenset(self.settings.sizes_of(model)) for model in self.settings.models}
        return SessionRecord(Path("this run"), "", self.stack, records, dict(self.skipped), (), sizes=sizes)

    def page(self) -> Page:
        """All that is to be read of this run; with photos where it is for --html, since those take a second."""
        report, mine = self.report(), self.as_session()
        photos = {**shipped_photos(), **self._photos} if self.config.getoption("html") else {}
        return run_page(
            list(self.records.values()),
            self.verdicts,
            self.stack,
            skipped=self.skipped,
            facts=self.facts,
            blog=self.blog,
            report=report,
            baseline=[str(session.path) for session in self.baseline],
            samples=samples_of(self.baseline, [mine]) if report else None,
            photos=photos,
            unsound=self.unsound(),
        )

    @property
    def of_no_engine(self) -> list[Verdict]:
        """Decisions that no test and no row of a table shows."""
        shown = [verdict for some in self._decided.values() for verdict in some]
        return [verdict for verdict in self.verdicts if verdict not in shown]

    @property
    def used(self) -> bool:
        """Whether this session is a gate's run at all, and not some other tests' or one refused before any ran."""
        return not self.refused and bool(
            self._raced or self.skipped or self.verdicts or self.baseline or self.course.mistakes or self.unsaved
        )

    def unfinished(self) -> list[Path]:
        """Where the samples are that this run's finished processes measured, until it is over."""
        if not self.settings.processes:
            return []
        files = [unfinished_file(self.settings, model) for model in self.settings.models]
        return [path for path in files if path.is_file()]

    def unfit(self) -> list[Verdict]:
        """Why this run must not become a baseline; empty if it may."""
        report = self.report()
        decided = [*self.verdicts, *(report.verdicts() if report else [])]
        return [each for each in decided if each.outcome in {Outcome.REGRESSED, Outcome.INVALID}] + self._failed()

    def unsound(self) -> list[Verdict]:
        """What is wrong with this run that no verdict of it tells."""
        lost = [f"{name}: {sentence}" for name, sentence in self.course.mistakes.items()]
        if self.course.cut_off:
            lost.insert(0, self.course.cut_off)
        lost += filter(None, (self.unsaved, self.unwritten))
        return [*(Verdict(Outcome.INVALID, Reason.NO_RECORDS, each) for each in lost), *self._failed()]

    def _failed(self) -> list[Verdict]:
        """The tests that failed by themselves."""
        return [
            Verdict(Outcome.REGRESSED, Reason.OWN_RUN_FAILED, f"{nodeid} failed")
            for nodeid in sorted(self.course.broken)
        ]

    def open(self) -> list[str]:
        """What this run could not tell, on its own floors or against its baseline."""
        named = run_verdicts(list(self.records.values()), self.verdicts, self.report())
        told = [(name, verdict) for name, verdict in named if verdict.outcome is Outcome.INCONCLUSIVE]
        return [f"{name}: {verdict}" if name else str(verdict) for name, verdict in dict.fromkeys(told)]

    def exit_status(self, status: int) -> int:
        """The exit status of the run, given pytest's own: over every verdict that the report shows."""
        if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}:
            return status
        report = self.report()
        compared = report.verdicts() if report else []
        if status == pytest.ExitCode.NO_TESTS_COLLECTED and not compared and not self.unsaved:
            return status
        if self.course.broken:
            return int(pytest.ExitCode.TESTS_FAILED)
        decided = exit_status(verdict.outcome for verdict in [*self.verdicts, *compared])
        # What could not be judged hides no regression of what was, and is none itself; nor does what was not saved.
        mistaken = (self.course.mistakes and decided != EXIT_REGRESSED) or (
            (self.unsaved or self.unwritten) and decided in {EXIT_PASS, EXIT_INCONCLUSIVE}
        )
        return int(pytest.ExitCode.USAGE_ERROR) if mistaken else decided


def _in_part(why: str) -> Verdict:
    """On a comparison of a run that is not whole: its floors, answers or engines were not all asked for."""
    message = f"it did not judge everything ({why}); run all of bench/"
    return Verdict(Outcome.INVALID, Reason.NOT_COMPARABLE, message)


def without_answers(record: EngineRecord) -> EngineRecord:
    """A record of times and sizes alone."""
    return replace(record, agreement={}, answers={}, scores={})


GATE = pytest.StashKey[Gate]()


def gate_of(config: pytest.Config) -> Gate:
    """The session's gate."""
    return config.stash[GATE]
