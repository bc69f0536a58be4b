"""bench/ itself, run for real on one small model: what a user sees and what is saved."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .faults.table import Fault

ROOT = Path(__file__).resolve().parent.parent


def bench(*arguments: str, storage: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "bench/", f"--benchmark-storage=file://{storage}", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory, plan_cache: Path) -> list[str]:
    expectations = tmp_path_factory.mktemp("bench") / "expectations.toml"
    # No speedup floor: this machine's load must not decide a unit test.
    expectations.write_text("[quantize.efficientnet_lite0]\nkeep_float = ['_conv_stem']\n")
    return [
        "--model=efficientnet_lite0",
        "--engine=onnxruntime-int8",
        f"--plan-cache={plan_cache}",
        f"--expectations={expectations}",
    ]


@pytest.mark.slow
def test_a_run_ends_with_the_table_and_saves_what_it_measured(quick: list[str], tmp_path: Path) -> None:
    result = bench(*quick, "--benchmark-save=before", "--processes=2", storage=tmp_path)
    # 7: somebody else used the machine meanwhile, and the floors are no verdict then.
    assert result.returncode in {0, 7}, result.stdout[-3000:] + result.stderr
    lines = result.stdout.splitlines()
    table = lines[next(i for i, line in enumerate(lines) if "= trtgate =" in line) :]
    rows = [line.rstrip() for line in table if "onnxruntime-int8 " in line]
    assert any(row.endswith(("floors met", "INVALID")) for row in rows)
    assert all(len(line) <= 100 for line in table)
    assert any("racing 2 engines in 2 processes" in line for line in lines)

    [path] = tmp_path.glob("*/0001_before.json")
    document = json.loads(path.read_text())
    [entry] = [b for b in document["benchmarks"] if "onnxruntime-int8" in b["name"]]
    record = entry["extra_info"]["trtgate"]
    assert record["agreement"]["n"] == 240
    assert record["layers"] == {"float32": 1, "int8": 49}
    assert record["plan"]["bytes"] > 1_000_000
    assert {"latency", "typical", "cold_start", "host_memory", "plan_bytes", "build_seconds"} <= set(record["series"])
    assert record["iterations"]["latency"]["lengths"]
    assert len(record["processes"]) == len(record["series"]["cold_start"])
    # On a loud machine up to as many again are run.
    assert 2 <= len(record["processes"]) <= 4 or result.returncode == 7
    assert set(record["digests"]) == {"weights", "evaluation photos", "calibration photos", "INT8 recipe"}
    assert record["answers"]
    [reference] = [b["extra_info"]["trtgate"] for b in document["benchmarks"] if "pytorch-fp32" in b["name"]]
    assert reference["answers"]
    assert not reference["agreement"]
    assert document["machine_info"]["trtgate"]["onnxruntime"]
    assert document["trtgate"]["partial"] == []

    # And again: nothing is rebuilt, and two processes against two cannot pass.
    again = bench(*quick, "--benchmark-compare=before", "--processes=2", storage=tmp_path)
    assert again.returncode in {1, 4, 6, 7}, again.stdout[-3000:]
    assert "building" not in again.stdout
    assert "exporting" not in again.stdout
    if again.returncode != 4:  # the baseline's run was disturbed, and is none
        assert "stack: nothing changed" in again.stdout


@pytest.mark.slow
def test_answers_that_differ_fail_and_name_the_photos(quick: list[str], tmp_path: Path) -> None:
    expectations = Path(quick[-1].partition("=")[2])
    strict = expectations.with_name("strict.toml")
    strict.write_text(expectations.read_text() + "[default]\nagreement = 0.999\n")
    result = bench(*quick[:-1], f"--expectations={strict}", "-k", "agreement", storage=tmp_path)
    assert result.returncode == 1
    assert "REGRESSED (below_floor): top-1 agreement" in result.stdout
    assert "margin" in result.stdout
    assert re.search(r"^ +\w+#\d: .+ -> .+, margin", result.stdout, re.MULTILINE)


@pytest.mark.slow
def test_what_is_asked_for_or_required_must_not_be_missing(quick: list[str], tmp_path: Path) -> None:
    hidden = "import sys; sys.modules['openvino'] = None; import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    arguments = ["bench/test_engines.py", *quick, "--engine=openvino-int8"]
    for required, status in (([], 7), (["--require=openvino"], 1)):
        result = subprocess.run(
            [sys.executable, "-c", hidden, *arguments, *required], cwd=ROOT, capture_output=True, text=True, check=False
        )
        assert result.returncode == status, result.stdout[-3000:]
        assert "pip install openvino" in result.stdout


@pytest.mark.parametrize(
    "acknowledged",
    [
        pytest.param(
            "",
            marks=pytest.mark.fault(
                done="`--engine` names an engine that is not there",
                said="INVALID (no_records): efficientnet_lite0 tensorrt-fp32 was asked for (--engine) and not measured",
                status="7",
                kept="every other engine",
            ),
        ),
        pytest.param(
            'acknowledged_missing = ["* tensorrt-*"]',
            marks=pytest.mark.fault(
                done="the same, and `acknowledged_missing` names it too",
                said="efficientnet_lite0 tensorrt-fp32: skipped:",
                status="0",
                kept="every other engine",
            ),
        ),
    ],
)
def test_what_is_asked_for_and_is_not_there(
    acknowledged: str, fault: Fault, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = pytester.path / "expectations.toml"
    path.write_text(acknowledged)
    monkeypatch.chdir(ROOT)
    given = ["--model=efficientnet_lite0", "--engine=tensorrt-fp32", "--device=cpu", f"--expectations={path}"]
    result = pytester.runpytest_inprocess(
        "bench/test_engines.py", "-k=test_plan and tensorrt", *given, f"--plan-cache={pytester.path}/plans"
    )
    fault.check(int(result.ret), "\n".join(result.outlines + result.errlines))


@pytest.mark.slow
def test_a_bad_photo_is_one_sentence_that_names_it(quick: list[str], tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    (photos / "broken.jpg").write_bytes(b"no photo")
    result = bench("-k", "finite", *quick, f"--images={photos}", storage=tmp_path)
    assert result.returncode == 4
    assert "broken.jpg is not an image" in result.stdout
    assert "Traceback" not in result.stdout
    assert "def decode" not in result.stdout
