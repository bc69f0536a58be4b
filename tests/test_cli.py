"""`python -m trtgate`: selftest and sensitivity on small real work, sessions, mistakes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from trtgate.__main__ import main
from trtgate.commands import compare as commands_compare
from trtgate.commands import selftest
from trtgate.commands.selftest import HALF, STALL, binomial_upper, compare_statistics, run_selftest, slowed
from trtgate.commands.sensitivity import Sensitivity, group_nodes, sensitivities
from trtgate.engines import parse_spec
from trtgate.expectations import Expectation
from trtgate.kinds import Block
from trtgate.measure.race import NoMonitor, Schedule
from trtgate.progress import SILENT
from trtgate.verdict import Outcome, tails
from trtgate.verdict.agreement import compare_logits
from trtgate.verdict.paired import LOOKS
from trtgate.workbench import Workbench

from . import networks
from .conftest import fill
from .faults.table import Fault


def test_a_mistake_of_this_program_regresses_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """1, which Python would end with, is for what regressed."""
    monkeypatch.setattr(commands_compare, "saved_sessions", lambda *_: 1 // 0)
    assert main(["compare", "before", "after"]) == 7
    assert "ZeroDivisionError" in capsys.readouterr().err


@pytest.mark.fault(
    done="`selftest` on an ONNX file with nothing to quantise",
    said="trtgate: noconv.onnx has no convolution or matrix product with weights that could be INT8",
    status="2",
    kept="nothing was begun",
)
def test_a_selftest_of_an_engine_whose_graph_cannot_be_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    model = networks.network(
        [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("Softmax", ["r"], ["y"])],
        {"x": (networks.FLOAT, ["batch", 16])},
        {"y": (networks.FLOAT, ["batch", 16])},
        {},
    )
    path = networks.save(model, tmp_path / "noconv.onnx")
    arguments = [f"--model={path}", f"--plan-cache={tmp_path}/c", "--engine=onnxruntime-int8", "--races=1"]
    fault.check(main(["selftest", *arguments]), capsys.readouterr().err)


@pytest.mark.parametrize(
    ("k", "n", "upper"), [(0, 60, 1 - 0.05 ** (1 / 60)), (0, 1, 0.95), (3, 3, 1.0), (2, 40, 0.1493)]
)
def test_the_binomial_bound_is_exact(k: int, n: int, upper: float) -> None:
    assert binomial_upper(k, n) == pytest.approx(upper, abs=2e-4)


class Toy:
    """An engine of scripted noise: 1 ms, 1 % of noise, and the waits that it is told. It reads no clock."""

    spec = parse_spec("onnxruntime-int8")

    def __init__(self) -> None:
        self._random = np.random.default_rng(0)

    def slowed_block(self, batch: object, waits: list[float]) -> Block:
        return Block(1e-3 * np.exp(self._random.normal(0, 0.01, len(waits))) + np.array(waits))


class Throttled(NoMonitor):
    """A machine on which no round counts."""

    def stop(self) -> str:
        return "the GPU throttled"


def run_toy(
    delta: float, slowdown: float, absolute_floor_us: float = 0.0, monitor: type[NoMonitor] = NoMonitor
) -> selftest.Selftest:
    return run_selftest(
        Toy(),  # type: ignore[arg-type]
        {"input": np.zeros((1, 3, 4, 4), np.float32)},
        model="toy",
        size=1,
        races=(12, 8),
        slowdowns=(slowed(slowdown), HALF, STALL),
        expectation=Expectation({"delta": delta, "absolute_floor_us": absolute_floor_us}),
        schedule=Schedule(),
        monitor=monitor,
    )


def caught(result: selftest.Selftest, slowdown: selftest.Slowdown) -> int:
    return result.count(slowdown, Outcome.REGRESSED)


@pytest.mark.slow
def test_a_selftest_counts_false_alarms_and_catches() -> None:
    result = run_toy(delta=0.05, slowdown=0.1)
    assert [len(trials) for trials in result.trials.values()] == [12, 8, 8, 8]
    assert (result.false_alarms, result.passed_though_slower) == (0, 0)
    assert [caught(result, kind) for kind in result.slowdowns] == [8, 8, 8]
    assert result.status().outcome is Outcome.PASS
    assert 0.005 <= result.smallest_delta <= 0.05
    rows = {row.statistic: row for row in compare_statistics(result)}
    assert set(rows) == {"median", "lower_quartile", "minimum", "midmean"}
    assert all(row.false_alarms == 0 and row.caught == 8 for row in rows.values())


@pytest.mark.slow
def test_a_slowdown_within_delta_is_not_called_caught() -> None:
    result = run_toy(delta=0.05, slowdown=0.03)
    assert caught(result, slowed(0.03)) == 0
    assert result.status().outcome is Outcome.REGRESSED, "the gate was green although the arm was slower"


@pytest.mark.slow
def test_a_selftest_tells_of_an_absolute_floor_that_hides_what_it_should_catch() -> None:
    assert caught(run_toy(delta=0.05, slowdown=0.08, absolute_floor_us=1e5), slowed(0.08)) == 0


def test_a_selftest_that_could_not_measure_says_so() -> None:
    result = run_toy(delta=0.05, slowdown=0.1, monitor=Throttled)
    assert math.isinf(result.smallest_delta)
    assert result.status().outcome is Outcome.INVALID


@pytest.fixture
def rough_tails(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bounds of tails from fewer draws: what a selftest writes and says is under test, not how sure it is."""
    monkeypatch.setattr(tails, "DRAWS", 200)


class Deaf(Toy):
    """One on which no slowdown shows."""

    def slowed_block(self, batch: object, waits: list[float]) -> Block:
        return super().slowed_block(batch, [0.0] * len(waits))


@pytest.mark.usefixtures("rough_tails")
@pytest.mark.parametrize(("monitor", "engine", "status"), [(Throttled, Toy, 7), (NoMonitor, Deaf, 1)])
@pytest.mark.fault(
    done="`selftest --write` on a machine that cannot be measured on, or that misses the slowdown",
    said="trtgate: --write refused, ... is as it was:",
    status="7 or 1",
    kept="expectations.toml as it was",
)
def test_nothing_is_written_where_the_gate_cannot_be_relied_on(
    monitor: type[NoMonitor],
    engine: type[Toy],
    status: int,
    tmp_path: Path,
    lite0: Workbench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Fault,
) -> None:
    expectations = tmp_path / "expectations.toml"
    expectations.write_text("[default]\ndelta = 0.05\n")
    monkeypatch.setattr(Workbench, "engine", lambda self, spec: engine())
    monkeypatch.setattr("trtgate.commands.selftest.monitor_for", lambda device: monitor)
    common = ["--plan-cache", str(lite0.settings.plan_cache), "--expectations", str(expectations)]
    before = expectations.read_text()
    found = main(["selftest", *common, "--races", "4", "--write"])
    assert found == status
    fault.check(found, capsys.readouterr().err)
    assert expectations.read_text() == before


class Interrupted(Toy):
    """One that the user has seen enough of after some of its blocks."""

    left = 500

    def slowed_block(self, batch: object, waits: list[float]) -> Block:
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt
        return super().slowed_block(batch, waits)


@pytest.mark.usefixtures("rough_tails")
@pytest.mark.fault(
    done="Ctrl-C in `selftest`, when it has run some of its races",
    said="INVALID (no_records): it was cut off after ... of ... races ... trtgate: interrupted",
    status="130",
    kept="what those races came to, in the file of --json too; expectations.toml as it was",
)
def test_races_that_were_run_are_kept_where_the_rest_is_not_waited_for(
    tmp_path: Path,
    lite0: Workbench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Fault,
) -> None:
    (expectations := tmp_path / "expectations.toml").write_text("[default]\ndelta = 0.05\n")
    monkeypatch.setattr(Workbench, "engine", lambda self, spec: Interrupted())
    monkeypatch.setattr("trtgate.commands.selftest.monitor_for", lambda device: NoMonitor)
    common = ["--plan-cache", str(lite0.settings.plan_cache), "--expectations", str(expectations)]
    status = main(["selftest", *common, "--races", "99", "--write", "--json", str(tmp_path / "out.json")])
    printed = capsys.readouterr()
    fault.check(status, printed.out + printed.err)
    assert "the smallest delta this machine can gate at" in printed.out
    found = json.loads((tmp_path / "out.json").read_text())
    assert sum(map(len, found["trials"].values())) > 2
    assert found["decision"]["verdict"] == "INVALID"
    assert expectations.read_text() == "[default]\ndelta = 0.05\n"


@pytest.mark.parametrize(
    ("option", "values"),
    [("--model", ("resnet50", "vgg16")), ("--engine", ("onnxruntime-int8", "openvino-int8")), ("--batch-size", "18")],
)
def test_a_selftest_is_of_one_engine(
    option: str, values: Sequence[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It says nothing of a second one, which nothing but this would say."""
    given = [f"{option}={value}" for value in values]
    assert main(["selftest", "--device=cpu", f"--plan-cache={tmp_path}", *given]) == 2
    told = f"{option}: a selftest is on one engine of one model, and not on {values[0]} and {values[1]}; give one"
    assert told in capsys.readouterr().err


@pytest.mark.usefixtures("rough_tails")
@pytest.mark.parametrize("when", ["before", "while", "a folder"])
@pytest.mark.fault(
    done="`selftest --write` on a disk that is full, or becomes so meanwhile; a folder in the place of FILE.tmp",
    said="trtgate: --write: ... cannot be written through",
    status="2",
    kept="expectations.toml as it was, and the table of what was measured",
)
def test_limits_that_cannot_be_written(
    when: str,
    small_disk: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Fault,
) -> None:
    class Bench:
        engine = batch = __exit__ = lambda *_: None

        def __init__(self, *_: object) -> None: ...

        def __enter__(self) -> Bench:
            return self

    def measure(*_: object, **__: object) -> selftest.Selftest:
        assert when == "while"
        fill(small_disk)
        return run_toy(delta=0.05, slowdown=0.1)

    monkeypatch.setattr("trtgate.commands.selftest.Workbench", Bench)
    monkeypatch.setattr("trtgate.commands.selftest.run_selftest", measure)
    path = small_disk / "mine.toml"
    path.write_text("[default]\ndelta = 0.05\n")
    if when == "before":
        fill(small_disk)
    elif when == "a folder":
        (small_disk / "mine.toml.tmp").mkdir()
    common = [f"--plan-cache={tmp_path / 'plans'}", "--device=cpu", f"--expectations={path}"]
    status = main(["selftest", *common, "--write"])
    printed = capsys.readouterr()
    fault.check(status, printed.err)
    assert path.read_text() == "[default]\ndelta = 0.05\n"
    assert ("the smallest delta" in printed.out) == (when == "while")


def test_the_wait_is_inside_the_timed_region(lite0: Workbench) -> None:
    engine, batch = lite0.engine(parse_spec("onnxruntime-int8")), lite0.batch(1)
    assert engine.slowed_block(batch, [0.02] * 3).seconds.min() >= 0.02


@pytest.mark.slow
@pytest.mark.usefixtures("short_blocks")
def test_selftest_command(
    plan_cache: Path,
    tmp_path: Path,
    lite0: Workbench,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Who else uses this machine is not under test.
    monkeypatch.setattr("trtgate.commands.selftest.monitor_for", lambda device: NoMonitor)
    lite0.plan(parse_spec("onnxruntime-int8"))
    expectations = tmp_path / "expectations.toml"
    expectations.write_text("[quantize.efficientnet_lite0]\nkeep_float = ['_conv_stem']\n")
    out = tmp_path / "selftest.json"
    common = ["--plan-cache", str(plan_cache), "--expectations", str(expectations)]
    status = main(["selftest", *common, "--races", "2", "--slowdown", "50%", "--json", str(out), "--write"])
    found = json.loads(out.read_text())
    assert [len(trials) for trials in found["trials"].values()] == [2, 1, 1, 1]
    assert len(found["trials"]["slowed by 50.0%"][0]["new"]) in LOOKS
    assert found["smallest_delta"] >= 0.005
    good = found["decision"]["verdict"] == "PASS" and found["smallest_delta"] < 0.5
    assert (status == 0) == good
    assert (f"delta = {found['smallest_delta']:g}" in expectations.read_text()) == good
    text = capsys.readouterr().out
    assert "the smallest delta this machine can gate at" in text
    assert "lower_quartile" in text


def test_nodes_are_grouped_by_their_first_parts() -> None:
    names = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "fc"]
    assert list(group_nodes(names, 2)) == ["conv1", "layer1.0", "layer1.1", "fc"]
    assert list(group_nodes(names, 1)) == ["conv1", "layer1", "fc"]
    assert list(group_nodes(names, 0)) == names


@pytest.mark.slow
def test_sensitivity_finds_what_quantising_everything_costs(lite0: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtgate.commands.sensitivity.PHOTOS", 12)
    rows = {row.group: row for row in sensitivities(lite0, parse_spec("openvino-int8"), 1, SILENT)}
    assert set(rows) == {"_conv_stem", "_blocks", "_conv_head", "_fc", "(all)"}
    assert rows["_fc"].agreement.sqnr_db > rows["_blocks"].agreement.sqnr_db
    assert rows["(all)"].agreement.sqnr_db < rows["_fc"].agreement.sqnr_db
    assert all(math.isfinite(row.latency) for row in rows.values())


def test_layers_that_were_tried_are_shown_where_the_rest_is_not_waited_for(
    lite0: Workbench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def first(*_: object) -> Iterator[Sensitivity]:
        logits = np.random.default_rng(0).standard_normal((4, 10)).astype(np.float32)
        yield Sensitivity("_fc", ("_fc",), compare_logits(logits, logits + 0.1), 1e-3)
        raise KeyboardInterrupt

    monkeypatch.setattr("trtgate.commands.sensitivity.sensitivities", first)
    given = ["--device=cpu", "--model=efficientnet_lite0", "--engine=onnxruntime-int8"]
    assert main(["sensitivity", *given, f"--plan-cache={lite0.settings.plan_cache}"]) == 130
    printed = capsys.readouterr()
    assert "_fc" in printed.out
    assert "trtgate: interrupted" in printed.err


def test_sessions_run_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    commands: list[list[str]] = []
    statuses = iter([0, 6, 0])
    storage = tmp_path / "storage"
    storage.mkdir()

    def run(command: list[str], environment: object) -> int:
        commands.append(command)
        (storage / f"000{len(commands)}_before.json").touch()
        return next(statuses)

    monkeypatch.setattr("trtgate.commands.sessions.run_command", run)
    arguments = ["--model", "resnet50", "--benchmark-storage", str(storage)]
    assert main(["sessions", "3", "--save", "before", "--", *arguments]) == 6
    assert len(commands) == 3
    assert commands[0][1:] == ["-m", "pytest", "bench/", "--benchmark-save=before", *arguments]


@pytest.mark.parametrize("argument", ["--version", "--benchmark-save=other"])
@pytest.mark.fault(
    done="`sessions N --save NAME` with an option of pytest's that runs nothing, or saves under another name",
    said="session 1 saved nothing as zzz in ...; leave options out that run no test or save elsewhere",
    status="2",
    kept="nothing; no more sessions are run",
)
def test_sessions_that_save_nothing_are_no_success(
    argument: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: Fault
) -> None:
    def run(command: list[str], environment: object) -> int:
        if "other" in argument:
            (tmp_path / "0001_other.json").touch()
        return 0

    monkeypatch.setattr("trtgate.commands.sessions.run_command", run)
    monkeypatch.setenv("PYTEST_ADDOPTS", f"--benchmark-storage=file://{tmp_path}")
    fault.check(main(["sessions", "3", "--save", "zzz", "--", argument]), capsys.readouterr().err)


def test_options_in_the_environment_that_cannot_be_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-k 'latency")
    assert main(["sessions", "1", "--save", "before"]) == 2
    assert "trtgate: PYTEST_ADDOPTS cannot be read (No closing quotation)" in capsys.readouterr().err


@pytest.mark.parametrize(("ended", "status", "said"), [(1, 1, "with status 1;"), (-9, 137, "with SIGKILL;")])
def test_sessions_stop_at_the_first_that_failed(
    ended: int, status: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("trtgate.commands.sessions.run_command", lambda command, environment: ended)
    assert main(["sessions", "3", "--save", "before"]) == status
    assert f"session 1 ended {said} no more are run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["selftest", "--engine", "tensorflow-fp32"], "tensorflow-fp32"),
        (["selftest", "--model", "resnet5000"], "resnet5000"),
        (["sensitivity", "--engine", "onnxruntime-fp32"], "INT8"),
        (["sensitivity", "--engine", "tensorrt-int8"], "give --device cpu with --engine onnxruntime-int8"),
        (["selftest", "--weights", "nonsense"], "MODEL=PATH"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: list[str], named: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--plan-cache", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert "Traceback" not in error


@pytest.mark.parametrize("value", ["0", "150%", "much"])
def test_a_slowdown_must_be_a_share(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["selftest", "--slowdown", value])
    assert "--slowdown" in capsys.readouterr().err
