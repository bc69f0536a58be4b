"""What dashboards are given, read as they read it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from trtgate.__main__ import main
from trtgate.records import read_session

from . import scenes
from .saved import save


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON")


def export(form: str, *sessions: str) -> Any:
    assert main(["report", *sessions, "--json", "out.json", "--json-as", form]) == 0
    return json.loads(Path("out.json").read_text(), parse_constant=no_constant)


def github_action_benchmark(document: Any) -> dict[str, dict[str, Any]]:
    """As its src/extract.ts takes `customSmallerIsBetter`, and src/write.ts finds the entries of the last run."""
    assert isinstance(document, list)
    assert document, "No benchmark result was found"
    entries = [{key: each.get(key) for key in ("name", "value", "unit", "range", "extra")} for each in document]
    for each in entries:
        assert isinstance(each["name"], str)
        assert isinstance(each["unit"], str)
        assert isinstance(each["value"], int | float)
        assert all(isinstance(each[key], str | None) for key in ("range", "extra"))
    found = {each["name"]: each for each in entries}
    assert len(found) == len(entries), "an entry is compared with the last run's of its name"
    return found


def bencher(document: Any) -> dict[str, dict[str, dict[str, float]]]:
    """As its schema (https://bencher.dev/bmf.json) and the lengths of its names have it."""
    assert isinstance(document, dict)
    for benchmark, measures in document.items():
        assert 0 < len(benchmark) <= 1024
        for measure, metric in measures.items():
            assert 0 < len(measure) <= 64
            assert measure == measure.lower().replace("_", "-").replace(" ", "-"), "it would be given another slug"
            assert "value" in metric
            assert set(metric) <= {"value", "lower_value", "upper_value"}
            assert all(isinstance(each, float) and math.isfinite(each) for each in metric.values())
            assert metric.get("lower_value", metric["value"]) <= metric["value"]
            assert metric["value"] <= metric.get("upper_value", metric["value"])
    return document


def test_sessions_for_github_action_benchmark() -> None:
    scenes.before_and_after()
    found = github_action_benchmark(export("github-action-benchmark", "before"))
    latency = found["resnet50 onnxruntime-int8 batch 1: latency"]
    records = [read_session(path).engines for path in sorted(Path(".benchmarks").glob("**/*before.json"))]
    seconds = sorted(each["resnet50", "onnxruntime-int8", 1].latency for each in records)
    assert latency["value"] == pytest.approx(seconds[2] * 1e3)
    assert latency["unit"] == "ms"
    assert latency["range"] == f"{seconds[0] * 1e3:.4g} to {seconds[-1] * 1e3:.4g}"
    assert "onnxruntime 1.22" in latency["extra"]
    assert found["resnet50 openvino-fp32 batch 1: plan bytes"]["value"] == pytest.approx(25e6, rel=0.01)
    # What is the better the larger it is would raise an alarm when it gets better.
    assert not any(name.endswith((": speedup", ": throughput", ": agreement")) for name in found)
    # And again over its own file.
    github_action_benchmark(export("github-action-benchmark", "before"))
    bencher(export("bencher", "before"))


def test_a_fleet_for_bencher() -> None:
    scenes.fleet()
    found = bencher(export("bencher", "fleet"))
    assert list(found) == ["l4 resnet50 onnxruntime-int8 batch 1", "t4 resnet50 onnxruntime-int8 batch 1"]
    [session] = Path("fleet/t4").glob("*.json")
    [record] = read_session(session).engines.values()
    measures = found["t4 resnet50 onnxruntime-int8 batch 1"]
    assert measures["latency"]["value"] == pytest.approx(record.latency * 1e9)
    assert measures["speedup"]["value"] == pytest.approx(record.speedup, rel=1e-3)


def test_what_a_dashboard_is_silent_about_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    scenes.fleet()
    for number in (3, 4):
        engines = ("onnxruntime-int8", "openvino-fp32")[: 5 - number]
        save(number, "both", changes={**scenes.STACK, "gpu": "NVIDIA A2"}, engines=engines)
    Path("fleet/a2").mkdir()
    for path in Path(".benchmarks").glob("**/*_both.json"):
        path.rename(Path("fleet/a2") / path.name)
    assert "a10" not in "".join(bencher(export("bencher", "fleet")))
    assert capsys.readouterr().out.splitlines() == [
        "trtgate: a10: no session was recorded, so nothing of it is there",
        "trtgate: a2 resnet50 openvino-fp32 batch 1: measured in 1 of 2 sessions",
        "wrote 8 numbers to out.json",
    ]


def test_bounds_are_those_of_the_processes() -> None:
    save(1, "spread", processes=(4, 5, 6), series={"build_seconds": (40.0,)})
    [measures] = bencher(export("bencher", "spread")).values()
    assert measures["latency"]["lower_value"] < measures["latency"]["value"] < measures["latency"]["upper_value"]
    assert measures["build-time"] == {"value": pytest.approx(40.0, rel=0.01)}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["before", "--json-as", "bencher"], "--json-as needs --json FILE"),
        (["before", "--json-as", "bencher", "--json", "out.json", "--html", "out.html"], "drop --html"),
        (["before", "11", "--json-as", "bencher", "--json", "out.json"], "no saved session is called 11"),
        (["before", "after", "--json-as", "bencher", "--json", "out.json"], "are of different stacks"),
    ],
)
def test_what_cannot_be_exported(arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    scenes.before_and_after()
    assert main(["report", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not Path("out.json").exists()
