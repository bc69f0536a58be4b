"""`pytest bench/ --require tensorrt` whole, on a machine without a GPU: stand-ins for TensorRT and CUDA, in processes
of their own. `tests/gpu/standin.py` does more, `ab` with its workers among it, and takes minutes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .tensorrt_api.fetch import BINDINGS, api
from .tensorrt_api.host_device import write_packages
from .tensorrt_api.standin import VIOLATIONS_FILE, write_package

ROOT = Path(__file__).resolve().parent.parent
ENGINE = "tensorrt-int8-calibrated"


@pytest.mark.slow
def test_the_whole_bench(tmp_path: Path) -> None:
    """A build in a child, with its calibrator; the plan cache; lanes, capture, both series, streams; the audit."""
    site, violations = tmp_path / "site", tmp_path / "violations"
    write_packages(site)
    write_package(site, api(BINDINGS[2]))
    expectations = tmp_path / "expectations.toml"
    expectations.write_text("[default]\nagreement = 0.8\ncosine = 0.9\nsqnr_db = 10.0\ndelta = 0.05\n")
    command = [
        sys.executable,
        "-m",
        "pytest",
        "bench/",
        "-p",
        "no:cacheprovider",
        "-p",
        "tests.tensorrt_api.host_device",
    ]
    options = ["--device=cuda", "--model=small", f"--engine={ENGINE}", "--require=tensorrt", "--batch-size=1"]
    files = [f"--plan-cache={tmp_path / 'cache'}", f"--expectations={expectations}"]
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", VIOLATIONS_FILE: str(violations)}
    run = subprocess.run(
        [*command, *options, *files, "--streams=2", f"--benchmark-json={tmp_path / 'record.json'}"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-2000:]
    assert not violations.exists(), violations.read_text()
    written = json.loads((tmp_path / "record.json").read_text())
    assert written["machine_info"]["trtgate"]["tensorrt"] == "10.13.0.35+standin", "never to be taken for TensorRT"
    [record] = [each["extra_info"]["trtgate"] for each in written["benchmarks"] if ENGINE in each["name"]]
    assert record["layers"] == {"int8": 3}
    assert record["throughput"]["streams"] == 2
    assert all(layer["nodes"] for layer in record["layer_times"].values())
    assert record["layer_times"]
    assert len(list((tmp_path / "cache").glob("calibrations/*/ranges.cache"))) == 1
