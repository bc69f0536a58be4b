"""TensorRT's own lean runtime, which loads no plan here and has to say so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
import torch

from . import small_classifier
from .faults.table import ROOT, Fault
from .tensorrt_api.fetch import LEAN, install

# In a process of its own, which native code may bring down.
LOAD = """
import sys
from pathlib import Path

import tensorrt_lean_bindings as lean
from trtgate.engines import backend, parse_spec
from trtgate.engines.base import BuildRequest
from trtgate.engines.tensorrt import api, run

api.installed = lambda: lean
if lean.__version__ != "VERSION":
    sys.exit(f"this is {lean.__version__}")
try:
    import pycuda
except ImportError:
    run.driver = lambda: None  # TensorRT starts CUDA by itself
request = BuildRequest(None, Path(sys.argv[1]), (1,), 1, "cuda")
try:
    backend("tensorrt").load(parse_spec("tensorrt-fp16"), request, Path(sys.argv[2])).close()
except api.TensorRTError as error:
    print(error)
"""
VERSION = LEAN[0].partition("==")[2]


def plan(tag: bytes = b"ftrt", version: str = VERSION, missing: int = 0) -> bytes:
    """A header as TensorRT writes it, before what is no engine; `missing` bytes of it are cut off."""
    numbers = bytes(map(int, version.split(".")))
    size = 200
    return (tag + bytes(4) + (239).to_bytes(4, "little") + bytes(4) + size.to_bytes(8, "little") + numbers).ljust(
        size - missing, b"x"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(
            bytes(200),
            marks=pytest.mark.fault(
                done="TensorRT's lean runtime (the real one) given a file that is no plan",
                said="this is no TensorRT plan: it begins with",
                status="0",
                kept="TensorRT is not asked",
            ),
        ),
        pytest.param(
            plan(missing=3),
            marks=pytest.mark.fault(
                done="the lean runtime given a plan that was cut off",
                said="this TensorRT plan is not whole: 197 bytes, its header says 200",
                status="0",
                kept="TensorRT is not asked",
            ),
        ),
        pytest.param(
            plan(b"vtrt", "1.7.1.116"),
            marks=pytest.mark.fault(
                done="the lean runtime given TensorRT-RTX's plan",
                said="the plan was written by TensorRT-RTX 1.7.1.116, TensorRT 11.4.0.106 is installed",
                status="0",
                kept="TensorRT is not asked",
            ),
        ),
        pytest.param(
            plan(version="10.13.0.35"),
            marks=pytest.mark.fault(
                done="the lean runtime given another version's plan",
                said="the plan was written by TensorRT 10.13.0.35, TensorRT 11.4.0.106 is installed",
                status="0",
                kept="TensorRT is not asked",
            ),
        ),
        pytest.param(
            plan(),
            marks=[
                pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a driver"),
                pytest.mark.fault(
                    done="the lean runtime on a machine without a driver, where using it is a segmentation fault",
                    said="TensorRT 11.4.0.106 cannot start; the driver may be too old for the CUDA that this TensorRT "
                    "was built for: ... CUDA initialization failure with error: 35",
                    status="0",
                    kept="the process",
                ),
            ],
        ),
    ],
    ids=["no plan", "cut off", "RTX", "another version", "no driver"],
)
def test_what_the_lean_runtime_cannot_load(content: bytes, fault: Fault, tmp_path: Path) -> None:
    try:
        packages = install(*LEAN)
    except AssertionError as error:
        pytest.skip(f"the lean runtime cannot be fetched: {error}")
    graph, file = tmp_path / "graph.onnx", tmp_path / "plan.engine"
    onnx.save(small_classifier.graph(), graph)
    file.write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", LOAD.replace("VERSION", VERSION), str(graph), str(file)],
        env={**os.environ, "PYTHONPATH": f"{packages}:{ROOT}"},
        capture_output=True,
        text=True,
        check=False,
    )
    fault.check(done.returncode, done.stdout + done.stderr)
