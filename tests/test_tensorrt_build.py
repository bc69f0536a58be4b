"""Real builds, without a GPU: TensorRT-RTX parses and builds the very graphs that TensorRT gets.

The builder runs in a process of its own. Loading a plan needs a GPU, so nothing is run here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from trtgate.kinds import GraphKind
from trtgate.workbench import Workbench

from .tensorrt_api.fetch import RTX, install

ROOT = Path(__file__).resolve().parent.parent
SIZES = (1, 8)

BUILD = """
import json, sys
from pathlib import Path
from trtgate.engines import parse_spec
from trtgate.engines.tensorrt.api import TensorRTError, installed, plan_version, require_own_plan
from tests import small_classifier
from trtgate.engines.tensorrt.build import build_plan

for line in sys.stdin:
    engine, graph, timing_cache = json.loads(line)
    steps = []
    try:
        plan = build_plan(
            parse_spec(engine),
            Path(graph).read_bytes(),
            SIZES,
            small_classifier.signature(224),
            compute_capability="SM89",
            timing_cache=Path(timing_cache),
            progress=lambda done, total: steps.append((done, total)),
        )
    except TensorRTError as error:
        print(json.dumps({"error": str(error)}))
    else:
        require_own_plan(plan)
        facts = {"bytes": len(plan), "version": plan_version(plan), "installed": installed().__version__}
        print(json.dumps({**facts, "steps": len(steps)}))
"""
ENGINES = {"fp32": "tensorrt-fp32", "fp16": "tensorrt-fp16", "int8": "tensorrt-int8"}


def build_all(jobs: list[tuple[str, Path]], folder: Path) -> list[dict[str, Any]]:
    """Build (engine, graph) pairs by TensorRT-RTX, one after the other in one process."""
    environment = {**os.environ, "PYTHONPATH": f"{install(*RTX)}:{ROOT}"}
    lines = [json.dumps([engine, str(graph), str(folder / "timings")]) for engine, graph in jobs]
    command = [sys.executable, "-c", BUILD.replace("SIZES", str(SIZES))]
    run = subprocess.run(command, input="\n".join(lines), env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    built = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("{")]
    assert len(built) == len(jobs), run.stdout
    return built


@pytest.fixture(scope="module")
def graphs(
    lite0: Workbench, resnet50: Path, resnet50_fp16: Path, resnet50_int8_fp16: Path
) -> dict[tuple[str, str], Path]:
    kinds: dict[str, GraphKind] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-symmetric-fp16"}
    lite = {("efficientnet_lite0", name): lite0.graphs.of(kind).path for name, kind in kinds.items()}
    resnet = {"fp32": resnet50, "fp16": resnet50_fp16, "int8": resnet50_int8_fp16}
    return {**{("resnet50", name): path for name, path in resnet.items()}, **lite}


@pytest.fixture(scope="module")
def built(
    graphs: dict[tuple[str, str], Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[tuple[str, str], dict[str, Any]]:
    jobs = [(ENGINES[kind], path) for (_, kind), path in graphs.items()]
    return dict(zip(graphs, build_all(jobs, tmp_path_factory.mktemp("rtx")), strict=True))


# Of the FP32 graph's size: half the weights in FP16, a quarter in INT8; kernels come on top, and some weights twice.
# RTX keeps quantised depthwise weights in a form several times their size.
LARGEST = {"fp32": 1.1, "fp16": 0.6, ("resnet50", "int8"): 0.5, ("efficientnet_lite0", "int8"): 1.3}


@pytest.mark.slow
@pytest.mark.parametrize("model", ["resnet50", "efficientnet_lite0"])
@pytest.mark.parametrize("kind", ["fp32", "fp16", "int8"])
def test_a_real_builder_takes_the_real_graph(
    model: str, kind: str, built: dict[tuple[str, str], dict[str, Any]], graphs: dict[tuple[str, str], Path]
) -> None:
    found = built[model, kind]
    assert "error" not in found, found
    assert found["installed"] == found["version"]
    assert found["steps"] > 10
    share = LARGEST.get((model, kind)) or LARGEST[kind]
    assert found["bytes"] < share * graphs[model, "fp32"].stat().st_size


def test_a_real_parser_tells_what_it_cannot_take(tmp_path: Path) -> None:
    node = helper.make_node("NoSuchOperator", ["input"], ["logits"], name="strange")
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, 224, 224])
    result = helper.make_tensor_value_info("logits", TensorProto.FLOAT, None)
    onnx.save(helper.make_model(helper.make_graph([node], "strange", [value], [result])), tmp_path / "strange.onnx")
    [found] = build_all([("tensorrt-fp32", tmp_path / "strange.onnx")], tmp_path)
    assert "cannot parse" in found["error"]
    assert "NoSuchOperator" in found["error"]
