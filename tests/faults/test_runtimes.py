"""A runtime that is imported and can do nothing, and one that cannot do this network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import networks
from trtgate.kinds import EngineBroken, UserError
from trtgate.models import onnx_file

from .table import Fault
from .test_imports import ask

# OpenVINO as far as its engine asks for it; its plans are empty, and its answers zeros.
OPENVINO = """
import numpy as np
__version__ = "2026.9.9"
class Graph:
    def __init__(self, path): self.small = b"one_convolution" in open(path, "rb").read()
    def reshape(self, shape): pass
class Compiled:
    inputs, outputs = (), (None,)
    def export_model(self): return b"blob"
    def create_infer_request(self): return self
    def infer(self): {infer}
    def get_output_tensor(self, index): return self
    data = np.zeros((1, 4, 8, 8), np.float32)
class Core:
    def read_model(self, path): return Graph(path)
    def compile_model(self, graph, *_):
        {build}
        return Compiled()
    def import_model(self, *_): return Compiled()
"""
NO_PLUGIN = """raise RuntimeError("Cannot load library 'libopenvino_intel_cpu_plugin.so': libtbb.so.12: cannot open")"""


def gate(folder: Path, model: str, build: str = "pass", infer: str = "pass", cache: Path | None = None) -> list[str]:
    """A run of one test, with OpenVINO like that."""
    command = [sys.executable, "-m", "pytest", "bench/", "-k=test_plan", "-rs", f"--plan-cache={cache or folder / 'c'}"]
    status, output = ask(
        folder, OPENVINO.format(build=build, infer=infer), *command, f"--model={model}", "--engine=openvino-fp32"
    )
    return [str(status), output]


@pytest.mark.parametrize(
    ("build", "infer"),
    [
        pytest.param(
            NO_PLUGIN,
            "pass",
            marks=pytest.mark.fault(
                done="a backend that is imported, and compiles nothing: its CPU plugin is missing (an ONNX file)",
                said="INVALID (broken): openvino is broken: it cannot even run one small convolution (RuntimeError: "
                "Cannot load library 'libopenvino_intel_cpu_plugin.so': libtbb.so.12: cannot open)",
                status="7",
                kept="every other engine",
            ),
            id="build",
        ),
        pytest.param(
            "pass",
            "raise RuntimeError('CL_OUT_OF_RESOURCES')",
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="a backend that compiles and runs nothing (an ONNX file)",
                    said="INVALID (broken): openvino is broken: ... (RuntimeError: CL_OUT_OF_RESOURCES)",
                    status="7",
                    kept="every other engine",
                ),
            ],
            id="infer",
        ),
        pytest.param(
            "if not graph.small: raise RuntimeError('no kernel for Relu')",
            "pass",
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="a sound backend without a kernel for an operator of an ONNX file",
                    said="openvino cannot run heads.onnx (RuntimeError: no kernel for Relu)",
                    status="0",
                    kept="every other engine",
                ),
            ],
            id="operator",
        ),
    ],
)
def test_an_engine_of_a_file(build: str, infer: str, fault: Fault, tmp_path: Path) -> None:
    model = networks.save(networks.heads(height=16, width=16), tmp_path / "heads.onnx")
    status, output = gate(tmp_path, str(model), build, infer)
    fault.check(int(status), output)


@pytest.mark.slow
@pytest.mark.parametrize(
    "build",
    [
        pytest.param(
            NO_PLUGIN,
            marks=pytest.mark.fault(
                done="the same, and a network by its name",
                said="INVALID (broken): openvino is broken: it cannot even run one small convolution ...",
                status="7",
                kept="every other engine",
            ),
        ),
        pytest.param(
            "if not graph.small: raise RuntimeError('no kernel for Relu')",
            marks=pytest.mark.fault(
                done="a sound backend whose build of a network by its name raises",
                said="openvino cannot run efficientnet_lite0 (RuntimeError: no kernel for Relu)",
                status="1",
                kept="every other engine",
            ),
        ),
    ],
)
def test_an_engine_of_a_network(build: str, fault: Fault, tmp_path: Path, plan_cache: Path) -> None:
    status, output = gate(tmp_path, "efficientnet_lite0", build, cache=plan_cache)
    fault.check(int(status), output)


ONNX_RUNTIME = """
import os, time
class SessionOptions: pass
class InferenceSession:
    def __init__(self, content, *_, **__):
        {does}
"""


@pytest.mark.parametrize(
    ("does", "error"),
    [
        pytest.param(
            "os.abort()",
            EngineBroken,
            marks=pytest.mark.fault(
                done="ONNX Runtime crashes on an ONNX file",
                said="running heads.onnx with ONNX Runtime crashed its own process (SIGABRT)",
                status="-",
                kept="nothing was begun",
            ),
        ),
        pytest.param(
            "time.sleep(600)",
            EngineBroken,
            marks=pytest.mark.fault(
                done="ONNX Runtime hangs on an ONNX file",
                said="running heads.onnx with ONNX Runtime took longer than ... s in its own process",
                status="-",
                kept="nothing was begun",
            ),
        ),
        pytest.param(
            "raise RuntimeError('no CPU provider')",
            EngineBroken,
            marks=pytest.mark.fault(
                done="ONNX Runtime can run nothing",
                said="ONNX Runtime is broken: it cannot even run one small convolution (no CPU provider)",
                status="-",
                kept="nothing was begun",
            ),
        ),
    ],
    ids=["crash", "hang", "nothing"],
)
def test_a_reference_that_is_broken(
    does: str, error: type[Exception], fault: Fault, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text(ONNX_RUNTIME.format(does=does))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(onnx_file, "LOAD_SECONDS", 3.0)
    onnx_file.runs_nothing.cache_clear()
    try:
        with pytest.raises(error) as told:
            onnx_file.describe(networks.save(networks.heads(height=16, width=16), tmp_path / "heads.onnx"), {}, {})
    finally:
        onnx_file.runs_nothing.cache_clear()
    fault.says(str(told.value))
    assert "\n" not in str(told.value)
    assert not isinstance(told.value, UserError)


REAL = """
import importlib, os, sys
here = os.path.dirname(os.path.abspath(__file__))
kept, sys.path[:] = list(sys.path), [each for each in sys.path if os.path.abspath(each or ".") != here]
del sys.modules["onnxruntime"]
sys.modules["onnxruntime"] = real = importlib.import_module("onnxruntime")
sys.path[:] = kept
run = real.InferenceSession.run
"""
CRASHING = "real.InferenceSession.run = lambda *_, **__: os.abort()"
NO_BATCHES = """
def run_one(self, names, given, *rest):
    if any(len(each) > 1 for each in given.values()):
        raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")
    return run(self, names, given, *rest)
real.InferenceSession.run = run_one
"""


@pytest.mark.fault(
    done="a run on an ONNX file that brings ONNX Runtime down, which is its reference",
    said="INVALID (broken): running heads.onnx with ONNX Runtime crashed its own process (SIGABRT)",
    status="7",
    kept="nothing was begun",
)
@pytest.mark.parametrize(
    "command",
    [
        pytest.param(["pytest", "bench/"], id="bench"),
        pytest.param(["trtgate", "sensitivity", "--engine=onnxruntime-int8"], marks=pytest.mark.slow, id="sensitivity"),
    ],
)
def test_a_run_whose_reference_crashes(command: list[str], fault: Fault, tmp_path: Path) -> None:
    model = networks.save(networks.heads(height=16, width=16), tmp_path / "heads.onnx")
    (tmp_path / "onnxruntime.py").write_text(REAL + CRASHING)
    fault.check(*ask(tmp_path, "", sys.executable, "-m", *command, f"--model={model}", f"--plan-cache={tmp_path}/c"))


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(
            ["1", "4"],
            marks=pytest.mark.fault(
                done="ONNX Runtime cannot run batches of a file whose batch is open, and --batch-size 1 and 4",
                said="INVALID (no_records): heads.onnx at batch 4 was asked for (--batch-size) and not measured: "
                "ONNX Runtime cannot run it in batches (CUDNN_STATUS_EXECUTION_FAILED)",
                status="7",
                kept="batch 1",
            ),
        ),
        pytest.param(
            ["4"],
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="the same, and --batch-size 4 alone",
                    said="--batch-size 4: heads.onnx takes no batches (ONNX Runtime: CUDNN_STATUS_EXECUTION_FAILED); "
                    "leave it out, or add --batch-size 1",
                    status="4",
                    kept="nothing was begun",
                ),
            ],
        ),
        pytest.param(
            [],
            marks=[
                pytest.mark.slow,
                pytest.mark.fault(
                    done="the same, and no --batch-size",
                    said="1 passed",
                    status="0",
                    kept="batch 1",
                ),
            ],
        ),
    ],
)
def test_batches_that_cannot_be_run(sizes: list[str], fault: Fault, tmp_path: Path) -> None:
    model = networks.save(networks.heads(height=16, width=16), tmp_path / "heads.onnx")
    (tmp_path / "onnxruntime.py").write_text(REAL + NO_BATCHES)
    given = ["--engine=onnxruntime-fp32", f"--plan-cache={tmp_path}/c", *(f"--batch-size={size}" for size in sizes)]
    command = [sys.executable, "-m", "pytest", "bench/", "-k=test_built_precision", f"--model={model}", *given]
    fault.check(*ask(tmp_path, "", *command))
