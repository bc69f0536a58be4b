"""What one pytest session measured and decided, and the exit status that follows."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
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
    samples_of,
)
from trtgate.console import Steady
from trtgate.files import path_mistake
from trtgate.kinds import EngineSpec, UserError, printable
from trtgate.measure.spread import PROCESSES, unfinished_file
from trtgate.options import read_settings
from trtgate.progress import SILENT, Progress
from trtgate.records import EngineRecord, Key, SessionRecord
from trtgate.report.gallery import Photos
from trtgate.report.page import Page
from trtgate.report.pages import run_page, run_verdicts
from trtgate.settings import Settings
from trtgate.stack import stack
from trtgate.suite import Test, tests_beside
from trtgate.thumbnails import shipped_photos
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import EXIT_INCONCLUSIVE, EXIT_PASS, EXIT_REGRESSED, GOOD, exit_status, more_may_decide

if TYPE_CHECKING:
    from trtgate.blog import BlogRow


class Gate:
    """What one pytest session measured and decided."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
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
        self.deselected = 0
        self.collected: set[Test] = set()
        self.mistakes: dict[str, str] = {}
        self.document: dict[str, Any] | None = None
        self.cut_off = ""
        self.unsaved = ""
        self.unwritten = ""
        # Whether the exit status is made, and whether the tables are begun.
        self.ended = self.shown = False
        self._skips: Counter[str] = Counter()
        self._settled: set[str] = set()
        self._failed: set[str] = set()
        self._planned: dict[str, Mapping[str, str]] = {}
        self._begun: set[str] = set()
        self._uncollected = ""
        self._report: Report | None = None
        self._settings: Settings | None = None
        self._stack: dict[str, Any] | None = None

    @property
    def settings(self) -> Settings:
        """The options of this run. Raises pytest.UsageError for wrong ones."""
        if self._settings is None:
            try:
                found = read_settings(self.config.getoption, self.config.getoption("require"))
                kept = any(map(self.config.getoption, ("benchmark_save", "benchmark_autosave", "benchmark_compare")))
                asked = self.config.getoption("processes")
                if asked is not None and asked < 1:
                    raise UserError(f"--processes {asked}: give a number from 1 on")
                self._settings = replace(found, processes=asked or (PROCESSES[found.device] if kept else 0))
            except UserError as error:
                raise pytest.UsageError(str(error)) from error
            except OSError as error:
                if (sentence := path_mistake(error)) is None:
                    raise
                raise pytest.UsageError(printable(sentence)) from error
        return self._settings

    @property
    def stack(self) -> Mapping[str, Any]:
        """The fingerprint of this machine and its software."""
        if self._stack is None:
            self._stack = stack(self.settings.threads, self.settings.device)
        return self._stack

    @property
    def progress(self) -> Progress:
        """Progress on pytest's own terminal, past its capturing."""
        reporter = self.config.pluginmanager.get_plugin("terminalreporter")
        capture = self.config.pluginmanager.get_plugin("capturemanager")
        if reporter is None:
            return SILENT
        writer = self.config.get_terminal_writer()
        drafted = False

        def show(text: str, *, stays: bool) -> None:
            nonlocal drafted
            with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
                if not drafted:  # the letters of tests that are over stay
                    reporter.ensure_newline()
                    if writer.width_of_current_line:
                        writer.line()
                if drafted or not stays:
                    reporter.rewrite(text, erase=True)
                else:
                    writer.write(text)
                if stays:
                    writer.line()
                drafted = not stays

        def draft(text: str) -> None:
            show(text, stays=False)

        return Progress(lambda text: show(text, stays=True), draft if reporter.isatty else None)

    def required(self, spec: EngineSpec, *, alone: bool = False) -> bool:
        """Whether --require names the engine or, unless it has to be named `alone`, its backend."""
        names = {spec.id} if alone else {spec.id, spec.backend}
        return bool(names & set(self.config.getoption("require")))

    def skip(self, model: str, spec: EngineSpec, reason: str) -> None:
        """Note that an engine was not measured, so that a comparison can say why."""
        self.skipped[f"{model} {spec.id}"] = reason

    def add(self, record: EngineRecord) -> EngineRecord:
        """Keep what a race says of an engine."""
        if record.weights == "untrained" and self.config.getoption("require_trained", False):
            self._refuse_untrained(record.model)
        return self._raced.setdefault(record.key, record)

    def _refuse_untrained(self, model: str) -> None:
        message = (
            f"--require-trained: {model} has untrained weights; give --weights {model}=PATH, or torchvision's cache"
        )
        if message not in [verdict.message for verdict in self.verdicts]:
            self.verdicts.append(Verdict(Outcome.REGRESSED, Reason.MISSING, message))

    def note(self, model: str, engine: str, **facts: Any) -> None:
        """Keep facts of an engine that are no part of its race: fields of its record."""
        self._facts.setdefault((model, engine), {}).update(facts)

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
        self._settled.add(node.nodeid)
        pytest.fail("\n".join(filter(None, [str(verdict), details])), pytrace=False)

    def note_skip(self, reason: str) -> None:
        """Remember why a test was skipped."""
        self._skips[reason] += 1

    def skips(self) -> list[str]:
        """Why tests were skipped, in a line; none for none."""
        absent = {told for name, why in self.skipped.items() for told in (why, f"{name.rpartition(' ')[2]}: {why}")}
        counts: Counter[str] = Counter()
        for reason, count in self._skips.items():
            counts["engines that are not there" if reason in absent else reason.partition(";")[0]] += count
        told = ", ".join(f"{reason} ({count})" for reason, count in counts.most_common())
        return [f"{counts.total()} tests skipped: {told}"] if counts else []

    def note_failure(self, report: pytest.TestReport) -> None:
        """Remember a failed test."""
        self._failed.add(report.nodeid)

    def note_mistake(self, name: str, sentence: str) -> None:
        """Remember what could not be judged for a reason that is the user's to mend: no verdict of any kind."""
        self.mistakes.setdefault(name, sentence)

    def note_unwritten(self, sentence: str) -> None:
        """Remember what could not be written or shown in the end, when the exit status is made already."""
        self.unwritten = "; ".join(filter(None, (self.unwritten, sentence)))

    def note_uncollected(self, name: str) -> None:
        """Remember what could not be collected, so that nobody knows which tests it has."""
        self._uncollected = f"{name} cannot be collected"
        self.note_mistake(name, "it cannot be collected")

    def require_collected(self, items: Collection[pytest.Item]) -> None:
        """Raises UserError where a comparison has no tests that were left out one by one: then nothing is missing."""
        if self.baseline and not items and not self.deselected and not self._uncollected:
            raise UserError("--benchmark-compare: no test was collected; name bench/, and leave --ignore and -o out")

    def note_plan(self, items: Iterable[pytest.Item]) -> None:
        """Remember which tests are to be run, and on what."""
        for item in items:
            given = getattr(item, "callspec", None)
            params = given.params if given is not None else {}
            self._planned[item.nodeid] = {name: str(getattr(each, "id", each)) for name, each in params.items()}

    def note_begun(self, nodeid: str) -> None:
        """Remember that a test was run."""
        self._begun.add(nodeid)

    def _kept_from(self, key: Key) -> str:
        """What kept an engine from being measured that is nothing of its own: a mistake, or the end of the run; ""
        where it is its own that it is missing."""
        model, engine, batch = key
        if f"{model} {engine}" in self.skipped:
            return ""
        own = [
            nodeid
            for nodeid, given in self._planned.items()
            if engine in given.values()
            and given.get("workbench", model) == model
            and given.get("batch_size", str(batch)) == str(batch)
        ]
        if self._broken & set(own):
            return ""
        found = [self.mistakes[nodeid] for nodeid in own if nodeid in self.mistakes]
        if self.cut_off and set(own) - self._begun:
            found.append(self.cut_off)
        if not own and self._uncollected:
            found.append(self._uncollected)
        return found[0] if found else ""

    @property
    def _broken(self) -> set[str]:
        """Tests that failed without a verdict and without a sentence for the user."""
        return self._failed - self._settled - self.mistakes.keys()

    def report(self) -> Report | None:
        """This run against the baseline, or None without one; final once the tests are over."""
        if self.baseline and self._report is None:
            report = compare_sessions(self.baseline, [self.as_session()], self.settings.expectations)
            missing = dict(report.missing)
            for key, verdict in report.missing.items():
                if verdict.outcome is Outcome.REGRESSED and (why := self._kept_from(key)):
                    missing[key] = Verdict(Outcome.INVALID, Reason.NO_RECORDS, f"not measured: {why}")
            problems = dict(report.problems)
            if partial := self.partial():
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
        return found if alone else lenient(found)

    def _others(self, comparison: Comparison) -> int:
        """How many verdicts the report will hold on other engines, of which nothing may be known yet."""
        return (len(self.baseline[0].engines) - 1) * len(comparison.changes)

    def is_open(self, record: EngineRecord) -> bool:
        """Whether more processes of this engine may decide something against the baseline."""
        comparison = self.comparison(record)
        if comparison is None:
            return False
        family = len(comparison.changes) + self._others(comparison)
        return any(more_may_decide(verdict, family) for verdict in comparison.verdicts)

    def as_session(self) -> SessionRecord:
        """What has been measured so far, as a saved session has it; its own failures are told by its tests."""
        records = {key: replace(record, verdicts=()) for key, record in self.records.items()}
        return SessionRecord(Path("this run"), "", self.stack, records, dict(self.skipped), ())

    def page(self) -> Page:
        """All that is to be read of this run; with photos where it is for --html, since those take a second."""
        report, mine = self.report(), self.as_session()
        photos: Mapping[str, Photos] = shipped_photos() if self.config.getoption("html") else {}
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
            cut_off=self.cut_off,
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
            self._raced or self.skipped or self.verdicts or self.baseline or self.mistakes or self.unsaved
        )

    def unfinished(self) -> list[Path]:
        """Where the samples are that this run's finished processes measured, until it is over."""
        if not self.settings.processes:
            return []
        files = [unfinished_file(self.settings, model) for model in self.settings.models]
        return [path for path in files if path.is_file()]

    def unfit(self) -> list[str]:
        """Why this run must not become a baseline; empty if it may."""
        report = self.report()
        decided = [*self.verdicts, *(report.verdicts() if report else [])]
        bad = [d.message for d in decided if d.outcome in {Outcome.REGRESSED, Outcome.INVALID}]
        return bad + [f"{nodeid} failed" for nodeid in sorted(self._broken)]

    def open(self) -> list[str]:
        """What this run could not tell, on its own floors or against its baseline."""
        named = run_verdicts(list(self.records.values()), self.verdicts, self.report())
        told = [(name, verdict) for name, verdict in named if verdict.outcome is Outcome.INCONCLUSIVE]
        return [f"{name}: {verdict}" if name else str(verdict) for name, verdict in dict.fromkeys(told)]

    def partial(self) -> list[str]:
        """Why this run did not judge all that a whole one would; empty if it did."""
        chosen = [argument for argument in self.config.args if "::" in argument or argument.endswith(".py")]
        return [
            *([self.cut_off] if self.cut_off else []),
            *([f"{self.deselected} tests were deselected"] if self.deselected else []),
            *(["--benchmark-only left the answers out"] if self.config.getoption("benchmark_only", False) else []),
            *([f"only {', '.join(chosen)} was run"] if chosen else []),
            *self._left_out(),
            *(f"{name}: {sentence}" for name, sentence in self.mistakes.items()),
        ]

    def _left_out(self) -> list[str]:
        """Test functions beside those that were collected, which were not."""
        missing = sorted(tests_beside(self.collected) - self.collected)
        names = [f"{path.name}::{name}" for path, name in missing]
        more = f" and {len(names) - LEFT_OUT_SHOWN} more" if len(names) > LEFT_OUT_SHOWN else ""
        return [f"{', '.join(names[:LEFT_OUT_SHOWN])}{more} did not run"] if names else []

    def exit_status(self, status: int) -> int:
        """The exit status of the run, given pytest's own: over every verdict that the report shows."""
        if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}:
            return status
        report = self.report()
        compared = report.verdicts() if report else []
        if status == pytest.ExitCode.NO_TESTS_COLLECTED and not compared and not self.unsaved:
            return status
        if self._broken:
            return int(pytest.ExitCode.TESTS_FAILED)
        decided = exit_status(verdict.outcome for verdict in [*self.verdicts, *compared])
        # What could not be judged hides no regression of what was, and is none itself; nor does what was not saved.
        mistaken = (self.mistakes and decided != EXIT_REGRESSED) or (
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


# Names in one line of what did not run.
LEFT_OUT_SHOWN = 3


GATE = pytest.StashKey[Gate]()


def gate_of(config: pytest.Config) -> Gate:
    """The session's gate."""
    return config.stash[GATE]
