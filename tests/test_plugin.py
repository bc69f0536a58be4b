"""The plugin, and the traps that plain pytest-benchmark passes in silence.

The inner runs use bench/'s own test_latency.py and test_speedup.py on records that need no engine.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from xml.etree import ElementTree

import hypothesis  # noqa: F401  # its plugin does in each inner run otherwise: pytester puts sys.modules back
import pytest

from trtgate.__main__ import main
from trtgate.files import locked
from trtgate.plugin.gate import Gate
from trtgate.plugin.storage import LOCK
from trtgate.records import SessionRecord, read_session
from trtgate.report import markdown

from .faults.table import Fault
from .test_word import in_a_process

BENCH = Path(__file__).resolve().parent.parent / "bench"
PLAN = {"slow-fp32": 2e-3, "fast-int8": 1e-3}

CONFTEST = f"""
import json, sys
from pathlib import Path
import pytest
sys.path.insert(0, {str(BENCH)!r})
from trtgate.expectations import Expectation
from trtgate.records import EngineRecord

PLAN = json.loads(Path("plan.json").read_text())
WOBBLE = [1 + 0.002 * (i * 7 % 5) for i in range(15)]

def pytest_configure(config):
    config.addinivalue_line("markers", "with_reference: as in bench/")

def pytest_benchmark_generate_machine_info():
    return {{"node": "here"}}  # pytest-benchmark's own takes a second to look at the CPU

def pytest_generate_tests(metafunc):
    if "record" in metafunc.fixturenames:
        metafunc.parametrize("name", sorted(PLAN))

@pytest.fixture
def expectation():
    return Expectation({{"speedup": PLAN_FLOOR}})

PLAN_FLOOR = json.loads(Path("floor.json").read_text())

@pytest.fixture
def record(name, gate):
    if PLAN[name] is None:
        gate.skipped["toy " + name] = "its runtime is gone"
        pytest.skip("its runtime is gone")
    rounds = tuple(PLAN[name] * w for w in WOBBLE)
    reference = tuple(4e-3 * w for w in reversed(WOBBLE))
    return gate.add(EngineRecord("toy", name, 1, "file", {{"latency": rounds, "reference_latency": reference}}))
"""

TESTS = """
from test_latency import test_latency
from test_speedup import test_no_regression, test_speedup_floor
"""

AGREEMENT = """
from trtgate.verdict import Outcome, Reason, Verdict

def test_agreement(record, gate, request):
    bad = Verdict(Outcome.REGRESSED, Reason.BELOW_FLOOR, "top-1 agreement 3/10")
    gate.settle(request.node, bad, record.model, record.engine)
"""

Run = Callable[..., pytest.RunResult]


@pytest.fixture
def run(pytester: pytest.Pytester) -> Run:
    """Run the inner suite; `plan` gives each engine's latency, None for one that is skipped."""
    pytester.makeconftest(CONFTEST)
    pytester.makepyfile(test_toy=TESTS)

    def run(
        *arguments: str,
        plan: dict[str, Any] = PLAN,
        floor: float | None = None,
        without: tuple[str, ...] = ("cacheprovider", "xdist"),
    ) -> Any:
        Path("plan.json").write_text(json.dumps(plan))
        Path("floor.json").write_text(json.dumps(floor))
        plugins = ("-p", "trtgate.plugin", *(word for name in without for word in ("-p", f"no:{name}")))
        return pytester.runpytest_inprocess(*plugins, *arguments)

    return run


def saved(name: str = "before") -> Path:
    return next(Path(".benchmarks").glob(f"*/*_{name}.json"))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def refused(result: pytest.RunResult, *words: str) -> None:
    """A usage error before anything ran, in one sentence that holds the words."""
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    text = "\n".join(result.errlines + result.outlines)
    assert "INTERNALERROR" not in text
    assert "Traceback" not in text
    for word in words:
        assert word in text


def told(result: pytest.RunResult) -> tuple[int, str]:
    """A run's status and all that it says."""
    return int(result.ret), "\n".join(result.errlines + result.outlines)


def test_a_run_at_more_batch_sizes_than_its_baseline_blames_no_engine(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("--benchmark-save=before")
    asked = {"this run": frozenset({1, 8})}
    monkeypatch.setattr(SessionRecord, "sizes_of", lambda session, _: asked.get(str(session.path), frozenset({1})))
    status, text = told(run("--benchmark-compare=before", plan={**PLAN, "fast-int8": 1.8e-3}))
    assert status == 7
    assert "INVALID (not_comparable): batch sizes differ (1, then 1, 8)" in text
    assert "REGRESSED" not in text


def test_the_newest_session_is_so_whichever_python_saved_the_others(run: Run) -> None:
    run("--benchmark-save=before")
    other = saved().parent.with_name("Linux-CPython-3.0-64bit")
    other.mkdir()
    saved().rename(other / "0050_before.json")
    run("--benchmark-save=faster", plan={**PLAN, "fast-int8": 0.5e-3})
    assert saved("faster").name == "0051_faster.json"
    status, text = told(run("--benchmark-compare"))
    assert status == 1
    assert "0051_faster.json" in text


def test_two_runs_with_one_plan_cache_end_at_once(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other one has just removed what this one sees of unfinished samples."""
    monkeypatch.setattr(Gate, "unfinished", lambda gate: [Path("gone.json")])
    assert run().ret == 0


def test_the_table_and_the_record(run: Run) -> None:
    result = run("--benchmark-save=before")
    assert result.ret == 0
    result.stdout.re_match_lines([r"toy\s+fast-int8\s+1\s+1\.004\s+- 4\.00 \[3\.98,4\.02\] .*floors met"])
    document = json.loads(saved().read_text())
    [entry] = [b for b in document["benchmarks"] if "fast-int8" in b["name"]]
    record = entry["extra_info"]["trtgate"]
    assert (
        len(record["series"]["latency"]) == len(record["series"]["reference_latency"]) == entry["stats"]["rounds"] == 15
    )
    assert sorted(record["series"]["latency"])[7] == pytest.approx(entry["stats"]["median"])
    assert document["machine_info"]["trtgate"]["cpu"]
    assert document["trtgate"]["unfit"] == []


@pytest.mark.parametrize(
    ("floor", "status", "outcome"), [(3.5, 1, "REGRESSED"), (1.996, 6, "INCONCLUSIVE"), (1.5, 0, "PASS")]
)
def test_speedup_floors_decide_the_exit_status(run: Run, floor: float, status: int, outcome: str) -> None:
    result = run(floor=floor, plan={"slow-fp32": 2e-3})
    assert result.ret == status
    shown = "floors met" if outcome == "PASS" else outcome
    result.stdout.fnmatch_lines([f"toy *slow-fp32*{shown}*"])


def test_a_slower_engine_fails_and_the_report_says_by_how_much(run: Run) -> None:
    run("--benchmark-save=before")
    result = run("--benchmark-compare=before", plan={**PLAN, "fast-int8": 1.4e-3})
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*fast-int8*1.004*1.406*+40.0%*REGRESSED*"])
    result.stdout.fnmatch_lines(["*engine +40.0%, reference +0.0%*"])


def test_one_session_against_one_never_passes(run: Run) -> None:
    run("--benchmark-save=before")
    result = run("--benchmark-compare=before")
    assert result.ret == 6
    result.stdout.fnmatch_lines(["*INCONCLUSIVE (underpowered)*"])


@pytest.mark.fault(
    done="a run that could not tell (INCONCLUSIVE) against its baseline, saved and promoted",
    said="cannot become a baseline: its own run did not pass (toy ...: INCONCLUSIVE (underpowered): ...",
    status="2",
    kept="the saved session; no baseline is made",
)
def test_what_could_not_be_told_becomes_no_baseline(run: Run, capsys: pytest.CaptureFixture[str], fault: Fault) -> None:
    run("--benchmark-save=before")
    assert run("--benchmark-compare=before", "--benchmark-save=after").ret == 6
    assert len(read_session(saved("after")).open) == 2
    capsys.readouterr()
    fault.check(main(["promote", "after", "--to", "baselines/new"]), capsys.readouterr().err)
    assert main(["promote", "before", "--to", "baselines/old"]) == 0
    result = run("--benchmark-compare")  # nor that of a comparison that names none
    result.stdout.fnmatch_lines(["baseline: *0001_before.json", "stepped over for a baseline: *0002_after.json *"])
    fleet = Path("fleet/l4")
    fleet.mkdir(parents=True)
    shutil.copy(saved("after"), fleet)
    assert main(["report", "fleet"]) == 6


# What is printed besides.


def test_why_tests_were_skipped_is_one_line(run: Run) -> None:
    result = run(plan={**PLAN, "fast-int8": None})
    result.stdout.fnmatch_lines(["4 tests skipped: engines that are not there (3), no baseline (1)"])


@pytest.mark.parametrize("columns", ["median,iqr", "median,outliers", "ops"])
def test_a_legend_is_for_columns_that_are_shown(run: Run, columns: str) -> None:
    text = "\n".join(run(f"--benchmark-columns={columns}").outlines)
    assert "- benchmark: 2 tests -" in text
    assert ("Legend:" in text) == ("Outliers: " in text) == ("OPS: " in text) == (columns != "median,iqr")


WORKBENCH = """
from trtgate.plugin.progress import progress_of

@pytest.fixture
def workbench(request):
    with progress_of(request.config).step("toy: doing it"):
        pass
"""


def test_progress_has_lines_of_its_own_and_no_file_names(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST + WORKBENCH)
    pytester.makepyfile(test_zz="def test_a(workbench): pass\ndef test_b(): pass\ndef test_c(workbench): pass\n")
    lines = run().outlines
    at = lines.index("toy: doing it: 0.0 s")
    assert lines[at - 1].startswith(".")
    assert lines[at + 1] == ".."
    assert lines[at + 2] == "toy: doing it: 0.0 s"
    assert lines[at + 3].startswith(".")
    assert not any(".py" in line for line in lines[:at])


@pytest.mark.parametrize(
    ("shell", "status", "said"),
    [
        ("| true", 6, ""),
        pytest.param(
            ">/dev/full",
            4,
            "trtgate: standard output cannot be written (No space left on device)",
            marks=pytest.mark.slow,
        ),
        pytest.param(">&-", 4, "standard output is closed", marks=pytest.mark.slow),
    ],
)
@pytest.mark.fault(
    done="standard output of a compared run closed, or on a full disk; `| true`",
    said="standard output",
    status="4 or 6",
    kept="the verdict's own status where a reader left, and the session",
)
def test_standard_output_that_cannot_be_written(run: Run, shell: str, status: int, said: str, fault: Fault) -> None:
    run("--benchmark-save=before")
    options = ("-p", "trtgate.plugin", "-p", "no:xdist", "--benchmark-compare=before")
    done = in_a_process("-m", "pytest", *options, shell=shell, PYTHONUNBUFFERED="1")
    assert done.returncode == status, done.stderr
    if said:
        fault.check(done.returncode, done.stderr)
        assert said in done.stderr


def test_tables_keep_their_lines_where_names_are_escaped(run: Run) -> None:
    run("--benchmark-save=before", plan={"öpenvino-int8": 1e-3, "slow-fp32": 2e-3})
    done = in_a_process("-m", "pytest", "-p", "trtgate.plugin", "-p", "no:xdist", PYTHONIOENCODING="ascii")
    assert any(line.startswith("      \\xf6penvino-int8") for line in done.stdout.splitlines()), done.stdout


# The traps.


@pytest.mark.fault(
    done="`-n 2` (xdist), which races engines against each other",
    said="xdist (-n) races engines against each other and measures nothing; run without -n",
    status="4",
    kept="nothing is measured",
)
def test_trap_xdist_with_compare(run: Run, fault: Fault) -> None:
    run("--benchmark-save=before")
    fault.check(*told(run("-n", "2", "--benchmark-compare=before", without=("cacheprovider",))))


def test_trap_xdist_without_compare_is_no_pass_either(run: Run) -> None:
    run("--benchmark-save=before")
    refused(run("-n", "2", without=("cacheprovider",)), "-n")


@pytest.mark.parametrize(
    ("asked", "allowed"),
    [
        (("tests/",), True),
        (("tests/test_it.py::test_it",), True),
        (("tests/../bench",), False),
        (("tests/", "bench/"), False),
        ((), False),
    ],
)
def test_xdist_is_for_tests_that_race_nothing(asked: tuple[str, ...], allowed: bool, pytester: pytest.Pytester) -> None:
    pytester.makeini("[pytest]")
    for folder in ("tests", "bench"):
        pytester.mkdir(folder)
    with contextlib.nullcontext() if allowed else pytest.raises(pytest.UsageError, match="-n"):
        pytester.parseconfigure("-p", "trtgate.plugin", "-n", "2", *asked)


@pytest.mark.parametrize("option", ["--benchmark-disable", "--benchmark-skip"])
def test_trap_disabled_benchmarks_with_compare(run: Run, option: str) -> None:
    run("--benchmark-save=before")
    refused(run(option, "--benchmark-compare=before"), option)


@pytest.mark.parametrize(
    "options",
    [
        ("-k", "latency"),
        ("-m", "benchmark"),
        ("--deselect", "test_toy.py::test_no_regression"),
        ("--benchmark-only",),
        ("-k", "not no_regression"),
    ],
)
@pytest.mark.fault(
    done="an engine 80 % slower, with `-k`, `-m`, `--deselect` or `--benchmark-only` that leaves the test of it out",
    said="REGRESSED",
    status="1",
    kept="the table",
)
def test_trap_a_regression_counts_whichever_tests_run(run: Run, options: tuple[str, ...], fault: Fault) -> None:
    run("--benchmark-save=before")
    result = run("--benchmark-compare=before", *options, plan={**PLAN, "fast-int8": 1.8e-3})
    fault.check(*told(result))
    result.stdout.fnmatch_lines(["*fast-int8*REGRESSED*"])


@pytest.mark.fault(
    done="a comparison of which a part of the tests was run, nothing slower",
    said="INVALID (not_comparable): it did not judge everything",
    status="7",
    kept="the table",
)
@pytest.mark.parametrize(
    "options",
    [("-k", "not floor"), ("--deselect", "test_toy.py::test_speedup_floor"), ("test_toy.py::test_latency",)],
    ids=lambda options: options[0],
)
def test_trap_a_part_of_the_tests_lets_no_upgrade_pass(run: Run, options: tuple[str, ...], fault: Fault) -> None:
    """A floor that is not met is 1 where it is asked for, and is not known to be met where it is not."""
    assert run("--benchmark-save=before").ret == 0
    result = run("--benchmark-compare=before", *options, floor=9.0)
    fault.check(*told(result))
    assert "the upgrade may go on" not in result.stdout.str()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--benchmark-save=x", "--benchmark-skip"), "--benchmark-save with --benchmark-skip would save nothing"),
        (("--benchmark-autosave", "--collect-only"), "--benchmark-autosave with --collect-only would save nothing"),
        (("--benchmark-save=x", "-k", "speedup"), "--benchmark-save: nothing was saved, for no test that measures"),
        (("--benchmark-json=x.json", "-m", "not benchmark"), "--benchmark-json: nothing was saved"),
        (("--benchmark-save=x", "-k", "nothing_is_called_this"), "--benchmark-save: nothing was saved"),
    ],
)
@pytest.mark.fault(
    done="`--benchmark-save` with `--benchmark-skip`, `-k` or `-m`, so that nothing is measured",
    said="nothing",
    status="4",
    kept="the table",
)
def test_trap_a_save_that_saves_nothing(run: Run, options: tuple[str, ...], said: str, fault: Fault) -> None:
    result = run(*options)
    fault.check(*told(result))
    assert said in " ".join(told(result)[1].split())
    assert not list(Path(".benchmarks").rglob("*.json"))


def test_trap_a_look_at_the_cache_is_no_comparison(run: Run, pytester: pytest.Pytester) -> None:
    run("--benchmark-save=before")
    options = ("-p", "trtgate.plugin", "-p", "no:xdist", "--benchmark-compare=before", "--cache-show")
    refused(pytester.runpytest_inprocess(*options), "--cache-show")


@pytest.mark.parametrize("option", ["--collect-only", "--setup-only", "--setup-plan", "--fixtures", "--help", "-VV"])
@pytest.mark.fault(
    done="`--collect-only`, `--setup-plan` and others with which nothing is decided",
    said="--benchmark-compare with ... would decide nothing; drop",
    status="4",
    kept="nothing is measured",
)
def test_trap_options_with_which_nothing_is_decided(run: Run, option: str, fault: Fault) -> None:
    run("--benchmark-save=before")
    result = run(option, "--benchmark-compare=before")
    refused(result, option.replace("-VV", "--version"))
    fault.check(*told(result))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--noconftest",), "--noconftest leaves out the conftest.py"),
        (("-p", "no:python"), "-p no:python leaves out what bench/ is run with; drop it"),
        (("-p", "no:skipping"), "-p no:skipping leaves out"),
        (("--stepwise",), "--stepwise ends a run as if"),
        (("--sw-skip",), "--stepwise-skip ends a run as if"),
        (("--max-warnings=0",), "--max-warnings ends with status 6"),
        (("--benchmark-compare-fail=mean:1%",), "set limits in expectations.toml"),
        (("--benchmark-group-by=nothing",), "--benchmark-group-by=nothing: give group, name"),
        (
            ("--benchmark-group-by=param:nothing",),
            "param:nothing: not every benchmark has that parameter; they have name",
        ),
        (("--benchmark-histogram=h",), "--benchmark-histogram needs pygal, which is not installed"),
        (("--benchmark-cprofile=ncalls", "--benchmark-cprofile-dump=x"), "--benchmark-cprofile-dump would profile"),
        (("--benchmark-storage=elasticsearch+http://here/x",), "sessions are files here; name a folder"),
        (("-o", "python_functions=bench"), "no test was collected; name bench/"),
        (("--ignore=test_toy.py",), "no test was collected; name bench/"),
        (("--benchmark-save=before",), "--benchmark-save=before would add this run to its own baseline"),
        (("--benchmark-compare=.benchmarks", "--benchmark-save=after"), "its own baseline, the folder .benchmarks"),
    ],
)
@pytest.mark.fault(
    done="a comparison with `--noconftest`, `--stepwise`, `--benchmark-compare-fail` and others that bench/ cannot be "
    "run or ended with, or saved under its baseline's own name",
    said="ERROR: ...",
    status="4",
    kept="nothing is measured; the baseline is as it was",
)
def test_trap_options_that_spoil_a_comparison(
    run: Run, options: tuple[str, ...], said: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pytest_benchmark.histogram", None)
    run("--benchmark-save=before")
    slower = {**PLAN, "fast-int8": 1.4e-3}
    result = run("--benchmark-compare=before", *options, plan=slower, without=("xdist",))
    refused(result, said)
    fault.check(*told(result))
    assert len(list(Path(".benchmarks").rglob("*.json"))) == 1


@pytest.mark.parametrize("option", ["--benchmark-json", "--junit-xml", "--log-file"])
@pytest.mark.fault(
    done="a comparison whose `--benchmark-json`, `--junit-xml` or `--log-file` names the file that it is with",
    said="... is the baseline itself, which would be lost; name another file",
    status="4",
    kept="nothing is measured; the baseline is as it was",
)
def test_trap_what_would_be_written_over_the_baseline(run: Run, option: str, fault: Fault) -> None:
    run("--benchmark-json=before.json")
    before = Path("before.json").read_text()
    result = run("--benchmark-compare=before.json", f"{option}=./before.json", plan={**PLAN, "fast-int8": 1.4e-3})
    fault.check(*told(result))
    assert Path("before.json").read_text() == before


@pytest.mark.parametrize(
    ("timer", "of_environment"), [("nowhere.x", False), ("time.nothing", False), ("nowhere.x", True)]
)
@pytest.mark.fault(
    done="`--benchmark-timer` names what is not there",
    said="--benchmark-timer=... names no timer (",
    status="4",
    kept="nothing is measured",
)
def test_trap_a_timer_that_is_none(
    run: Run,
    timer: str,
    of_environment: bool,
    fault: Fault,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    option = f"--benchmark-timer={timer}"
    if of_environment:
        monkeypatch.setenv("PYTEST_ADDOPTS", f"-q {option}")
    result = run(*([] if of_environment else [option]))
    fault.check(int(result.ret), told(result)[1] + capfd.readouterr().err)


def test_trap_a_fixture_that_nobody_defines(run: Run, pytester: pytest.Pytester) -> None:
    run("--benchmark-save=before")
    pytester.makepyfile(test_more="def test_more(workbench):\n    pass\n")
    result = run("--benchmark-compare=before")
    refused(result, "test_more.py::test_more: nothing defines its fixture workbench")
    assert "against the baseline" not in told(result)[1]


FAILING = """
@pytest.hookimpl(tryfirst=True)
def pytest_benchmark_{hook}(config):
    raise KeyError("x")
"""


@pytest.mark.parametrize("hook", ["group_stats", "scale_unit"])
@pytest.mark.parametrize("saving", [(), ("--benchmark-save=after",)])
@pytest.mark.fault(
    done="pytest-benchmark failing at its own end of the session",
    said="against the baseline: ...pytest-benchmark...could not ...(KeyError: 'x')",
    status="4 or 1",
    kept="the table, and the status of what regressed",
)
def test_what_pytest_benchmark_fails_with_hides_no_verdict(
    run: Run,
    pytester: pytest.Pytester,
    hook: str,
    saving: tuple[str, ...],
    fault: Fault,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    run("--benchmark-save=before")
    pytester.makeconftest(CONFTEST + FAILING.format(hook=hook))
    for latency, status in ((1e-3, 4), (1.4e-3, 1)):
        result = run("--benchmark-compare=before", *saving, plan={**PLAN, "fast-int8": latency})
        text = "\n".join([*result.outlines, *result.errlines])
        assert result.ret == status
        assert "against the baseline: " in text
        assert "could not " in text
        assert "(KeyError: 'x')" in " ".join(text.split())
        assert ("fast-int8" in text and "REGRESSED" in text) == (status == 1)
    if saving and hook == "group_stats":
        assert list(tmp_path.glob("trtgate-*/0001_after.json"))


@pytest.mark.parametrize(
    "options",
    [
        ("-k", "latency"),
        ("--benchmark-only",),
        ("test_toy.py::test_latency",),
        ("test_toy.py",),
        ("--ignore=test_more.py",),
        ("--ignore-glob=*more*",),
        ("-o", "python_files=test_toy.py"),
        ("-o", "python_functions=test_latency test_speedup*"),
        ("-o", "python_classes=Nothing"),
        ("--deselect=test_more.py",),
        ("--continue-on-collection-errors",),
    ],
)
@pytest.mark.fault(
    done="a part of the suite saved: `-k`, `--ignore`, `-o python_functions=`, one file, one that cannot be imported",
    said="must not be used: it did not judge everything",
    status="4",
    kept="the saved session",
)
def test_trap_a_part_of_the_suite_is_no_baseline(
    run: Run, options: tuple[str, ...], pytester: pytest.Pytester, fault: Fault
) -> None:
    more = "class TestMore:\n    def test_more(self, record):\n        pass\n"
    pytester.makepyfile(test_more="import nowhere_at_all\n" if "errors" in options[0] else more)
    run("--benchmark-save=before", *options)
    result = run("--benchmark-compare=before")
    refused(result, "did not judge everything")
    fault.check(int(result.ret), "\n".join(result.errlines + result.outlines))


INTERRUPTED = """
import os, signal
def pytest_benchmark_update_json():
    os.kill(os.getpid(), signal.{name})
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
@pytest.mark.fault(
    done="Ctrl-C or SIGTERM while a run is saved, its tests over",
    said="while the run was being saved or shown, so its status is no verdict; run it again",
    status="2",
    kept="nothing",
)
def test_an_interrupt_at_the_end_is_one_sentence(run: Run, name: str, pytester: pytest.Pytester, fault: Fault) -> None:
    pytester.makeconftest(CONFTEST + INTERRUPTED.format(name=name))
    status, text = told(run("--benchmark-save=before"))
    fault.check(status, text)
    assert f"{'interrupted' if name == 'SIGINT' else name} while" in text


@pytest.mark.parametrize("option", ["--assert=plain", "-pno:assertion"])
def test_trap_assertions_that_python_leaves_out(run: Run, option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {name: getattr(sys.flags, name) for name in dir(sys.flags) if not name.startswith("_")}
    monkeypatch.setattr(sys, "flags", SimpleNamespace(**{**flags, "optimize": 1}))
    assert run().ret == 0  # pytest's own assertions are not left out
    refused(run(option), "python -O", "--assert=rewrite")


@pytest.mark.fault(
    done="Ctrl-C in the middle of writing a session, while another run wants to save one too",
    said="while the run was being saved or shown, so its status is no verdict; run it again",
    status="2",
    kept="every whole session; no half one, and the other run's waits for its turn",
)
def test_a_session_that_is_being_written_is_no_session_yet(
    run: Run, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    def ended(path: Path, content: bytes) -> None:
        path.write_bytes(content[:99])
        assert not list(path.parent.glob("*_*.json"))
        with pytest.raises(TimeoutError), locked(path.parent / LOCK):  # another run waits for its turn
            pass
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("trtgate.files.write_synced", ended)
        fault.check(*told(run("--benchmark-save=before")))
    assert [path.name for path in Path(".benchmarks").rglob("*") if path.is_file()] == [LOCK]


def test_sessions_are_counted_beyond_four_digits(run: Run) -> None:
    run("--benchmark-save=before")
    saved().rename(saved().with_name("9999_old.json"))
    for number in (10000, 10001):
        assert run("--benchmark-save=before").ret == 0
        assert any(path.name == f"{number}_before.json" for path in Path(".benchmarks").rglob("*"))


AGAIN = """
import pytest
@pytest.hookimpl(tryfirst=True)
def pytest_keyboard_interrupt():
    os.kill(os.getpid(), signal.SIGINT)
"""


@pytest.mark.fault(
    done="Ctrl-C pressed again, twice, while the first one ends a run that is saved",
    said="test_toy.py:...: KeyboardInterrupt",
    status="2",
    kept="the session, which is no baseline",
)
def test_a_second_interrupt_is_no_traceback_and_loses_nothing(
    run: Run, pytester: pytest.Pytester, fault: Fault
) -> None:
    run()
    pytester.makeconftest(CONFTEST + INTERRUPTED.format(name="SIGINT") + AGAIN)
    tests = "\nimport os, signal\ndef test_zz():\n    os.kill(os.getpid(), signal.SIGINT)\n"
    pytester.makepyfile(test_toy=TESTS + tests)
    options = ("-p", "trtgate.plugin", "-p", "no:xdist", "--benchmark-save=before")
    try:
        result = pytester.runpytest_inprocess(*options, no_reraise_ctrlc=True)
    except KeyboardInterrupt:
        pytest.fail("it ended in the middle of ending")
    fault.check(*told(result))
    assert read_session(saved()).partial


MARKING = """
def pytest_collection_modifyitems(items):
    for item in items:
        if "{name}" in item.name:
            item.add_marker(pytest.mark.{marker})
"""
BROKEN = "\ndef test_broken():\n    assert False\n"


@pytest.mark.parametrize(("name", "marker"), [("floor", "skip"), ("floor", "xfail(run=False)"), ("broken", "xfail")])
@pytest.mark.fault(
    done="tests of `bench/` marked `skip` or `xfail`, so that they do not count, with which a run is saved",
    said="must not be used: it did not judge everything (... skipped or failed as a marker asked)",
    status="4",
    kept="the saved session",
)
def test_trap_a_marker_is_no_pass_and_makes_no_baseline(
    run: Run, name: str, marker: str, pytester: pytest.Pytester, fault: Fault
) -> None:
    run("--benchmark-save=sound")
    pytester.makeconftest(CONFTEST + MARKING.format(name=name, marker=marker))
    pytester.makepyfile(test_toy=TESTS + BROKEN * (name == "broken"))
    assert run("--benchmark-compare=sound").ret == 7
    run("--benchmark-save=before", floor=9.0 if name == "floor" else None)
    fault.check(*told(run("--benchmark-compare=before")))


def test_the_whole_suite_is_a_baseline_however_it_is_named(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_more="class TestMore:\n    def test_more(self, record):\n        pass\n")
    run("--benchmark-save=before", ".")
    assert run("--benchmark-compare=before").ret == 6


def test_a_test_that_cannot_be_collected_is_no_pass(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_more="import nowhere_at_all\n")
    assert run().ret == 2
    assert run("--continue-on-collection-errors").ret == 4


# What is the user's to mend.

FULL = """
import errno, os, pytest
from trtgate.kinds import UserError

@pytest.fixture
def full():
    {error}

def test_full(record, full):
    pass
"""


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("raise UserError('--plan-cache: the disk is full; make room')", "--plan-cache: the disk is full; make room"),
        ("open('/dev/full', 'w').write('x' * 9999)", "No space left on device"),
        ("raise OSError(errno.EROFS, os.strerror(errno.EROFS), 'plans')", "Read-only file system (plans)"),
    ],
)
@pytest.mark.parametrize("stop", [(), ("-x",)])
@pytest.mark.fault(
    done="the disk full, or another mistake of the user's found in the middle of a run",
    said="this was not a whole run and can be no baseline: ...test_full...",
    status="4",
    kept="what was measured, as a session that is no baseline",
)
def test_a_mistake_in_the_middle_of_a_run_is_no_regression(
    run: Run, pytester: pytest.Pytester, error: str, said: str, stop: tuple[str, ...], fault: Fault
) -> None:
    pytester.makepyfile(test_zz=FULL.format(error=error))
    result = run("--benchmark-save=before", *stop)
    fault.check(int(result.ret), "\n".join(result.outlines))
    result.stdout.fnmatch_lines([f"*{said.replace('[', '[[]')}*"])
    assert "test_full failed" not in saved().read_text()
    pytester.makepyfile(test_zz="")
    refused(run("--benchmark-compare=before"), "did not judge everything")


KEPT = """
@pytest.fixture(autouse=True)
def kept(request):
    if "slow-fp32" in request.node.name:
        {error}
"""


@pytest.mark.parametrize("stop", [(), ("-x",)])
@pytest.mark.parametrize(
    "error",
    [
        "from trtgate.kinds import UserError; raise UserError('No space left on device in the cache')",
        "open('/dev/full', 'w').write('x' * 9999)",
    ],
)
@pytest.mark.fault(
    done="the disk full, or another mistake of the user's, when one engine of a compared run is measured",
    said="INVALID, 1 INCONCLUSIVE...No space left on device",
    status="4",
    kept="the table",
)
def test_what_a_mistake_kept_from_being_measured_is_not_missing(
    run: Run, pytester: pytest.Pytester, error: str, stop: tuple[str, ...], fault: Fault
) -> None:
    run("--benchmark-save=before")
    pytester.makeconftest(CONFTEST + KEPT.format(error=error))
    result = run("--benchmark-compare=before", *stop)
    text = "\n".join(result.outlines)
    fault.check(int(result.ret), text) if not stop else None
    assert (result.ret, "REGRESSED" in text, "acknowledged_missing" in text) == (4, False, False)
    # What is gone by itself is missing all the same.
    pytester.makeconftest(CONFTEST + KEPT.format(error=error))
    assert run("--benchmark-compare=before", plan={**PLAN, "fast-int8": None}).ret == 1
    assert run("--benchmark-compare=before", plan={"slow-fp32": 1}).ret == 1


OPEN = """
from trtgate.verdict import Outcome, Reason, Verdict

def test_first(gate, request):
    gate.show(request.node, Verdict(Outcome.INCONCLUSIVE, Reason.TOO_FEW_IMAGES, "12 photos are too few"))
"""


@pytest.mark.parametrize("stop", ["-x", "--maxfail=1"])
def test_what_comes_after_the_end_of_a_run_is_not_missing(run: Run, pytester: pytest.Pytester, stop: str) -> None:
    run("--benchmark-save=before")
    pytester.makepyfile(test_first=OPEN)
    result = run("--benchmark-compare=before", stop)
    assert result.ret == 7
    result.stdout.fnmatch_lines(["MISSING: toy fast-int8*, toy slow-fp32*: not measured: the run was cut off"])


@pytest.mark.parametrize("stop", ["-x", "--maxfail=1"])
def test_the_page_of_a_run_that_was_cut_off_is_no_pass(run: Run, pytester: pytest.Pytester, stop: str) -> None:
    first = AGREEMENT.replace("record, gate", "gate").replace("record.model, record.engine", '"toy", "fast-int8"')
    met = first.replace("REGRESSED", "PASS").replace("BELOW_FLOOR", "FLOOR_MET")
    pytester.makepyfile(test_first=met, test_second="def test_second():\n    assert False\n")
    result = run(stop, "--html=page.html")
    assert result.ret == 1
    headline = Path("page.html").read_text().partition("<header")[2].partition("</header>")[0]
    assert "PASS" not in headline
    assert "the run was cut off" in headline


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        ("assert False", 1, ["test_more.py::test_full[fast-int8] failed", "mend what made that test fail"]),
        ("raise UserError('the disk is full')", 4, ["fast-int8]: the disk is full", "mend what kept it from"]),
    ],
    ids=["failed", "mistake"],
)
@pytest.mark.parametrize("compared", [False, True])
def test_no_page_is_silent_on_what_failed_without_a_verdict(
    run: Run, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, error: str, status: int, said: list[str],
    *, compared: bool,
) -> None:  # fmt: skip
    if compared:
        run("--benchmark-save=before")
    pytester.makepyfile(test_more=FULL.format(error=error))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    result = run("--html=page.html", *(["--benchmark-compare=before"] if compared else []))
    assert result.ret == status
    page, summary = Path("page.html").read_text(), Path("summary.md").read_text()
    headline = page.partition("<header")[2].partition("</header>")[0]
    for words in said:
        assert words in headline
        assert words in summary.replace("\\_", "_")
    assert "the upgrade may go on" not in page + summary


def test_what_is_of_no_engine_is_in_the_jobs_summary(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "summary.md")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    broken = r"gate.note_broken('toy', EngineSpec('gone', 'fp32'), 'libgone.so cannot\x1b[2J be opened')"
    source = f"from trtgate.kinds import EngineSpec\ndef test_more(gate):\n    {broken}\n"
    Path("test_more.py").write_text(source)
    result = run()
    assert result.ret == 7
    assert "INVALID (broken): libgone.so cannot be opened" in Path("summary.md").read_text()
    assert "\x1b[2J" not in "\n".join(result.outlines)
    result.stdout.fnmatch_lines(["::warning title=trtgate::INVALID (broken): libgone.so cannot be opened"])


def test_what_cannot_be_collected_is_not_missing(run: Run, pytester: pytest.Pytester) -> None:
    run("--benchmark-save=before")
    pytester.makepyfile(test_toy="import nowhere_at_all\n", test_more="def test_more():\n    pass\n")
    assert run("--benchmark-compare=before", "--continue-on-collection-errors").ret == 4


def test_what_a_runtime_refuses_is_a_failure_in_its_own_words(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        test_zz="""
from trtgate.kinds import EngineRefused

def test_refused():
    raise EngineRefused("the runtime could not build it:\\n  Error Code 10: no implementation for node conv1")
"""
    )
    result = run()
    assert result.ret == 1
    result.stdout.fnmatch_lines(
        ["the runtime could not build it:", "  Error Code 10: no implementation for node conv1"]
    )
    result.stdout.no_fnmatch_line("*raise EngineRefused*")


def test_a_mistake_hides_no_regression(run: Run, pytester: pytest.Pytester) -> None:
    run("--benchmark-save=before")
    pytester.makepyfile(test_zz=FULL.format(error="raise UserError('the disk is full; make room')"))
    assert run("--benchmark-compare=before", plan={**PLAN, "fast-int8": 1.4e-3}).ret == 1


@pytest.mark.fault(
    done="the disk full when the session is saved",
    said="the session: it could not be saved (No space left on device); what it was to hold is in ...",
    status="4",
    kept="the table, and the session in the temporary directory",
)
def test_a_session_that_cannot_be_saved_is_kept_elsewhere(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    result = run("--benchmark-json=/dev/full")
    text = "\n".join(result.outlines)
    fault.check(int(result.ret), text)
    assert "floors met" in text
    [kept] = tmp_path.glob("trtgate-*/0001_run.json")
    assert len(read_session(kept).engines) == 2


@pytest.mark.fault(
    done="the disk full when `--html` is written",
    said="trtgate: --html ...could not be written (No space left on device); what it was to hold is in ...",
    status="4",
    kept="the table, and the page in the temporary directory",
)
def test_a_document_that_cannot_be_written_in_the_end(
    run: Run, full_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv(markdown.SUMMARY_VARIABLE, str(tmp_path / "summary.md"))
    result = run(f"--html={full_disk / 'out.html'}")
    fault.check(*told(result))
    assert "floors met" in "\n".join(result.outlines)
    # Nothing that people look at says that all is well.
    for text in ("\n".join(result.outlines), (tmp_path / "summary.md").read_text()):
        assert "could not be written (No space left on device)" in " ".join(text.split())
        assert "run with --benchmark-save" not in text
    assert "**INVALID** 2 engines measured" in (tmp_path / "summary.md").read_text()
    assert run(f"--html={full_disk / 'out.html'}", floor=3.0).ret == 1


@pytest.mark.parametrize(("floor", "status"), [(None, 0), (3.0, 1)])
def test_a_document_is_written_without_a_terminal_too(run: Run, floor: float | None, status: int) -> None:
    assert run("-p", "no:terminal", "--html=out.html", floor=floor).ret == status
    assert "fast-int8" in Path("out.html").read_text()


@pytest.mark.fault(
    done="`--benchmark-json` into a folder that is not there",
    said="--benchmark-json nowhere/run.json cannot be written; name a file in a folder that is there and writable",
    status="4",
    kept="nothing is measured",
)
def test_a_json_file_that_cannot_be_written(run: Run, fault: Fault) -> None:
    fault.check(*told(run("--benchmark-json=nowhere/run.json")))


@pytest.mark.parametrize("option", ["--log-file=test_toy.py/x", "-olog_file=.", "--junit-xml=test_toy.py/x"])
def test_a_log_that_cannot_be_written(run: Run, option: str) -> None:
    named = "--junit-xml" if "junit" in option else "--log-file"
    refused(run(option), named, "cannot be written", "name another one")
    assert run("--log-file=logs/there", "--junit-xml=$HOME/there.xml").ret == 0
    assert not Path("$HOME").exists()


def test_a_storage_that_no_session_can_be_saved_in(run: Run) -> None:
    Path("file").touch()
    for storage in ("file", "file/inside", "/proc/nowhere"):
        refused(run("--benchmark-save=x", f"--benchmark-storage={storage}"), "no session can be saved in")
        refused(run("--benchmark-autosave", f"--benchmark-storage={storage}"), "name a folder that can be written")


def test_a_refused_run_leaves_the_json_of_the_last(run: Run) -> None:
    run("--benchmark-json=run.json")
    before = Path("run.json").read_bytes()
    refused(run("--benchmark-json=run.json", "--benchmark-compare=nobody"), "nobody")
    refused(run("--benchmark-json=run.json", "--no-such-option"), "--no-such-option")
    assert Path("run.json").read_bytes() == before


@pytest.mark.fault(
    done="a run ended by Ctrl-C, saved, and compared with",
    said="must not be used: it did not judge everything (the run was cut off)",
    status="4",
    kept="the saved session",
)
def test_trap_a_run_that_was_cut_off_is_no_baseline(run: Run, pytester: pytest.Pytester, fault: Fault) -> None:
    run()
    pytester.makepyfile(test_toy=TESTS + "\ndef test_zz():\n    raise KeyboardInterrupt\n")
    # pytester would raise it again.
    options = ("-p", "trtgate.plugin", "-p", "no:xdist", "--benchmark-save=before")
    assert pytester.runpytest_inprocess(*options, no_reraise_ctrlc=True).ret == pytest.ExitCode.INTERRUPTED
    assert saved().exists()
    pytester.makepyfile(test_toy=TESTS)
    fault.check(*told(run("--benchmark-compare=before")))


@pytest.mark.fault(
    done="untrained weights, under `--require-trained`",
    said="--require-trained: toy has untrained weights; give --weights toy=PATH",
    status="1",
    kept="the table, and the session as no baseline",
)
def test_trap_untrained_weights_skip_every_answer(run: Run, pytester: pytest.Pytester, fault: Fault) -> None:
    pytester.makeconftest(CONFTEST.replace('"file"', '"untrained"'))
    assert run().ret == 0
    fault.check(*told(run("--require-trained", "--benchmark-save=before")))
    refused(run("--benchmark-compare=before"), "has untrained weights")


@pytest.mark.fault(
    done="a GPU that throttles from the first round on, so that no round counts",
    said="the machine is not fit to measure on",
    status="7",
    kept="the table",
)
def test_trap_a_race_without_a_round(run: Run, pytester: pytest.Pytester, fault: Fault) -> None:
    rounds = '{"latency": rounds, "reference_latency": reference})'
    assert rounds in CONFTEST
    pytester.makeconftest(CONFTEST.replace(rounds, "{}, dropped_rounds=4, complete=False)"))
    fault.check(*told(run()))


@pytest.mark.fault(
    done="an engine that the baseline has, deselected",
    said="MISSING: toy fast-int8",
    status="1",
    kept="the table",
)
def test_trap_deselected_test(run: Run, fault: Fault) -> None:
    run("--benchmark-save=before")
    result = run("--benchmark-compare=before", "-k", "slow-fp32")
    fault.check(*told(result))
    result.stdout.fnmatch_lines(["*MISSING: toy fast-int8*"])


def test_trap_everything_deselected(run: Run) -> None:
    run("--benchmark-save=before")
    assert run("--benchmark-compare=before", "-k", "nothing_is_called_this").ret == 1


def test_what_failed_last_can_be_run_again_alone(run: Run) -> None:
    """Where all of it failed nothing is deselected, and pytest tells of that too."""
    alone = ("-k", "speedup_floor and fast")
    for more in ((), ("--last-failed",)):
        result = run(*alone, *more, floor=5.0, without=("xdist",))
        assert (result.ret, "INTERNALERROR" in "\n".join(result.outlines)) == (1, False)


def test_trap_renamed_engine(run: Run) -> None:
    run("--benchmark-save=before")
    result = run("--benchmark-compare=before", plan={"slow-fp32": 2e-3, "faster-int8": 1e-3})
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*MISSING: toy fast-int8*", "new: toy faster-int8*"])


def test_trap_renamed_test_is_still_compared(run: Run, pytester: pytest.Pytester) -> None:
    run("--benchmark-save=before")
    pytester.makepyfile(test_toy=TESTS.replace("import test_latency", "import test_latency as test_renamed"))
    result = run("--benchmark-compare=before", plan={**PLAN, "fast-int8": 1.4e-3})
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*fast-int8*REGRESSED*"])


def test_trap_skipped_engine_that_the_baseline_has(run: Run) -> None:
    run("--benchmark-save=before")
    result = run("--benchmark-compare=before", plan={**PLAN, "fast-int8": None})
    assert result.ret == 1
    result.stdout.fnmatch_lines(["*MISSING: toy fast-int8*its runtime is gone*"])


def test_a_missing_engine_can_be_acknowledged(run: Run) -> None:
    run("--benchmark-save=before")
    Path("mine.toml").write_text('acknowledged_missing = ["toy fast-*"]')
    result = run("--benchmark-compare=before", "--expectations=mine.toml", plan={"slow-fp32": 2e-3})
    assert result.ret == 6


def test_trap_an_empty_name_is_no_comparison(run: Run) -> None:
    refused(run("--benchmark-compare="), "names nothing")


@pytest.mark.parametrize("option", ["--benchmark-compare", "--benchmark-compare=before", "--benchmark-compare=0001"])
def test_trap_no_saved_baseline(run: Run, option: str) -> None:
    refused(run(option), ".benchmarks")


@pytest.mark.parametrize("name", ["0003", "7", "folder", "x" * 250, "a\nb"])
def test_trap_a_name_that_nobody_could_compare_with(run: Run, name: str) -> None:
    Path("folder").mkdir()
    refused(run(f"--benchmark-save={name}"), "--benchmark-save=")


def test_trap_a_bare_compare_never_meets_itself(run: Run) -> None:
    refused(run("--benchmark-compare", "--benchmark-save=now"))
    assert not list(Path(".benchmarks").glob("*/*.json"))


def test_a_bare_compare_takes_the_newest_sound_session_of_this_machine(run: Run) -> None:
    run("--benchmark-save=old")
    run("--benchmark-save=elsewhere")
    edit(saved("elsewhere"), lambda d: d["machine_info"]["trtgate"].update(cpu="Another CPU"))
    result = run("--benchmark-compare")
    assert result.ret == 6
    result.stdout.fnmatch_lines(["baseline: *0001_old.json"])


def test_trap_only_another_machines_file(run: Run) -> None:
    run("--benchmark-save=before")
    edit(saved(), lambda d: d["machine_info"]["trtgate"].update(gpu="NVIDIA T4"))
    refused(run("--benchmark-compare"), "another gpu", "NVIDIA T4")
    refused_later = run("--benchmark-compare=before")
    refused(refused_later, "another gpu")


def test_another_driver_is_the_point_and_is_printed(run: Run) -> None:
    run("--benchmark-save=before")
    edit(saved(), lambda d: d["machine_info"]["trtgate"].update(driver="570.1", onnxruntime="1.0"))
    result = run("--benchmark-compare=before")
    assert result.ret == 6
    result.stdout.fnmatch_lines(["stack: *driver: 570.1 -> None; onnxruntime: 1.0 -> *"])


def test_trap_baseline_without_rounds(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_toy="def test_latency(benchmark):\n    benchmark(lambda: None)\n")
    run("--benchmark-save=before")
    pytester.makepyfile(test_toy=TESTS)
    refused(run("--benchmark-compare=before"), "no rounds")


def test_trap_emptied_rounds(run: Run) -> None:
    run("--benchmark-save=before")
    edit(saved(), lambda d: d["benchmarks"][0]["extra_info"]["trtgate"]["series"].update(latency=[]))
    refused(run("--benchmark-compare=before"), "no rounds", "before.json")


@pytest.mark.parametrize("content", ["{", "[]", '{"benchmarks": 3, "machine_info": {}}', ""])
def test_trap_corrupt_baseline(run: Run, content: str) -> None:
    run("--benchmark-save=before")
    saved().write_text(content)
    refused(run("--benchmark-compare=before"), "before.json", "damaged")


def test_trap_newer_baseline(run: Run) -> None:
    run("--benchmark-save=before")
    edit(saved(), lambda d: d["trtgate"].update(schema=99))
    refused(run("--benchmark-compare=before"), "schema 99")


def test_trap_storage_outside_the_working_directory_of_a_machine_that_differs(run: Run, tmp_path: Path) -> None:
    outside = tmp_path / "elsewhere"
    run(f"--benchmark-storage=file://{outside}", "--benchmark-save=before")
    [path] = outside.glob("*/*.json")
    edit(path, lambda d: d["machine_info"].update(node="another-host"))
    result = run(f"--benchmark-storage=file://{outside}", "--benchmark-compare=before")
    assert result.ret == 6
    result.stdout.no_fnmatch_line("*INTERNALERROR*")
    result.stdout.fnmatch_lines(["*fast-int8*INCONCLUSIVE*"])


def test_trap_a_run_whose_agreement_failed_is_no_baseline(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_toy=TESTS + AGREEMENT)
    assert run("--benchmark-save=before").ret == 1
    pytester.makepyfile(test_toy=TESTS)
    refused(run("--benchmark-compare=before"), "must not be", "3/10")
    refused(run("--benchmark-compare"), "must not be", "3/10")


def test_trap_a_run_with_any_other_failure_is_no_baseline(run: Run, pytester: pytest.Pytester) -> None:
    pytester.makepyfile(test_toy=TESTS + "\ndef test_other():\n    assert False\n")
    assert run("--benchmark-save=before").ret == 1
    pytester.makepyfile(test_toy=TESTS)
    refused(run("--benchmark-compare=before"), "test_other failed")


def test_an_ordinary_failure_is_status_1_whatever_else_is_open(run: Run, pytester: pytest.Pytester) -> None:
    run("--benchmark-save=before")
    pytester.makepyfile(test_toy=TESTS + "\ndef test_other():\n    assert False\n")
    assert run("--benchmark-compare=before").ret == 1


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--engine=tensorflow-fp32"], "tensorflow-fp32"),
        (["--require=tensorflow"], "tensorflow"),
        (["--batch-size=0"], "--batch-size"),
        (["--weights=resnet50"], "MODEL=PATH"),
        (["--weights=resnet18=a.pth"], "resnet18"),
        (["--expectations=nowhere.toml"], "nowhere.toml"),
    ],
)
def test_a_wrong_option_is_one_sentence(run: Run, options: list[str], named: str) -> None:
    refused(run(*options), named)


def test_a_session_keeps_the_limits_of_models_own_files(run: Run) -> None:
    run("--benchmark-save=plain")
    assert "limits" not in json.loads(saved("plain").read_text())["trtgate"]
    Path("toy.toml").write_text('model = "squeezenet1_1"\n[limits.precision.int8]\ndelta = 0.5\n')
    run("--benchmark-save=before", "--model=toy.toml")
    session = read_session(saved())
    assert (session.limits, session.own) == ({"toy": {"precision": {"int8": {"delta": 0.5}}}}, ())


def test_the_report_as_a_document_and_as_properties_of_the_tests(
    run: Run, monkeypatch: pytest.MonkeyPatch, pytester: pytest.Pytester
) -> None:
    run("--benchmark-save=before")
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    slower = {**PLAN, "fast-int8": 1.4e-3}
    result = run("--benchmark-compare=before", "--html=out.html", "--junit-xml=out.xml", plan=slower)
    assert result.ret == 1
    text = Path("out.html").read_text()
    assert "toy fast-int8 batch 1" in text
    assert "new over old" not in text  # sessions, which took no turns
    tests = ElementTree.parse("out.xml").getroot().iter("testcase")
    found = {test.get("name"): {p.get("name"): p.get("value") for p in test.iter("property")} for test in tests}
    assert float(found["test_latency[fast-int8]"]["trtgate.latency"] or 0) == pytest.approx(1.4e-3 * 1.004)
    result.stdout.fnmatch_lines(["::error title=trtgate%3A toy fast-int8 batch 1::REGRESSED*"])


def test_a_document_that_cannot_be_written_is_told_before_anything_is_measured(run: Run) -> None:
    refused(run("--html=nowhere/out.html"), "--html nowhere/out.html cannot be written")
