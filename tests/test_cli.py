"""`python -m trtgate`: selftest and sensitivity on small real work, sessions, mistakes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from trtgate import selftest
from trtgate.__main__ import main
from trtgate.engines import parse_spec
from trtgate.progress import SILENT
from trtgate.race import Arm, Race, Schedule
from trtgate.selftest import binomial_upper, compare_statistics
from trtgate.sensitivity import group_nodes, sensitivities
from trtgate.workbench import Workbench


@pytest.mark.parametrize(
    ("k", "n", "upper"), [(0, 60, 1 - 0.05 ** (1 / 60)), (0, 1, 0.95), (3, 3, 1.0), (2, 40, 0.1493)]
)
def test_the_binomial_bound_is_exact(k: int, n: int, upper: float) -> None:
    assert binomial_upper(k, n) == pytest.approx(upper, abs=2e-4)


class Toy:
    """An engine of scripted noise: its block reads no clock."""

    spec = parse_spec("onnxruntime-int8")


def scripted_races(monkeypatch: pytest.MonkeyPatch, slow: float) -> None:
    """Replace the race: old takes 1 ms, new the same or `slow` times that, with 1 % of noise of its own."""
    rng = np.random.default_rng(0)

    def times(arm: Arm, schedule: Schedule) -> tuple[np.ndarray, ...]:
        factor = slow if getattr(arm.block, "is_slow", False) else 1.0
        return tuple(1e-3 * factor * np.exp(rng.normal(0, 0.01, 20)) for _ in range(schedule.rounds))

    def race(arms: list[Arm], schedule: Schedule = Schedule(), **_: Any) -> Race:
        return Race({arm.name: times(arm, schedule) for arm in arms}, {arm.name: True for arm in arms})

    def arm(name: str, engine: object, batch: object, seconds: float) -> Arm:
        def run(n: int) -> Any:
            raise AssertionError("no clock is read here")

        run.is_slow = seconds > 0  # type: ignore[attr-defined]
        return Arm(name, run)

    monkeypatch.setattr(selftest, "run_race", race)
    monkeypatch.setattr("trtgate.race.run_race", race)
    monkeypatch.setattr(selftest, "slowed_arm", arm)


def run_toy(delta: float, slowdown: float, absolute_floor: float = 0.0) -> selftest.Selftest:
    return selftest.run_selftest(
        Toy(),  # type: ignore[arg-type]
        np.zeros((1, 3, 4, 4), np.float32),
        model="toy",
        races=(12, 8),
        slowdown=slowdown,
        delta=delta,
        absolute_floor=absolute_floor,
        schedule=Schedule(),
        monitor=lambda: None,  # type: ignore[arg-type, return-value]
    )


def test_a_selftest_counts_false_alarms_and_catches(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_races(monkeypatch, slow=1.1)
    result = run_toy(delta=0.05, slowdown=0.1)
    assert (len(result.same), len(result.slowed)) == (12, 8)
    assert (result.false_alarms, result.caught) == (0, 8)
    assert 0.005 <= result.smallest_delta <= 0.05
    rows = {row.statistic: row for row in compare_statistics(result)}
    assert set(rows) == {"median", "lower_quartile", "minimum"}
    assert all(row.false_alarms == 0 and row.caught == 8 for row in rows.values())


def test_a_slowdown_within_delta_is_not_called_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_races(monkeypatch, slow=1.03)
    assert run_toy(delta=0.05, slowdown=0.03).caught == 0


def test_a_selftest_tells_of_an_absolute_floor_that_hides_what_it_should_catch(monkeypatch: pytest.MonkeyPatch) -> None:
    scripted_races(monkeypatch, slow=1.1)
    assert run_toy(delta=0.05, slowdown=0.1, absolute_floor=1.0).caught == 0


def test_the_wait_is_inside_the_timed_region(lite0: Workbench) -> None:
    engine, batch = lite0.engine(parse_spec("onnxruntime-int8")), lite0.batch(1)
    assert engine.slowed_block(3, batch, 0.02).seconds.min() >= 0.02


@pytest.mark.usefixtures("short_blocks")
def test_selftest_command(
    plan_cache: Path, tmp_path: Path, lite0: Workbench, capsys: pytest.CaptureFixture[str]
) -> None:
    lite0.plan(parse_spec("onnxruntime-int8"))
    expectations = tmp_path / "expectations.toml"
    expectations.write_text("[models.efficientnet_lite0.quantize]\nkeep_float = ['_conv_stem']\n")
    out = tmp_path / "selftest.json"
    common = ["--plan-cache", str(plan_cache), "--expectations", str(expectations)]
    status = main(["selftest", *common, "--races", "2", "--slowdown", "50%", "--json", str(out), "--write"])
    assert status in {0, 1}
    found = json.loads(out.read_text())
    assert len(found["same"]) == 2
    assert len(found["slowed"][0]["new"]) in {15, 30}
    assert found["smallest_delta"] >= 0.005
    assert f"delta = {found['smallest_delta']:g}" in expectations.read_text()
    text = capsys.readouterr().out
    assert "the smallest delta this machine can gate at" in text
    assert "lower_quartile" in text


def test_nodes_are_grouped_by_their_first_parts() -> None:
    names = ["conv1", "layer1.0.conv1", "layer1.0.conv2", "layer1.1.conv1", "fc"]
    assert list(group_nodes(names, 2)) == ["conv1", "layer1.0", "layer1.1", "fc"]
    assert list(group_nodes(names, 1)) == ["conv1", "layer1", "fc"]
    assert list(group_nodes(names, 0)) == names


def test_sensitivity_finds_what_quantising_everything_costs(lite0: Workbench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtgate.sensitivity.PHOTOS", 12)
    rows = {row.group: row for row in sensitivities(lite0, parse_spec("openvino-int8"), 1, SILENT)}
    assert set(rows) == {"_conv_stem", "_blocks", "_conv_head", "_fc", "(all)"}
    assert rows["_fc"].agreement.sqnr_db > rows["_blocks"].agreement.sqnr_db
    assert rows["(all)"].agreement.sqnr_db < rows["_fc"].agreement.sqnr_db
    assert all(math.isfinite(row.latency) for row in rows.values())


def test_sessions_run_in_processes_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []
    statuses = iter([0, 6, 0])

    def run(command: list[str], environment: object) -> int:
        commands.append(command)
        return next(statuses)

    monkeypatch.setattr("trtgate.__main__.run_command", run)
    assert main(["sessions", "3", "--save", "before", "--", "--model", "resnet50"]) == 6
    assert len(commands) == 3
    assert commands[0][1:] == ["-m", "pytest", "bench/", "--benchmark-save=before", "--model", "resnet50"]


def test_sessions_stop_at_the_first_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trtgate.__main__.run_command", lambda command, environment: 1)
    assert main(["sessions", "3", "--save", "before"]) == 1


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["selftest", "--engine", "tensorflow-fp32"], "tensorflow-fp32"),
        (["selftest", "--model", "resnet5000"], "resnet5000"),
        (["sensitivity", "--engine", "onnxruntime-fp32"], "INT8"),
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
