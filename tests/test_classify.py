"""`python -m trtgate classify`: photos in, classes and latencies out."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from trtgate.__main__ import main
from trtgate.commands.classify import Seen, classify_page
from trtgate.engines import parse_spec
from trtgate.measure.race import SCHEDULES, NoMonitor
from trtgate.report import terminal
from trtgate.report.page import Table
from trtgate.verdict.answers import shares_of
from trtgate.workbench import Workbench

from .faults.table import Fault

PHOTOS = Path(__file__).resolve().parent.parent / "data" / "evaluation"


def seen(**logits: list[float]) -> Seen:
    """One photo, three classes, and an engine for each keyword."""
    answers = {name.replace("_", "-"): np.array([row], np.float32) for name, row in logits.items()}
    classes = ("goldfish", "tench", "<b>")
    return Seen("toy", ("a.jpg",), classes, answers, dict.fromkeys(answers, 2e-3), 1, True, {})


def test_shares_are_scipys_softmax_and_of_shares_themselves() -> None:
    from scipy.special import softmax

    logits = np.array([[1000.0, 999.0, -1000.0, 3.0], [0.5, 0.25, 0.25, 0.0]], np.float32)
    np.testing.assert_allclose(shares_of(logits), softmax(logits.astype(np.float64), 1), rtol=1e-12)
    np.testing.assert_array_equal(shares_of(logits[1:]), logits[1:])


def test_classes_above_ten_percent_are_shown_and_the_surest_always() -> None:
    page = classify_page([seen(pytorch_fp32=[3.0, 2.0, -9.0], openvino_int8=[0.0, 0.1, 0.0])])
    [table] = [part for part in page.sections[0].parts if isinstance(part, Table)]
    shown = [(row[1].text, row[3].text, row[4].text) for row in table.rows]
    assert shown[:2] == [("pytorch-fp32", "73.1%", "goldfish"), ("pytorch-fp32", "26.9%", "tench")]
    assert [name for _, _, name in shown[2:]] == ["tench", "goldfish", "<b>"]
    assert "0 of 1 first answers are those of pytorch-fp32" in terminal.render(page)
    flat = {"pytorch-fp32": np.zeros((1, 20), np.float32)}
    many = Seen("toy", ("a.jpg",), [f"{index}" for index in range(20)], flat, {"pytorch-fp32": 1e-3}, 1, False, {})
    text = terminal.render(classify_page([many]))
    assert text.count("5.0%") == 1
    assert "toy is untrained" in text


def test_no_answer_is_that_of_the_reference() -> None:
    nothing = [float("nan"), 0.0, 0.0]
    page = classify_page([seen(pytorch_fp32=[3.0, 2.0, -9.0], openvino_int8=nothing)])
    text = terminal.render(page)
    assert "0 of 1 first answers are those of pytorch-fp32" in text
    assert re.search(r"openvino-int8 +2\.000 +- not finite", text)
    assert "0 of 1 first" in terminal.render(classify_page([seen(pytorch_fp32=nothing, openvino_int8=nothing)]))


def test_a_class_with_a_long_name_leaves_the_engines_and_their_numbers_where_they_are() -> None:
    named = replace(seen(pytorch_fp32=[3.0, 2.0, -9.0]), classes=("a class that is told in words " * 5, "b", "c"))
    text = terminal.render(classify_page([named]))
    assert re.search(r"a\.jpg pytorch-fp32 +2\.000 +73\.1% a class that", text)
    assert max(map(len, text.splitlines())) <= terminal.WIDTH


@pytest.mark.usefixtures("short_blocks")
def test_classify_command(
    plan_cache: Path, lite0: Workbench, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A few calls a block: that a time is shown is under test, and each is of a tenth of a second.
    few = replace(SCHEDULES["cpu"], block_iterations=2, lead_in_iterations=1, warm_up_iterations=2)
    monkeypatch.setitem(SCHEDULES, "cpu", few)  # type: ignore[arg-type]  # a Mapping for everybody else
    # Who else uses this machine is not under test, and makes it race for up to twenty times as long.
    monkeypatch.setattr("trtgate.commands.classify.monitor_for", lambda device: NoMonitor)
    lite0.plan(parse_spec("onnxruntime-int8"))
    photos = [str(PHOTOS / name) for name in ("goldfish.jpg", "panda.jpg")]
    assert main(["classify", *photos, "--engine", "onnxruntime-int8", "--plan-cache", str(plan_cache)]) == 0
    out = capsys.readouterr().out
    for engine in ("pytorch-fp32", "onnxruntime-int8"):
        assert out.count(engine) >= 2
    assert len(re.findall(r"\d% goldfish$", out, re.MULTILINE)) == 2
    assert len(re.findall(r"\d% giant panda$", out, re.MULTILINE)) == 2
    assert "2 photos: 2 of 2 first answers are those of pytorch-fp32" in out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.jpg"], "nowhere.jpg cannot be read (No such file or directory); give a photo"),
        (["text.jpg"], "text.jpg is not an image that OpenCV can read; give a photo"),
        (["folder"], "folder cannot be read"),
        ([str(PHOTOS / "bee.jpg"), "--model", "resnet5000"], "--model resnet5000 is neither"),
        ([str(PHOTOS / "bee.jpg"), "--engine", "onnxruntime-int9"], "onnxruntime-int9"),
        ([str(PHOTOS / "bee.jpg"), "--engine", "tensorrt-fp16", "--device", "cpu"], "--engine tensorrt-fp16: "),
    ],
)
def test_what_cannot_be_classified_is_one_sentence(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("text.jpg").write_text("no photo")
    Path("folder").mkdir()
    assert main(["classify", *arguments]) == 2
    error = capsys.readouterr().err.splitlines()
    assert said in error[-1]
    assert not any("Traceback" in line for line in error)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["classify", "pipe"], "pipe cannot be read (it is no regular file); give a photo"),
        (["classify", "a.jpg", "--model", "pipe.toml"], "--model pipe.toml cannot be read (it is no regular file)"),
        (["classify", "a.jpg", "--model", "pipe.onnx"], "--model pipe.onnx is no regular file"),
        (["classify", "a.jpg", "--weights", "efficientnet_lite0=pipe"], "--weights: pipe cannot be read"),
        (["classify", "a.jpg", "--expectations", "pipe"], "pipe is no regular file"),
        (["bisect", "--package", "onnxruntime", "--requirements", "pipe"], "--requirements pipe cannot be read"),
    ],
)
@pytest.mark.fault(
    done="a pipe where a photo, a model, weights, limits or requirements are to be read",
    said="pipe... regular file",
    status="2",
    kept="everything; nothing is waited for",
)
def test_a_pipe_is_not_waited_for(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    fault: Fault,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("pipe", "pipe.toml", "pipe.onnx"):
        os.mkfifo(name)
    more = ["--good", "1.22.0", "--bad", "1.23.0"] if "bisect" in arguments else []
    status = main([*arguments, *more, "--device", "cpu", "--plan-cache", str(tmp_path / "plans")])
    told = capsys.readouterr().err
    assert named in told
    fault.check(status, told)
