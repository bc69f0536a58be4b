"""Steps over time: found, put down to something, drawn; and how often there is none."""

from __future__ import annotations

import json
import math
import os
import shutil
import sys
import time
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent / "studies"))

from simulation import LOADED, QUIET, SHARED, Noise
from trend import HISTORIES, false_steps, found_steps

from trtgate.__main__ import main
from trtgate.report import markdown
from trtgate.trend import change_points

from . import scenes
from .saved import save
from .test_pages import Document, numbers


@pytest.fixture(autouse=True)
def somewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def nights(count: int, at: int, factor: float = 1.05, *, after: dict[str, Any] | None = None, **keywords: Any) -> None:
    """So many nightly sessions, slower by `factor` from one on, where `after` holds too."""
    for night in range(count):
        stepped = night >= at
        more = {**keywords, **(after or {} if stepped else {})}
        when = f"2026-{1 + night // 28:02}-{1 + night % 28:02}T03:00:00"
        more.setdefault("changes", scenes.STACK)
        save(night + 1, "nightly", engine=1e-3 * (factor if stepped else 1.0), when=when, **more)


def test_a_session_and_its_copies_are_one(capsys: pytest.CaptureFixture[str]) -> None:
    """A baseline is a copy of sessions, and more of the same number would be less noise than there is."""
    nights(4, 4)
    shutil.copytree(".benchmarks", "baseline")
    assert main(["report", "nightly", "baseline", "--json", "out.json", "--trend"]) == 0
    assert len(json.loads(Path("out.json").read_text())["sessions"]) == 4
    shutil.copytree("baseline", "again")
    (one, *_) = sorted(Path("again").glob("**/*.json"))
    (other,) = Path("baseline").glob(f"**/{one.name}")
    capsys.readouterr()
    assert main(["report", str(one), str(other), "--trend"]) == 2
    assert "a trend needs two sessions or more" in capsys.readouterr().err


CONTROLS = {"control-matmul": 1e-3, "control-copy": 2e-3}
SLOWER = {**CONTROLS, "control-matmul": 1.05e-3}


def of_host(control: float, enqueue: float) -> dict[str, Any]:
    """A GPU's engine, by what handing it over takes."""
    return {"controls": {**CONTROLS, "control-host": control}, "enqueue_seconds": enqueue}


@pytest.mark.parametrize(
    ("before", "after", "cause", "detail"),
    [
        ({}, {}, "unexplained", ""),
        ({}, {"changes": {**scenes.STACK, "onnxruntime": "1.23"}}, "stack", "onnxruntime: 1.22 -> 1.23"),
        ({"controls": CONTROLS}, {"controls": SLOWER}, "machine", "control-matmul +5.0%"),
        # Fixed work that moved the other way, or hardly, explains nothing.
        ({"controls": CONTROLS}, {"controls": {**CONTROLS, "control-matmul": 0.95e-3}}, "unexplained", ""),
        ({"controls": CONTROLS}, {"controls": {**CONTROLS, "control-copy": 2.01e-3}}, "unexplained", ""),
        # The host's explains what waits for the host.
        (of_host(1e-4, 0.9e-3), of_host(1.05e-4, 0.9e-3), "machine", "control-host +5.0%"),
        (of_host(1e-4, 0.1e-3), of_host(1.05e-4, 0.1e-3), "unexplained", ""),
    ],
)  # fmt: skip
def test_a_step_is_found_and_put_down_to_something(
    before: dict[str, Any],
    after: dict[str, Any],
    cause: str,
    detail: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(markdown.SUMMARY_VARIABLE, "summary.md")
    nights(20, 12, after=after, **before)
    assert main(["report", "nightly", "--json", "trend.json", "--html", "trend.html"]) == 0
    document = json.loads(Path("trend.json").read_text())
    [latency] = [series for series in document["series"] if series["metric"] == "latency"]
    [step] = latency["steps"]
    assert (step["index"], step["cause"], step["detail"]) == (12, cause, detail)
    assert step["after"] / step["before"] == pytest.approx(1.05, abs=0.005)
    assert "2026-01-13" in capsys.readouterr().out
    # A job's summary has one line of it.
    told = [line for line in Path("summary.md").read_text().splitlines() if line]
    assert told[0] == "### trtgate: trend"
    assert len(told) == 2
    page = Document(Path("trend.html").read_text())
    counts = {float(len(series[name])) for series in document["series"] for name in ("values", "steps")}
    ratios = {
        math.exp(math.log(step["after"] / step["before"])) for series in document["series"] for step in series["steps"]
    }
    # By which the steps are sorted.
    assert ratios <= set(page.values) <= set(numbers(document)) | counts | ratios
    assert page.tags["svg"]


def test_nothing_steps_where_nothing_changed(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    nights(20, 20, series={"plan_bytes": (25e6,)})
    monkeypatch.setenv(markdown.SUMMARY_VARIABLE, "summary.md")
    assert main(["report", "nightly"]) == 0
    assert "no step in" in capsys.readouterr().out
    assert not Path("summary.md").exists()


def test_too_few_sessions_to_have_a_step_are_not_called_steady(capsys: pytest.CaptureFixture[str]) -> None:
    nights(4, 2, factor=2.0)
    assert main(["report", "nightly"]) == 0
    said = capsys.readouterr().out
    assert "no step in 2 series of 4 sessions (all too short to have one)" in said
    assert "a step has 3 sessions on either side: 2 series of fewer than 6 can have none" in said
    assert "nothing stepped" not in said
    for night in range(6):
        save(20 + night, "nightly", model="other", when=f"2026-01-{10 + night}", changes=scenes.STACK)
    assert main(["report", "nightly"]) == 0
    assert "no step in 4 series of 10 sessions (2 too short to have one); 1 engine" in capsys.readouterr().out


def test_an_engine_that_is_gone_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    both = ("onnxruntime-int8", "openvino-fp32")
    nights(
        8,
        7,
        factor=1.0,
        engines=both,
        after={"engines": both[:1], "summary": {"skipped": {f"resnet50 {both[1]}": "broken"}}},
    )
    assert main(["report", "nightly", "--html", "trend.html"]) == 0
    lost = "resnet50 openvino-fp32 batch 1, last on 2026-01-07, on Imaginary CPU on here; then broken"
    said = capsys.readouterr().out
    assert f"not in the newest session: {lost}" in said
    assert "no step in 4 series of 8 sessions; 1 engine is not in the newest session" in " ".join(said.split())
    assert any(lost in each for each in Document(Path("trend.html").read_text()).texts)


def test_numbers_without_noise() -> None:
    assert change_points([5.0] * 20) == []
    assert change_points([5.0] * 10 + [6.0] * 10) == [10]
    assert change_points([5.0, 6.0]) == []
    # One night that stands out is no step, and neither is the last one yet.
    assert change_points([5.0, 5.01, 5.02] * 4 + [9.0] + [5.0, 5.01, 5.02] * 4) == []
    assert change_points([5.0, 5.01, 5.02] * 4 + [9.0]) == []


@pytest.mark.parametrize(("before", "after", "change"), [(60, 0, "-100.0%"), (0, 60, "+999900.0%")])
def test_answers_of_which_none_agree_are_a_step(
    before: int, after: int, change: str, capsys: pytest.CaptureFixture[str]
) -> None:
    low = {"low": None}
    agreement, more = scenes.agreement(before), {"agreement": {**scenes.agreement(after), **low}}
    nights(12, 6, factor=1.0, after=more, agreement={**agreement, **low})
    assert main(["report", "nightly", "--json", "trend.json", "--html", "trend.html"]) == 0
    [found] = [each for each in json.loads(Path("trend.json").read_text())["series"] if each["metric"] == "agreement"]
    assert [(step["index"], step["before"], step["after"]) for step in found["steps"]] == [(6, before / 60, after / 60)]
    out = capsys.readouterr().out
    assert change in out
    assert "1 step in" in out


def test_names_of_sessions_reach_no_terminal_and_no_file_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    nights(8, 4, after={"changes": {**scenes.STACK, "onnxruntime": "1.23"}})
    for number, path in enumerate(sorted(Path(".benchmarks").rglob("*.json"))):
        path.rename(os.fsdecode(os.fsencode(path.with_name(f"{number:04}_\x1b[31mnightly")) + b"\xff.json"))
    (Path(".benchmarks") / "\x1b[31m").mkdir()
    (Path(".benchmarks") / "\x1b[31m" / "verdict.json").write_text("{}")
    outputs = ["--html", "trend.html", "--markdown", "trend.md"]
    assert main(["report", ".benchmarks", "--trend", *outputs]) == 0
    said = capsys.readouterr().out
    assert "0004_nightly?.json" in said
    assert "verdict.json" in said
    assert "\x1b" not in said + Path("trend.html").read_text() + Path("trend.md").read_text()


def test_two_machines_are_two_series() -> None:
    nights(8, 8)
    for number in range(8):
        when = f"2026-01-{1 + number:02}T04:00:00"
        save(50 + number, "nightly", engine=2e-3, when=when, changes={**scenes.STACK, "node": "there"})
    assert main(["report", "nightly", "--json", "trend.json"]) == 0
    document = json.loads(Path("trend.json").read_text())
    latency = [series for series in document["series"] if series["metric"] == "latency"]
    assert [(series["machine"], len(series["values"])) for series in latency] == [
        ("Imaginary CPU on here", 8),
        ("Imaginary CPU on there", 8),
    ]
    assert not any(series["steps"] for series in document["series"])


def test_what_a_trend_cannot_be_made_of(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    nights(2, 2)
    assert main(["report", "0001"]) == 2
    assert "two sessions or more" in capsys.readouterr().err
    # No name is not the folder that one is in.
    assert main(["report", ""]) == 2
    assert "a session has a name" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "otava.analysis", None)
    assert main(["report", "nightly"]) == 2
    error = capsys.readouterr().err
    assert "requirements-trend.txt" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("noise", [QUIET, SHARED, LOADED], ids=lambda noise: noise.name)
def test_false_steps_are_rare(noise: Noise) -> None:
    assert false_steps(noise, trials=30) <= 1.0


@pytest.mark.parametrize("noise", [QUIET, SHARED], ids=lambda noise: noise.name)
@pytest.mark.parametrize("history", HISTORIES)
def test_three_percent_are_found_within_five_sessions(noise: Noise, history: int) -> None:
    trials = 150
    # 95 % are promised; two and a half standard deviations are this sample's own.
    assert found_steps(noise, 0.03, history, trials) >= 0.95 - 2.5 * (0.05 * 0.95 / trials) ** 0.5


@pytest.mark.slow
def test_fifty_sessions_of_twenty_engines_are_quick_and_small() -> None:
    engines = tuple(f"engine-{index}" for index in range(20))
    nights(50, 50, engines=engines, iterations=scenes.iterations(1e-3, 1), controls=CONTROLS)
    start = time.monotonic()
    assert main(["report", "nightly", "--html", "trend.html"]) == 0
    assert time.monotonic() - start <= 10
    assert Path("trend.html").stat().st_size <= 3_000_000
