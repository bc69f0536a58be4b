"""Saved sessions against saved sessions, from the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.saved import save, sessions
from trtgate.__main__ import main
from trtgate.compare import compare_records
from trtgate.expectations import read_expectations
from trtgate.records import EngineRecord, Key
from trtgate.verdict.decision import Reason
from trtgate.verdict.policy import exit_status


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("new", "status", "verdict"),
    [
        ({}, 0, "PASS"),
        ({"engine": 0.8e-3}, 0, "IMPROVED"),
        ({"engine": 1.08e-3}, 1, "REGRESSED"),
        # A faster reference shrinks the speedup: that is printed, and no fault of the engine.
        ({"reference": 3.6e-3}, 0, "PASS"),
        # A driver that slows both leaves the speedup alone; the absolute latency is gated too.
        ({"engine": 1.1e-3, "reference": 4.4e-3}, 1, "REGRESSED"),
    ],
)
def test_five_sessions_against_five(
    new: dict[str, Any], status: int, verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    sessions("before", 1)
    sessions("after", 6, **new)
    assert main(["compare", "before", "after"]) == status
    assert verdict in capsys.readouterr().out


def unsteady_reference(name: str, first: int, references: tuple[float, ...], **keywords: Any) -> None:
    for number, reference in enumerate(references, first):
        save(number, name, reference=reference, **keywords)


UNSTEADY = (3.2e-3, 5.8e-3, 4.0e-3, 3.4e-3, 4.8e-3)


@pytest.mark.parametrize(("engine", "status", "verdict"), [(1e-3, 0, "PASS"), (1.08e-3, 1, "REGRESSED")])
def test_noise_of_the_reference_fails_no_engine_and_hides_none(
    engine: float, status: int, verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    unsteady_reference("before", 1, UNSTEADY)
    unsteady_reference("after", 6, UNSTEADY[::-1], engine=engine)
    assert main(["compare", "before", "after"]) == status
    text = capsys.readouterr().out
    assert f"resnet50 onnxruntime-int8 batch 1: {verdict}" in text
    assert "(printed, not gated)" in text


@pytest.mark.parametrize(
    ("slower", "status", "verdict"), [(1.0, 0, "PASS (yardstick)"), (2.5, 1, "REGRESSED (slower)")]
)
def test_the_reference_fails_only_by_a_proven_regression(
    slower: float, status: int, verdict: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, first, factor in (("before", 1, 1.0), ("after", 6, slower)):
        for number, seconds in enumerate(UNSTEADY, first):
            save(number, name, factor * seconds, factor * seconds, engines=("pytorch-fp32",))
    assert main(["compare", "before", "after"]) == status
    assert f"resnet50 pytorch-fp32 batch 1: {verdict}" in capsys.readouterr().out


def test_both_parts_of_a_changed_speedup_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6, reference=3.6e-3)
    main(["compare", "before", "after"])
    assert "speedup: 4.00 -> 3.60 (printed, not gated); engine +0.0%, reference -10.0%" in capsys.readouterr().out


def test_a_slower_clock_is_told_from_more_cycles(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, clock=2000.0)
    sessions("after", 6, engine=1.25e-3, clock=1600.0)
    assert main(["compare", "before", "after"]) == 1
    assert "clock 2000 -> 1600 MHz, cycles +0.0%" in capsys.readouterr().out


def test_a_link_that_got_slower_is_found_though_computing_did_not(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, series={"end_to_end": (2.0e-3,) * 15})
    sessions("after", 6, series={"end_to_end": (2.4e-3,) * 15})
    assert main(["compare", "before", "after"]) == 1
    assert "end to end: REGRESSED (slower), slower by +20.0%" in capsys.readouterr().out


def test_fixed_work_tells_the_machine_from_the_engine(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, controls={"control-matmul": 1e-3, "control-copy": 2e-3})
    sessions("after", 6, engine=1.2e-3, controls={"control-matmul": 1.2e-3, "control-copy": 2e-3})
    assert main(["compare", "before", "after"]) == 7
    text = capsys.readouterr().out
    assert "INVALID (machine_changed)" in text
    assert "engine +20.0%, reference +0.0%, control-matmul +20.0%, control-copy +0.0%" in text


def test_the_layers_that_changed_are_named_the_worst_first(capsys: pytest.CaptureFixture[str]) -> None:
    before = {"conv1": {"ms": 0.4, "type": "int8"}, "conv2": {"ms": 0.3, "type": "int8"}, "fc": {"ms": 0.3, "type": ""}}
    after = {
        "conv1": {"ms": 0.4, "type": "int8"},
        "conv2": {"ms": 0.6, "type": "float16"},
        "pool": {"ms": 0.1, "type": ""},
    }
    sessions("before", 1, layer_times=before)
    sessions("after", 6, engine=1.2e-3, layer_times=after)
    assert main(["compare", "before", "after"]) == 1
    text = capsys.readouterr().out
    assert "layer conv2: 0.3000 -> 0.6000 ms (+0.3000), int8 -> float16" in text
    assert "layer fc: 0.3000 -> none ms" in text
    assert "conv1" not in text


def test_limits_of_a_models_own_file_are_those_of_the_newest_session(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, summary={"limits": {"resnet50": {"delta": 0.01}}})
    sessions("after", 6, engine=1.08e-3)
    save(11, "after", engine=1.08e-3, summary={"limits": {"resnet50": {"delta": 0.3}}, "own": ["resnet50"]})
    assert main(["compare", "before", "after"]) == 0
    # The file that the user edits has the last word.
    Path("mine.toml").write_text("[models.resnet50.engines.onnxruntime-int8]\ndelta = 0.03\n")
    assert main(["compare", "before", "after", "--expectations", "mine.toml"]) == 1
    save(12, "after", engine=1.08e-3, summary={"limits": {"resnet50": {"dleta": 0.3}}})
    capsys.readouterr()
    assert main(["compare", "before", "after"]) == 2
    assert "0012_after.json: key dleta in [limits.resnet50] is unknown; did you mean delta?" in capsys.readouterr().err


def test_four_sessions_are_too_few(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    save(6, "after")
    assert main(["compare", "before", "after"]) == 6
    assert "underpowered" in capsys.readouterr().out


def test_json_and_markdown_say_the_same(tmp_path: Path) -> None:
    sessions("before", 1, engines=("onnxruntime-int8", "openvino-int8"))
    sessions("after", 6, engine=1.2e-3, changes={"onnxruntime": "99.0"})
    status = main(["compare", "before", "after", "--json", "out.json", "--markdown", "out.md"])
    assert status == 1
    report = json.loads(Path("out.json").read_text())
    assert report["engines"][0]["decision"]["verdict"] == "REGRESSED"
    assert report["missing"][0]["engine"] == "openvino-int8"
    assert any("99.0" in change for change in report["stack_changes"])
    text = Path("out.md").read_text()
    assert "| resnet50 | onnxruntime-int8 | 1 | 1.0" in text
    assert "| resnet50 | openvino-int8 | 1 | | | | | | REGRESSED | missing |" in text


def test_an_unfinished_race_is_invalid(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6)
    path = Path(".benchmarks/Linux/0007_after.json")
    document = json.loads(path.read_text())
    document["benchmarks"][0]["extra_info"]["trtgate"]["complete"] = False
    path.write_text(json.dumps(document))
    assert main(["compare", "before", "after"]) == 7
    assert "INVALID" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["before", "later"], "later"),
        (["before", "after", "--expectations", "nowhere.toml"], "nowhere.toml"),
    ],
)
def test_a_mistake_is_one_sentence(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1)
    sessions("after", 6)
    assert main(["compare", *arguments]) == 2
    error = capsys.readouterr().err
    assert named in error
    assert error.count("\n") == 1


def test_another_gpu_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    sessions("before", 1, changes={"gpu": "NVIDIA T4"})
    sessions("after", 6, changes={"gpu": "NVIDIA L4"})
    assert main(["compare", "before", "after"]) == 2
    assert "another gpu" in capsys.readouterr().err


def test_a_reference_slower_by_what_many_decisions_make_by_chance_fails_nothing() -> None:
    names = ("pytorch-fp32", *(f"openvino-{precision}" for precision in ("fp32", "bf16", "int8")), "onnxruntime-int8")
    apart = (1.0, 1.1, 1.2, 1.3, 1.4)

    def side(slower: float) -> dict[Key, list[EngineRecord]]:
        return {
            ("resnet50", name, batch): [
                EngineRecord("resnet50", name, batch, "file", {
                    "latency": (1e-3 * (slower * each if name == "pytorch-fp32" else 1.0),) * 3,
                    "reference_latency": (1e-3,) * 3,
                })
                for each in apart
            ]
            for name in names
            for batch in (1, 2, 4, 8)
        }  # fmt: skip

    report = compare_records(side(1.0), side(1.45), read_expectations(), "sessions", {})
    reference = next(each for each in report.engines if each.key == ("resnet50", "pytorch-fp32", 1))
    assert reference.decision.reason is Reason.YARDSTICK
    assert "by chance" in reference.decision.message
    assert exit_status(decision.verdict for decision in report.decisions()) == 0
