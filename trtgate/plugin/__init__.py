"""The pytest plugin: its options and hooks; the closing tables."""

from __future__ import annotations

import contextlib
import errno
import io
import json
import logging
import os
import shlex
import sys
from collections.abc import Generator
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO, cast

import pytest

from trtgate.runtimes import broken_runtime, importing

with importing():
    from trtgate.baseline import find_baseline, require_save_name
    from trtgate.compare import (
        require_own_sessions,
        require_usable,
    )
    from trtgate.console import CLOSED, Steady
    from trtgate.kinds import EngineRefused, UserError, printable
    from trtgate.measure.remote import WorkerError
    from trtgate.models.onnx_file import NotRun
    from trtgate.options import add_options
    from trtgate.outputs import kept_elsewhere, require_outputs, write_output
    from trtgate.plugin.gate import GATE, Gate, gate_of, usage_errors
    from trtgate.plugin.lost import lost_reference
    from trtgate.plugin.refusals import (
        SAVING,
        _refuse_overwritten_baseline,
        _refuse_timer,
        _refuse_what_decides_nothing,
        _refuse_what_lacks,
        _refuse_what_spoils,
        _refuse_xdist,
        _require_storage,
        _require_writable_json,
        _require_writable_outputs,
        saving,
        storage_of,
    )
    from trtgate.plugin.replay import properties
    from trtgate.plugin.storage import saved_whole
    from trtgate.processes import orderly_endings
    from trtgate.records import KEY, SCHEMA, EngineRecord, read_session, to_json, verdict_to_json
    from trtgate.report import github, html, markdown, terminal
    from trtgate.report.page import Page
    from trtgate.report.pages import run_verdicts
    from trtgate.suite import Test
    from trtgate.verdict.outcome import Verdict
    from trtgate.verdict.policy import exit_status

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


# What stands for a standard output that is closed (`>&-`) until that is told: pytest itself needs one.
NOWHERE = io.StringIO()


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    if sys.stdout is None:
        sys.stdout = NOWHERE
    config = pluginmanager.get_plugin("pytestconfig")
    with usage_errors():
        given = config.invocation_params.args if config is not None else []
        _refuse_timer([*shlex.split(os.environ.get("PYTEST_ADDOPTS", "")), *map(str, given)])
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
        gate_of(config).course.collected |= set(map(test_of, left_out))


def pytest_collection_finish(session: pytest.Session) -> None:
    gate = gate_of(session.config)
    gate.course.collected |= set(map(test_of, session.items))
    gate.course.note_plan(session.items)
    try:
        _refuse_what_lacks(session.config, session.items)
        if gate.baseline:
            gate.course.require_collected(session.items)
    except UserError as error:
        gate.refused = True
        raise pytest.UsageError(str(error)) from error
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None and any("workbench" in getattr(item, "fixturenames", ()) for item in session.items):
        # A file's name is in the way where a line says what is being done; under -v each test has its own.
        reporter.showfspath = False


def test_of(item: pytest.Item) -> Test:
    """The test function that an item is a case of."""
    return item.path, getattr(item, "originalname", None) or item.name


def pytest_deselected(items: list[pytest.Item]) -> None:
    if items:  # --last-failed tells of none too
        gate_of(items[0].config).course.deselected += len(items)


def _asked(config: pytest.Config) -> str:
    """The option that a verdict or a session is expected of; "" where none is."""
    found = "--benchmark-compare" if config.getoption("benchmark_compare", []) else saving(config)
    if found or not config.getoption("help", False):
        return found
    # What stands behind --help is not parsed.
    given = [str(argument).partition("=")[0] for argument in config.invocation_params.args]
    return next((flag for flag in ("--benchmark-compare", *SAVING.values()) if flag in given), "")


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    # --version is answered before anything is configured.
    with usage_errors():
        _refuse_what_decides_nothing(config, _asked(config))


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    endings = contextlib.ExitStack()
    config.add_cleanup(endings.close)
    endings.enter_context(orderly_endings())
    if sys.stdout is NOWHERE:
        raise pytest.UsageError(CLOSED)
    gate = Gate(config)
    config.stash[GATE] = gate
    try:
        _ = gate.settings  # a wrong option is told now, not in the middle of a run
    except Exception as error:
        told = _lost(config, error.__cause__) if isinstance(error, pytest.UsageError) else broken_runtime(error)
        if told is None:
            raise
        pytest.exit(str(told), exit_status([told.outcome]))
    compare = config.getoption("benchmark_compare", [])
    # Before pytest-benchmark reads its own options: it would warn about all of these and pass.
    with usage_errors():
        _refuse_xdist(config)
        _refuse_what_spoils(config)
        require_save_name(config.getoption("benchmark_save", None) or "none")
        require_outputs({"--html": config.getoption("html")})
        _require_writable_json(config.getoption("benchmark_json", None))
        _require_writable_outputs(config)
        _require_storage(config)
        if compare == "":
            raise UserError("--benchmark-compare= names nothing; give a name, a number or a file, or leave = out")
        _refuse_what_decides_nothing(config, _asked(config))
        if not compare:
            return
        files, gate.stepped_over = find_baseline(storage_of(config), compare, gate.stack)
        _refuse_overwritten_baseline(config, files)
        gate.baseline = [read_session(path) for path in files]
        require_own_sessions(gate.baseline, ())
        for session in gate.baseline:
            require_usable(session, gate.stack)
    # Its own table then compares with the newest of exactly these files.
    config.option.benchmark_compare = str(files[-1])


def _lost(config: pytest.Config, cause: BaseException | None) -> Verdict | None:
    """What a baseline says of a mistake in the options that may be none."""
    with usage_errors():
        return lost_reference(config, cause) if isinstance(cause, NotRun) else None


@pytest.fixture(scope="session")
def gate(pytestconfig: pytest.Config) -> Gate:
    """What this session measures and decides."""
    return gate_of(pytestconfig)


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
    unfit = gate.unfit()
    output_json[KEY] = {
        "schema": SCHEMA,
        "skipped": gate.skipped,
        "unfit": [verdict.message for verdict in unfit],
        "decisions": [verdict_to_json(verdict) for verdict in unfit],
        "partial": gate.course.partial(),
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
    if report.skipped and (hasattr(report, "wasxfail") or any(map(item.get_closest_marker, ("skip", "skipif")))):
        gate_of(item.config).course.note_excused(report.nodeid)
    error = call.excinfo.value if call.excinfo is not None else None
    if isinstance(error, WorkerError | EngineRefused):
        report.longrepr = printable(str(error))
    verdict = broken_runtime(error) if error is not None and report.failed else None
    if verdict is not None:
        report.longrepr = str(verdict)
        gate_of(item.config).note_broken_by(report.nodeid, verdict)
    sentence = mistake_in(error) if error is not None else None
    if sentence is not None:
        report.longrepr = sentence  # it is for the user; a traceback would only hide it
        gate_of(item.config).course.note_mistake(report.nodeid, sentence)
    return report


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed and _CURRENT:
        _CURRENT[-1].course.note_uncollected(report.nodeid)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _CURRENT:
        _CURRENT[-1].course.note_begun(report.nodeid)
    if report.failed and _CURRENT:
        _CURRENT[-1].course.note_failure(report)
    if report.skipped and _CURRENT and isinstance(report.longrepr, tuple):
        _CURRENT[-1].course.note_skip(report.longrepr[2].removeprefix("Skipped: "))


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
        gate.course.cut_off = "the run was cut off"
    try:
        with saved_whole():
            result = yield
    except KeyboardInterrupt as error:
        # The tests are over, so pytest would show a traceback.
        told = "while the run was being saved or shown, so its status is no verdict; run it again"
        pytest.exit(f"{str(error) or 'interrupted'} {told}", int(pytest.ExitCode.INTERRUPTED))
    except Exception as error:
        if not gate.used or gate.ended:
            raise
        # The tables have not been shown yet.
        gate.course.note_mistake(*_unfinished(gate, error))
        pytest_sessionfinish(session, exitstatus)
        config = session.config
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            config.hook.pytest_terminal_summary(terminalreporter=reporter, exitstatus=session.exitstatus, config=config)
        result = None
    if gate.terminal is None and gate.used:  # there was no summary, which writes it
        _write_page(gate, gate.page())
        markdown.publish(markdown.render(gate.page()))
    if gate.unwritten:
        print(f"trtgate: {gate.unwritten}", file=sys.stderr)
        session.exitstatus = gate.exit_status(int(exitstatus))
    if gate.terminal is not None:
        session.exitstatus = gate.terminal.status(int(session.exitstatus), int(pytest.ExitCode.USAGE_ERROR))
    return result


def _unfinished(gate: Gate, error: Exception) -> tuple[str, str]:
    """What an error kept from being saved or written at the end of a session, and a sentence on it."""
    told = error.strerror if isinstance(error, OSError) and error.strerror else f"{type(error).__name__}: {error}"
    asked = saving(gate.config)
    if not asked and isinstance(error, OSError):
        return str(error.filename or "an output"), f"it could not be written ({told})"
    if not asked or gate.document is None:
        return "pytest-benchmark", f"it could not end ({told}); leave its options out"
    name = f"0001_{gate.config.getoption('benchmark_save', None) or 'run'}.json"
    kept = kept_elsewhere(name, json.dumps(gate.document, default=str))
    if isinstance(error, OSError):
        return "the session", f"it could not be saved ({told}); {kept}"
    return "pytest-benchmark", f"it could not end, and may have saved nothing ({told}); {kept}"


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    _CURRENT.pop()
    gate = gate_of(session.config)
    gate.ended = True
    asked = saving(session.config)
    stopped = gate.course.cut_off and exitstatus != pytest.ExitCode.NO_TESTS_COLLECTED
    if asked and gate.document is None and not stopped and not gate.course.mistakes:
        gate.unsaved = f"{asked}: nothing was saved, for no test that measures ran; leave -k, -m and their like out"
    if gate.used:
        session.exitstatus = gate.exit_status(int(exitstatus))
    if not gate.course.cut_off:
        for path in gate.unfinished():
            path.unlink(missing_ok=True)  # another run with this plan cache may end just now


# How the lines begin that pytest-benchmark puts under its table, whatever columns it has.
LEGEND = ("Legend:", "  Outliers: ", "  OPS: ")


@pytest.hookimpl(wrapper=True, specname="pytest_terminal_summary")
def pytest_outlive_others(terminalreporter: Any, config: pytest.Config) -> Generator[None, None, None]:
    """Show the tables also where what pytest-benchmark shows before them fails, and leave out its legend."""
    gate = gate_of(config)
    columns = config.getoption("benchmark_columns", None)
    legend = columns is None or {"outliers", "ops"} & set(columns)
    write = terminalreporter.write_line

    def write_line(line: str, **markup: bool) -> None:
        if legend or not line.startswith(LEGEND):
            write(line, **markup)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(terminalreporter, "write_line", write_line)
        try:
            return (yield)
        except Exception as error:
            if gate.shown or not gate.used:
                raise
            told = f"{type(error).__name__}: {error}"
    gate.note_unwritten(f"pytest-benchmark could not show its own table ({told}); leave its options out")
    return pytest_terminal_summary(terminalreporter, config)


# Sessions that are no baseline and are newer than the one that is, each in a line.
STEPPED_OVER_SHOWN = 3


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    gate = gate_of(config)
    if not gate.used:
        return
    gate.shown = True
    colour = bool(terminalreporter.hasmarkup)
    width = max(terminal.WIDTH, config.get_terminal_writer().fullwidth)
    records, page = gate.records.values(), gate.page()
    if gate.of_no_engine:
        terminalreporter.section("trtgate: of no engine")
        for verdict in gate.of_no_engine:
            terminalreporter.write_line(printable(str(verdict)))
    for title, texts in terminal.sections(page, colour=colour, width=width):
        terminalreporter.section(f"trtgate: {title}" if title else "trtgate")
        for text in texts:
            terminalreporter.write_line(text)
    # Before the headline, which is no pass where that fails.
    _write_page(gate, page)
    page = gate.page() if gate.unwritten else page
    closing = [*gate.course.skips(gate.skipped), *([gate.unsaved] if gate.unsaved else [])]
    closing += [f"stepped over for a baseline: {why}" for why in gate.stepped_over[:STEPPED_OVER_SHOWN]]
    if (more := len(gate.stepped_over) - STEPPED_OVER_SHOWN) > 0:
        closing.append(f"{more} more sessions were stepped over")
    closing += [f"this was not a whole run and can be no baseline: {why}" for why in gate.course.partial()]
    if gate.course.cut_off and (kept := gate.unfinished()):
        closing.append(f"what the finished processes measured is in {', '.join(map(str, kept))}")
    if records or gate.verdicts or gate.report() is not None or not gate.course.mistakes:
        closing.append(page.headline.sentence)
    for line in closing:
        terminalreporter.write_line(terminal.fold(line))
    for line in github.annotate(run_verdicts(list(records), gate.verdicts, gate.report())):
        terminalreporter.write_line(line)
    markdown.publish(markdown.render(page))


def _write_page(gate: Gate, page: Page) -> None:
    """The page in the file of --html; it is a mistake where that fails."""
    path = gate.config.getoption("html")
    if path:
        try:
            write_output("--html", path, html.render(page))
        except UserError as error:
            gate.note_unwritten(str(error))


logging.getLogger("trtgate").setLevel(logging.INFO)
