"""A whole `pytest bench/` and `ab` on an ONNX file, as a user runs them."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from onnx import helper

from trtgate.__main__ import main
from trtgate.ab.run import PROCESSES
from trtgate.models.onnx_file import digest_of
from trtgate.records import read_session
from trtgate.stack import version_of

from . import networks
from .faults.table import Fault
from .saved import save
from .test_ab import PYTHON, python_with
from .test_bench import ROOT, bench

# A delta that no noise reaches: this machine's load must not decide a unit test.
WIDE = "delta = 0.9\ntypical = 0.9\ntail = 9\ncold_start = 9\nhost_memory = 0.9\nbuild_seconds = 9\n"


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("file")
    networks.save(networks.heads(), folder / "heads.onnx")
    (folder / "expectations.toml").write_text(f"[default]\n{WIDE}")
    return [
        *("--model", str(folder / "heads.onnx"), "--shape", "x=1x3x32x32", "--engine", "onnxruntime-int8"),
        *("--plan-cache", str(folder / "plans"), "--device", "cpu"),
        *("--expectations", str(folder / "expectations.toml")),
    ]


@pytest.mark.slow
def test_a_file_is_gated_with_no_edit(given: list[str], tmp_path: Path) -> None:
    result = bench(*given, "--benchmark-save=before", "--processes=1", storage=tmp_path)
    # 7: somebody else used the machine meanwhile, and the floors are no verdict then.
    assert result.returncode in {0, 7}, result.stdout[-3000:] + result.stderr
    assert "Traceback" not in result.stdout + result.stderr
    assert "made from the signature and say little" in result.stdout
    assert "heads.onnx@1x3x32x32 onnxruntime-int8, 8 samples" in result.stdout
    [path] = tmp_path.glob("*/0001_before.json")
    session = read_session(path)
    assert session.partial == ()
    record = session.engines["heads.onnx@1x3x32x32", "onnxruntime-int8", 1]
    assert (record.reference, record.weights) == ("onnxruntime-fp32", "onnx")
    assert {(each["name"], each["of"]) for each in record.scores["scores"]} == {
        (name, of) for name in ("cosine", "SQNR", "worst element") for of in ("map", "boxes")
    }
    reference = session.engines["heads.onnx@1x3x32x32", "onnxruntime-fp32", 1]
    assert set(reference.scores["kept"]["sketch"]) == {"map", "boxes"}
    assert "task" in record.digests


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--model", "nowhere.onnx"], "--model nowhere.onnx: nowhere.onnx does not exist; check the path"),
        (["--model", "{heads}"], "the size of x is not known; give it, such as --shape x=1x3x640x640"),
        (["--model", "{heads}", "--shape", "x=1x3x8x8", "--images", "{here}"], "holds no .npz file"),
    ],
)
def test_what_is_wrong_is_one_sentence_and_status_4(
    arguments: list[str],
    sentence: str,
    given: list[str],
    tmp_path: Path,
    pytester: pytest.Pytester,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(ROOT)
    words = [word.format(heads=given[1], here=tmp_path) for word in arguments]
    result = pytester.runpytest_inprocess("bench/", *words, "--plan-cache", str(tmp_path / "plans"))
    said = "\n".join(result.outlines + result.errlines)
    assert result.ret == pytest.ExitCode.USAGE_ERROR, said
    assert sentence in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("before", "shape", "digest"),
    [
        pytest.param(
            "1.0.0",
            [],
            None,
            marks=pytest.mark.fault(
                done="an ONNX file that the baseline ran, and that another ONNX Runtime cannot run any more",
                said="REGRESSED (missing): --model ...: ONNX Runtime cannot run it (...); the baseline ... ran this "
                "very file, with ONNX Runtime 1.0.0, here is ...: its reference is lost",
                status="1",
                kept="the baseline",
            ),
        ),
        pytest.param(
            version_of("onnxruntime"),
            [],
            None,
            marks=pytest.mark.fault(
                done="the same with the ONNX Runtime of the baseline",
                said="INVALID (not_comparable): --model ...: ONNX Runtime cannot run it (...); the baseline ... ran "
                "this very file",
                status="7",
                kept="the baseline",
            ),
        ),
        pytest.param(
            "1.0.0",
            [],
            "another",
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="an ONNX file that ONNX Runtime cannot run, and a baseline of another file of that name",
                    said="ONNX Runtime cannot run it (...); export it for this ONNX Runtime, or give samples that it "
                    "takes",
                    status="4",
                    kept="the baseline",
                ),
            ],
        ),
        pytest.param(
            "1.0.0",
            ["--shape=x=1x4"],
            None,
            marks=pytest.mark.fault(
                done="the same file at another shape than the baseline's",
                said="ONNX Runtime cannot run it (...); export it for this ONNX Runtime, or give samples that it takes",
                status="4",
                kept="the baseline",
            ),
        ),
    ],
)
def test_a_file_that_the_reference_lost(
    before: str, shape: list[str], digest: str | None, fault: Fault, pytester: pytest.Pytester
) -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    sides = {"x": (networks.FLOAT, [1, 4])}, {"y": (networks.FLOAT, None)}
    model = networks.save(networks.network([node], *sides, {"w": networks.random(5, 2)}), pytester.path / "lost.onnx")
    engine, digests = "onnxruntime-fp32", {"weights": digest or digest_of(model)}
    save(1, "before", model="lost.onnx", engines=(engine,), changes={"onnxruntime": before}, digests=digests)
    given = [f"--model={model}", *shape, "--benchmark-compare=before", "-p", "trtgate.plugin"]
    result = pytester.runpytest_inprocess(*given)
    fault.check(result.ret, "\n".join(result.outlines + result.errlines))


SPOILS = """
import sys
if "trtgate.measure.worker" in sys.orig_argv:
    import onnxruntime
    run = onnxruntime.InferenceSession.run
    def spoilt(self, names, given, *more):
        found = run(self, names, given, *more)
        if "boxes" in names:
            found[list(names).index("boxes")][:, 3] = 0
        return found
    onnxruntime.InferenceSession.run = spoilt
"""


@pytest.mark.slow
@pytest.mark.usefixtures("short_blocks")
@pytest.mark.fault(
    done="`ab` on an ONNX file with a runtime that spoils one channel of one output on the new side",
    said="noise that the old answers did not have: boxes, 3 along axis 0 of a sample",
    status="1",
    kept="the table",
)
def test_a_runtime_that_spoils_a_channel(
    given: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    monkeypatch.setitem(PROCESSES, "cpu", 2)
    script = python_with(tmp_path, "sitecustomize", SPOILS)
    status = main(["ab", "--old", str(PYTHON), "--new", str(script), *given, "--rounds", "2"])
    text = capsys.readouterr().out
    fault.check(status, text)
    assert not [line for line in text.splitlines() if "REGRESSED (answers_lost)" in line and " map" in line]


@pytest.mark.slow
@pytest.mark.usefixtures("short_blocks")
@pytest.mark.fault(
    done="`ab` on an ONNX file of which both runtimes answer NaN where the reference does not",
    said="fidelity: INVALID (not_finite), new with ONNX Runtime: boxes: NaN or infinity elsewhere than in the "
    "reference's; the old side's just there too",
    status="7",
    kept="the table",
)
def test_runtimes_that_answer_no_numbers_alike(
    given: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    fault: Fault,
) -> None:
    monkeypatch.setitem(PROCESSES, "cpu", 2)
    script = str(python_with(tmp_path, "sitecustomize", SPOILS.replace("= 0", "= float('nan')")))
    images = tmp_path / "images"
    images.mkdir()
    random = np.random.default_rng(0)
    for index in range(8):
        np.savez(images / f"{index}.npz", x=random.random((1, 3, 32, 32), np.float32))
    real = [f"--images={images}", f"--calibration-images={images}"]
    status = main(["ab", "--old", script, "--new", script, *given, *real, "--rounds", "2"])
    fault.check(status, capsys.readouterr().out)


@pytest.mark.slow
@pytest.mark.usefixtures("short_blocks")
def test_a_file_raced_against_itself(
    given: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PROCESSES, "cpu", 3)
    out = tmp_path / "ab.json"
    status = main(["ab", "--old", str(PYTHON), "--new", str(PYTHON), *given, "--rounds", "5", "--json", str(out)])
    text = capsys.readouterr().out
    assert status in {0, 6, 7}, text
    report = json.loads(out.read_text())
    for engine in report["engines"]:
        assert engine["agreement"]["new with old"]["same"]
        answers = engine["metrics"]["answers"]["decision"]
        assert (answers["verdict"], answers["reason"]) == ("PASS", "same_answers")
        assert status == 7 or np.isfinite(engine["metrics"]["latency"]["old"])
