"""The pytest plugin: options, the replay into pytest-benchmark, baselines, the closing table and the exit status."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from trtgate.baseline import find_baseline
from trtgate.blog import BlogRow
from trtgate.compare import Comparison, Report, compare_records, compare_sessions, require_usable, samples_of
from trtgate.engines.base import EngineSpec
from trtgate.errors import UserError
from trtgate.files import require_writable
from trtgate.options import add_options, read_settings
from trtgate.processes import orderly_endings
from trtgate.progress import SILENT, Progress
from trtgate.records import KEY, SCHEMA, EngineRecord, SessionRecord, read_session, to_json
from trtgate.report import github, html, markdown, terminal
from trtgate.report.gallery import Photos
from trtgate.report.page import Page
from trtgate.report.pages import run_decisions, run_page
from trtgate.stack import stack
from trtgate.thumbnails import shipped_photos
from trtgate.verdict.decision import Decision, Reason, Verdict
from trtgate.verdict.metrics import METRICS
from trtgate.verdict.policy import GOOD, exit_status
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
        self._raced: dict[tuple[str, str, int], EngineRecord] = {}
        self._facts: dict[tuple[str, str], dict[str, Any]] = {}
        self._decided: dict[tuple[str, str, int | None], list[Decision]] = {}
        self.skipped: dict[str, str] = {}
        self.decisions: list[Decision] = []
        self.blog: list[BlogRow] = []
        self.baseline: list[SessionRecord] = []
        self.deselected = 0
        self.cut_off = ""
        self._settled: set[str] = set()
        self._failed: set[str] = set()
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
                self._settings = replace(found, fresh=kept)
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

        def line(text: str) -> None:
            with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
                if reporter.isatty:
                    reporter.rewrite(text, erase=True)
                reporter.ensure_newline()
                if not reporter.isatty:
                    reporter.write_line(text)

        def draft(text: str) -> None:
            with capture.global_and_fixture_disabled() if capture else contextlib.nullcontext():
                reporter.rewrite(text, erase=True)

        return Progress(line, draft if reporter.isatty else None)

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
        if message not in [decision.message for decision in self.decisions]:
            self.decisions.append(Decision(Verdict.REGRESSED, Reason.MISSING, message))

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
        return replace(record, **facts, decisions=tuple(decision for some in decided for decision in some))

    def settle(
        self,
        node: pytest.Item,
        decision: Decision,
        model: str,
        engine: str,
        batch: int | None = None,
        details: str = "",
    ) -> None:
        """Fail the test unless the decision is good; the exit status will say which kind of failure it was."""
        self.decisions.append(decision)
        self._decided.setdefault((model, engine, batch), []).append(decision)
        self.show(node, decision, details)

    def show(self, node: pytest.Item, decision: Decision, details: str = "") -> None:
        """Fail the test unless the decision is good. It counts where it was made: in the report on the baseline."""
        if decision.verdict in GOOD:
            return
        self._settled.add(node.nodeid)
        pytest.fail("\n".join(filter(None, [str(decision), details])), pytrace=False)

    def note_failure(self, report: pytest.TestReport) -> None:
        """Remember a failed test."""
        self._failed.add(report.nodeid)

    def report(self) -> Report | None:
        """This run against the baseline, or None without one; final once the tests are over."""
        if self.baseline and self._report is None:
            self._report = compare_sessions(self.baseline, [self.as_session()], self.settings.expectations)
        return self._report

    def comparison(self, record: EngineRecord) -> Comparison | None:
        """This engine against the baseline, or None where the baseline has no such engine."""
        # What it answers is not known before all tests are over; the report has it.
        mine = [[without_answers(each.engines[record.key]) for each in self.baseline if record.key in each.engines]]
        if not mine[0]:
            return None
        mine.append([without_answers(self.records[record.key])])
        old, new = ({record.key: side} for side in mine)
        return compare_records(old, new, self.settings.expectations, "sessions", {}).engines[0]

    def as_session(self) -> SessionRecord:
        """What has been measured so far, as a saved session has it; its own failures are told by its tests."""
        records = {key: replace(record, decisions=()) for key, record in self.records.items()}
        return SessionRecord(Path("this run"), "", self.stack, records, dict(self.skipped), ())

    def page(self) -> Page:
        """All that is to be read of this run; with photos where it is for --html, since those take a second."""
        report, mine = self.report(), self.as_session()
        photos: Mapping[str, Photos] = shipped_photos() if self.config.getoption("html") else {}
        return run_page(
            list(self.records.values()),
            self.decisions,
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
    def used(self) -> bool:
        """Whether this session is a gate's run at all, and not some other tests'."""
        return bool(self._raced or self.skipped or self.decisions or self.baseline)

    def unfit(self) -> list[str]:
        """Why this run must not become a baseline; empty if it may."""
        report = self.report()
        decided = [*self.decisions, *(report.decisions() if report else [])]
        bad = [d.message for d in decided if d.verdict in {Verdict.REGRESSED, Verdict.INVALID}]
        return bad + [f"{nodeid} failed" for nodeid in sorted(self._failed - self._settled)]

    def partial(self) -> list[str]:
        """Why this run did not judge all that a whole one would; empty if it did."""
        chosen = [argument for argument in self.config.args if "::" in argument or argument.endswith(".py")]
        return [
            *([self.cut_off] if self.cut_off else []),
            *([f"{self.deselected} tests were deselected"] if self.deselected else []),
            *(["--benchmark-only left the answers out"] if self.config.getoption("benchmark_only", False) else []),
            *([f"only {', '.join(chosen)} was run"] if chosen else []),
        ]

    def exit_status(self, status: int) -> int:
        """The exit status of the run, given pytest's own: over every verdict that the report shows."""
        if status not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.NO_TESTS_COLLECTED}:
            return status
        report = self.report()
        compared = report.decisions() if report else []
        if status == pytest.ExitCode.NO_TESTS_COLLECTED and not compared:
            return status
        if self._failed - self._settled:
            return int(pytest.ExitCode.TESTS_FAILED)
        return exit_status(decision.verdict for decision in [*self.decisions, *compared])


def without_answers(record: EngineRecord) -> EngineRecord:
    """A record of times and sizes alone."""
    return replace(record, agreement={}, answers={})


GATE = pytest.StashKey[Gate]()


def gate_of(config: pytest.Config) -> Gate:
    """The session's gate."""
    return config.stash[GATE]


def pytest_addoption(parser: pytest.Parser) -> None:
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
        "--blog-protocol", action="store_true", help="also measure as the blog post did that this project began with"
    )
    group.addoption("--html", type=Path, metavar="FILE", help="also write the report, with charts, as one HTML file")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("blog_protocol"):
        return
    left_out = [item for item in items if item.get_closest_marker("blog_protocol")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]  # no deselection of the user's


def pytest_deselected(items: list[pytest.Item]) -> None:
    gate_of(items[0].config).deselected += len(items)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    endings = contextlib.ExitStack()
    config.add_cleanup(endings.close)
    endings.enter_context(orderly_endings())
    gate = Gate(config)
    config.stash[GATE] = gate
    _ = gate.settings  # a wrong option is told now, not in the middle of a run
    compare = config.getoption("benchmark_compare", [])
    # Before pytest-benchmark reads its own options: it would warn about all of these and pass.
    try:
        _refuse_xdist(config)
        if config.getoption("html"):
            require_writable("--html", config.getoption("html"))
        if compare == "":
            raise UserError("--benchmark-compare= names nothing; give a name, a number or a file, or leave = out")
        if not compare:
            return
        _refuse_what_cannot_compare(config)
        files = find_baseline(Path(config.getoption("benchmark_storage").removeprefix("file://")), compare, gate.stack)
        gate.baseline = [read_session(path) for path in files]
        for session in gate.baseline:
            require_usable(session, gate.stack)
    except UserError as error:
        raise pytest.UsageError(str(error)) from error
    # Its own table then compares with the newest of exactly these files.
    config.option.benchmark_compare = str(files[-1])


def _refuse_xdist(config: pytest.Config) -> None:
    distributed = config.getoption("dist", "no") != "no" or config.getoption("numprocesses", None)
    if distributed or os.environ.get("PYTEST_XDIST_WORKER"):
        raise UserError("xdist (-n) races engines against each other and measures nothing; run without -n")


# Options with which pytest runs no test, or pytest-benchmark measures nothing, and ends with status 0.
NOTHING_DECIDED = {
    "benchmark_disable": "--benchmark-disable",
    "benchmark_skip": "--benchmark-skip",
    "collectonly": "--collect-only",
    "showfixtures": "--fixtures",
    "show_fixtures_per_test": "--fixtures-per-test",
    "markers": "--markers",
    "setupplan": "--setup-plan",  # which implies the next one
    "setuponly": "--setup-only",
}


def _refuse_what_cannot_compare(config: pytest.Config) -> None:
    for option, flag in NOTHING_DECIDED.items():
        enabled = option == "benchmark_disable" and config.getoption("benchmark_enable")
        if config.getoption(option, False) and not enabled:
            raise UserError(f"--benchmark-compare with {flag} would decide nothing; drop {flag}")


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
    }
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
    if call.excinfo is not None and isinstance(call.excinfo.value, UserError):
        report.longrepr = str(call.excinfo.value)  # the sentence is for the user; a traceback would only hide it
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed and _CURRENT:
        _CURRENT[-1].note_failure(report)


# pytest_runtest_logreport is not given the config; pytester runs sessions inside sessions.
_CURRENT: list[Gate] = []


def pytest_sessionstart(session: pytest.Session) -> None:
    _CURRENT.append(gate_of(session.config))


@pytest.hookimpl(wrapper=True, tryfirst=True, specname="pytest_sessionfinish")
def pytest_note_how_it_ended(session: pytest.Session, exitstatus: int) -> Generator[None, Any, Any]:
    # Before pytest-benchmark saves, in a wrapper of its own.
    if exitstatus not in {pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED} or session.shouldfail or session.shouldstop:
        gate_of(session.config).cut_off = "the run was cut off"
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    _CURRENT.pop()
    gate = gate_of(session.config)
    if gate.used:
        session.exitstatus = gate.exit_status(int(exitstatus))


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    gate = gate_of(config)
    if not gate.used:
        return
    colour = bool(terminalreporter.hasmarkup)
    width = max(terminal.WIDTH, config.get_terminal_writer().fullwidth)
    records, page = gate.records.values(), gate.page()
    for title, texts in terminal.sections(page, colour=colour, width=width):
        terminalreporter.section(f"trtgate: {title}" if title else "trtgate")
        for text in texts:
            terminalreporter.write_line(text)
    terminalreporter.write_line(terminal.fold(page.headline.sentence))
    for line in github.annotate(run_decisions(list(records), gate.decisions, gate.report())):
        terminalreporter.write_line(line)
    markdown.publish(markdown.render(page))
    if config.getoption("html"):
        html.write(config.getoption("html"), page)


logging.getLogger("trtgate").setLevel(logging.INFO)
