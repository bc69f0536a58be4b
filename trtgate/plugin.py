"""The pytest plugin: options, the replay into pytest-benchmark, baselines, the closing table and the exit status."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import sys
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TextIO, cast

import pytest

from trtgate.baseline import find_baseline, require_save_name
from trtgate.blog import BlogRow
from trtgate.compare import (
    Comparison,
    Report,
    compare_records,
    compare_sessions,
    lenient,
    require_own_sessions,
    require_usable,
    samples_of,
)
from trtgate.console import CLOSED, Steady
from trtgate.engines.base import EngineRefused, EngineSpec
from trtgate.errors import UserError, printable
from trtgate.options import add_options, read_settings
from trtgate.outputs import kept_elsewhere, require_outputs, write_output
from trtgate.processes import orderly_endings
from trtgate.progress import SILENT, Progress
from trtgate.records import KEY, SCHEMA, EngineRecord, Key, SessionRecord, read_session, to_json
from trtgate.remote import WorkerError
from trtgate.report import github, html, markdown, terminal
from trtgate.report.gallery import Photos
from trtgate.report.page import Page
from trtgate.report.pages import run_page, run_verdicts
from trtgate.spread import PROCESSES, unfinished_file
from trtgate.stack import stack
from trtgate.suite import Test, tests_beside
from trtgate.thumbnails import shipped_photos
from trtgate.verdict.metrics import METRICS
from trtgate.verdict.outcome import Outcome, Reason, Verdict
from trtgate.verdict.policy import EXIT_INCONCLUSIVE, EXIT_PASS, EXIT_REGRESSED, GOOD, exit_status, more_may_decide
from trtgate.workbench import Settings


class ReplayTimer:
    """A clock for pytest-benchmark that tells the times of a race that has already been run.

    pytest-benchmark reads the clock before and after each of its rounds; between those two reads this one advances by
    the next sample. So its table, its JSON and its --benchmark-compare show the interleaved measurement, through
    nothing but the `timer` of the public `benchmark` marker.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self._samples: Iterator[float] = iter(())
        self._running = False

    def load(self, samples: tuple[float, ...]) -> None:
        """The seconds that the next rounds will seem to take."""
        self._samples = iter(samples)
        self._running = False

    def __call__(self) -> float:
        if self._running:
            self._now += next(self._samples)
        self._running = not self._running
        return self._now


REPLAY = ReplayTimer()


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
        self.deselected = 0
        self.collected: set[Test] = set()
        self.mistakes: dict[str, str] = {}
        self.document: dict[str, Any] | None = None
        self.cut_off = ""
        self.unsaved = ""
        self.unwritten = ""
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

    def note_uncollected(self, name: str) -> None:
        """Remember what could not be collected, so that nobody knows which tests it has."""
        self._uncollected = f"{name} cannot be collected"
        self.note_mistake(name, "it cannot be collected")

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
            self._report = replace(report, missing=missing)
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
        alone = all(key[1] == record.engine for each in self.baseline for key in each.engines)
        return found if alone else lenient(found)

    def is_open(self, record: EngineRecord) -> bool:
        """Whether more processes of this engine may decide something against the baseline."""
        comparison = self.comparison(record)
        if comparison is None:
            return False
        # The report corrects for all its verdicts; of those of other models nothing is known yet.
        family = sum(len(each.engines) for each in self.baseline[:1]) * len(comparison.changes)
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
        )

    @property
    def of_no_engine(self) -> list[Verdict]:
        """Decisions that no test and no row of a table shows."""
        shown = [verdict for some in self._decided.values() for verdict in some]
        return [verdict for verdict in self.verdicts if verdict not in shown]

    @property
    def used(self) -> bool:
        """Whether this session is a gate's run at all, and not some other tests'."""
        return bool(self._raced or self.skipped or self.verdicts or self.baseline or self.mistakes or self.unsaved)

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


def without_answers(record: EngineRecord) -> EngineRecord:
    """A record of times and sizes alone."""
    return replace(record, agreement={}, answers={}, scores={})


# Names in one line of what did not run.
LEFT_OUT_SHOWN = 3
# What the system refuses because of its own state: the user's to mend, as a wrong option is.
ENVIRONMENT = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS})


def mistake_in(error: BaseException) -> str | None:
    """The sentence of an error that is the user's to mend; None for any other."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError) and error.errno in ENVIRONMENT:
        where = f" ({error.filename})" if error.filename else ""
        return printable(f"{error.strerror}{where}; make room there, or name another folder")
    return None


GATE = pytest.StashKey[Gate]()


def gate_of(config: pytest.Config) -> Gate:
    """The session's gate."""
    return config.stash[GATE]


# What stands for a standard output that is closed (`>&-`) until that is told: pytest itself needs one.
NOWHERE = io.StringIO()


def pytest_addoption(parser: pytest.Parser) -> None:
    if sys.stdout is None:
        sys.stdout = NOWHERE
    group = parser.getgroup("trtgate", "trtgate: gating inference engines")
    add_options(group.addoption)
    group.addoption(
        "--require",
        action="append",
        default=[],
        metavar="ENGINE",
        help="engine or backend whose absence is a failure, not a skip; repeats",
    )
    group.addoption(
        "--require-trained",
        action="store_true",
        help="untrained weights, whose answers nobody can judge, are a failure",
    )
    group.addoption(
        "--processes",
        type=int,
        metavar="N",
        help="spread each model's race over N fresh processes (default in a run that is saved or compared: 8, on a "
        "GPU 6; else the run's own process)",
    )
    group.addoption(
        "--blog-protocol", action="store_true", help="also measure as the blog post did that this project began with"
    )
    group.addoption("--html", type=Path, metavar="FILE", help="also write the report, with charts, as one HTML file")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("blog_protocol"):
        return
    left_out = [item for item in items if item.get_closest_marker("blog_protocol")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]  # no deselection of the user's
        gate_of(config).collected |= set(map(test_of, left_out))


def pytest_collection_finish(session: pytest.Session) -> None:
    gate_of(session.config).collected |= set(map(test_of, session.items))
    gate_of(session.config).note_plan(session.items)
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and any("workbench" in getattr(item, "fixturenames", ()) for item in session.items):
        # A file's name is in the way where a line says what is being done; under -v each test has its own.
        reporter.showfspath = False


def test_of(item: pytest.Item) -> Test:
    """The test function that an item is a case of."""
    return item.path, getattr(item, "originalname", None) or item.name


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items:  # --last-failed tells of none too
        gate_of(items[0].config).deselected += len(items)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    endings = contextlib.ExitStack()
    config.add_cleanup(endings.close)
    endings.enter_context(orderly_endings())
    if sys.stdout is NOWHERE:
        raise pytest.UsageError(CLOSED)
    gate = Gate(config)
    config.stash[GATE] = gate
    _ = gate.settings  # a wrong option is told now, not in the middle of a run
    compare = config.getoption("benchmark_compare", [])
    # Before pytest-benchmark reads its own options: it would warn about all of these and pass.
    try:
        _refuse_xdist(config)
        require_save_name(config.getoption("benchmark_save", None) or "none")
        require_outputs({"--html": config.getoption("html")})
        _require_writable_json(config.getoption("benchmark_json", None))
        if compare == "":
            raise UserError("--benchmark-compare= names nothing; give a name, a number or a file, or leave = out")
        _refuse_what_decides_nothing(config, "--benchmark-compare" if compare else saving(config))
        if not compare:
            return
        files = find_baseline(Path(config.getoption("benchmark_storage").removeprefix("file://")), compare, gate.stack)
        gate.baseline = [read_session(path) for path in files]
        require_own_sessions(gate.baseline, ())
        for session in gate.baseline:
            require_usable(session, gate.stack)
    except UserError as error:
        raise pytest.UsageError(str(error)) from error
    # Its own table then compares with the newest of exactly these files.
    config.option.benchmark_compare = str(files[-1])


def _require_writable_json(path: object) -> None:
    # pytest-benchmark's own option: it overwrites what is there, after everything has been measured; before 5.3 it
    # has opened the file by now.
    if isinstance(path, Path) and (path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK)):
        raise UserError(
            f"--benchmark-json {path} cannot be written; name a file in a folder that is there and writable"
        )


def _refuse_xdist(config: pytest.Config) -> None:
    distributed = config.getoption("dist", "no") != "no" or config.getoption("numprocesses", None)
    if (distributed or os.environ.get("PYTEST_XDIST_WORKER")) and not _races_nothing(config):
        raise UserError("xdist (-n) races engines against each other and measures nothing; run without -n")


def _races_nothing(config: pytest.Config) -> bool:
    """Whether all that is asked for are this checkout's own tests."""
    tests = (config.rootpath / "tests").resolve()
    asked = (config.invocation_params.dir / each.partition("::")[0] for each in config.args)
    return all(path.resolve().is_relative_to(tests) for path in asked)


# Options with which pytest runs no test, or pytest-benchmark measures nothing, and ends with status 0.
NOTHING_DECIDED = {
    "benchmark_disable": "--benchmark-disable",
    "benchmark_skip": "--benchmark-skip",
    "collectonly": "--collect-only",
    "cacheshow": "--cache-show",
    "showfixtures": "--fixtures",
    "show_fixtures_per_test": "--fixtures-per-test",
    "markers": "--markers",
    "setupplan": "--setup-plan",  # which implies the next one
    "setuponly": "--setup-only",
}


# Options with which a run is to be saved.
SAVING = {
    "benchmark_save": "--benchmark-save",
    "benchmark_autosave": "--benchmark-autosave",
    "benchmark_json": "--benchmark-json",
}


def saving(config: pytest.Config) -> str:
    """The option with which this run is to be saved; "" for none."""
    return next((flag for option, flag in SAVING.items() if config.getoption(option, None)), "")


def _refuse_what_decides_nothing(config: pytest.Config, asked: str) -> None:
    """Raises UserError for an option with which no session can come of what was `asked` for, if anything was."""
    for option, flag in NOTHING_DECIDED.items() if asked else ():
        enabled = option == "benchmark_disable" and config.getoption("benchmark_enable")
        if config.getoption(option, False) and not enabled:
            what = "decide" if asked == "--benchmark-compare" else "save"
            raise UserError(f"{asked} with {flag} would {what} nothing; drop {flag}")


@pytest.fixture(scope="session")
def gate(pytestconfig: pytest.Config) -> Gate:
    """What this session measures and decides."""
    return gate_of(pytestconfig)


def replay(benchmark: Any, record: EngineRecord) -> None:
    """Show a record's rounds to pytest-benchmark; the test must be marked `benchmark(timer=REPLAY)`.

    Fails the test where benchmarks are disabled: under xdist nothing was measured undisturbed.
    """
    if not benchmark.enabled:
        pytest.fail("benchmarks are disabled (xdist or --benchmark-disable): nothing can be gated", pytrace=False)
    if not record.rounds:
        pytest.skip("the race has no round that counted")
    REPLAY.load(record.rounds)
    benchmark.extra_info[KEY] = {"model": record.model, "engine": record.engine, "batch": record.batch}
    benchmark.pedantic(_nothing, rounds=len(record.rounds), iterations=1)


def properties(record: EngineRecord) -> list[tuple[str, object]]:
    """Every metric of an engine by name, in the units of the JSON."""
    values = [(metric.name, record.value(metric.name)) for metric in METRICS]
    return [(f"trtgate.{name}", value) for name, value in values if value is not None]


def _nothing() -> None:
    return None


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict[str, Any]) -> None:
    machine_info[KEY] = dict(gate_of(config).stack)


def pytest_benchmark_update_json(config: pytest.Config, output_json: dict[str, Any]) -> None:
    gate = gate_of(config)
    if not gate.used:
        return
    records = gate.records
    for entry in output_json["benchmarks"]:
        key = entry["extra_info"].get(KEY)
        if key:
            entry["extra_info"][KEY] = to_json(records[key["model"], key["engine"], key["batch"]])
    output_json[KEY] = {
        "schema": SCHEMA,
        "skipped": gate.skipped,
        "unfit": gate.unfit(),
        "partial": gate.partial(),
        "open": gate.open(),
    }
    if files := gate.settings.files:
        output_json[KEY]["limits"] = {name: dict(model.limits) for name, model in files.items() if model.limits}
        output_json[KEY]["own"] = [name for name, model in files.items() if model.file is not None]
    gate.document = output_json
    if gate.blog:
        output_json[KEY]["blog"] = [{**asdict(row), "speedup": row.speedup} for row in gate.blog]


@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_compare_machine_info(
    config: pytest.Config, machine_info: dict[str, Any], compared_benchmark: dict[str, Any]
) -> None:
    # pytest-benchmark would now print both machines in full, and fails where the storage is outside the working
    # directory. What changed in the stack is in our own report; so it is shown two equal ones.
    if gate_of(config).baseline:
        machine_info.clear()
        machine_info.update(compared_benchmark["machine_info"])


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Generator[None, Any, Any]:
    found = getattr(item, "funcargs", {})
    if call.when == "call" and "benchmark" in found and isinstance(found.get("record"), EngineRecord):
        item.user_properties += properties(found["record"])  # those of --junit-xml
    report = yield
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, WorkerError | EngineRefused):
        report.longrepr = printable(str(error))
    sentence = mistake_in(error) if error is not None else None
    if sentence is not None:
        report.longrepr = sentence  # it is for the user; a traceback would only hide it
        gate_of(item.config).note_mistake(report.nodeid, sentence)
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed and _CURRENT:
        _CURRENT[-1].note_uncollected(report.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _CURRENT:
        _CURRENT[-1].note_begun(report.nodeid)
    if report.failed and _CURRENT:
        _CURRENT[-1].note_failure(report)
    if report.skipped and _CURRENT and isinstance(report.longrepr, tuple):
        _CURRENT[-1].note_skip(report.longrepr[2].removeprefix("Skipped: "))


# pytest_runtest_logreport is not given the config; pytester runs sessions inside sessions.
_CURRENT: list[Gate] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    gate = gate_of(session.config)
    _CURRENT.append(gate)
    if session.config.pluginmanager.hasplugin("terminalreporter"):
        writer = session.config.get_terminal_writer()
        gate.terminal = Steady(writer._file)
        writer._file = cast(TextIO, gate.terminal)


@pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_sessionfinish")
def pytest_note_how_it_ended(session: pytest.Session, exitstatus: int) -> Generator[None, Any, Any]:
    # Before pytest-benchmark saves, in a wrapper of its own.
    gate = gate_of(session.config)
    if exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED} or session.shouldfail or session.shouldstop:
        gate.cut_off = "the run was cut off"
    try:
        result = yield
    except OSError as error:
        if not gate.used:
            raise
        # The tables have not been shown yet.
        if saving(session.config):
            name = f"0001_{session.config.getoption('benchmark_save', None) or 'run'}.json"
            kept = kept_elsewhere(name, json.dumps(gate.document, default=str))
            gate.note_mistake("the session", f"it could not be saved ({error.strerror}); {kept}")
        else:
            gate.note_mistake(str(error.filename or "an output"), f"it could not be written ({error.strerror})")
        pytest_sessionfinish(session, exitstatus)
        config = session.config
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            config.hook.pytest_terminal_summary(terminalreporter=reporter, exitstatus=session.exitstatus, config=config)
        result = None
    if gate.terminal is None and gate.used:  # there was no summary, which writes it
        _write_page(gate, gate.page())
    if gate.unwritten:
        print(f"trtgate: {gate.unwritten}", file=sys.stderr)
        session.exitstatus = gate.exit_status(int(exitstatus))
    if gate.terminal is not None:
        session.exitstatus = gate.terminal.status(int(session.exitstatus), int(pytest.ExitCode.USAGE_ERROR))
    return result


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    _CURRENT.pop()
    gate = gate_of(session.config)
    asked = saving(session.config)
    stopped = gate.cut_off and exitstatus != pytest.ExitCode.NO_TESTS_COLLECTED
    if asked and gate.document is None and not stopped and not gate.mistakes:
        gate.unsaved = f"{asked}: nothing was saved, for no test that measures ran; leave -k, -m and their like out"
    if gate.used:
        session.exitstatus = gate.exit_status(int(exitstatus))
    if not gate.cut_off:
        for path in gate.unfinished():
            path.unlink()


# How the lines begin that pytest-benchmark puts under its table, whatever columns it has.
LEGEND = ("Legend:", "  Outliers: ", "  OPS: ")


@pytest.hookimpl(wrapper=True, specname="pytest_terminal_summary")
def pytest_leave_out_legend(terminalreporter: Any, config: pytest.Config) -> Generator[None, None, None]:
    columns = config.getoption("benchmark_columns", None)
    if columns is None or {"outliers", "ops"} & set(columns):
        return (yield)
    write = terminalreporter.write_line

    def write_line(line: str, **markup: bool) -> None:
        if not line.startswith(LEGEND):
            write(line, **markup)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminalreporter, "write_line", write_line)
        return (yield)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    gate = gate_of(config)
    if not gate.used:
        return
    colour = bool(terminalreporter.hasmarkup)
    width = max(terminal.WIDTH, config.get_terminal_writer().fullwidth)
    records, page = gate.records.values(), gate.page()
    if gate.of_no_engine:
        terminalreporter.section("trtgate: of no engine")
        for verdict in gate.of_no_engine:
            terminalreporter.write_line(str(verdict))
    for title, texts in terminal.sections(page, colour=colour, width=width):
        terminalreporter.section(f"trtgate: {title}" if title else "trtgate")
        for text in texts:
            terminalreporter.write_line(text)
    closing = [*gate.skips(), *([gate.unsaved] if gate.unsaved else [])]
    closing += [f"this was not a whole run and can be no baseline: {why}" for why in gate.partial()]
    if gate.cut_off and (kept := gate.unfinished()):
        closing.append(f"what the finished processes measured is in {', '.join(map(str, kept))}")
    if records or gate.verdicts or gate.report() is not None or not gate.mistakes:
        closing.append(page.headline.sentence)
    for line in closing:
        terminalreporter.write_line(terminal.fold(line))
    for line in github.annotate(run_verdicts(list(records), gate.verdicts, gate.report())):
        terminalreporter.write_line(line)
    _write_page(gate, page)


def _write_page(gate: Gate, page: Page) -> None:
    """The page in the files that are not a terminal's; it is a mistake where that fails."""
    markdown.publish(markdown.render(page))
    path = gate.config.getoption("html")
    if path:
        try:
            write_output("--html", path, html.render(page))
        except UserError as error:
            gate.unwritten = str(error)


logging.getLogger("trtgate").setLevel(logging.INFO)
