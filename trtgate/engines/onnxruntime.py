"""ONNX Runtime on the CPU. The plan is the graph after all of its optimisations, loaded with none left to do."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from trtgate.engines.base import (
    AVAILABLE,
    Availability,
    Backend,
    Batch,
    BuildRequest,
    Engine,
    EngineSpec,
    GraphKind,
    PrecisionAudit,
)
from trtgate.graphs.export import INPUT, OUTPUT
from trtgate.stack import cpu_features, version_of

PROVIDERS = ["CPUExecutionProvider"]
FLOAT_OPERATORS = frozenset({"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul"})
INTEGER_OPERATORS = frozenset({"QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger"})
ERRORS_ONLY = 3


class OnnxRuntimeEngine(Engine):
    def __init__(self, spec: EngineSpec, plan: Path, threads: int) -> None:
        super().__init__(spec)
        import onnxruntime

        options = _session_options(threads)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._plan = plan
        self._session = onnxruntime.InferenceSession(plan, options, providers=PROVIDERS)

    def infer(self, batch: Batch) -> Batch:
        logits: Batch = self._session.run([OUTPUT], {INPUT: batch})[0]
        return logits

    def bind(self, batch: Batch) -> Callable[[], object]:
        run, outputs, inputs = self._session.run, [OUTPUT], {INPUT: batch}
        return lambda: run(outputs, inputs)

    def audit(self) -> PrecisionAudit:
        layers = {}
        for node in onnx.load(self._plan).graph.node:
            if node.op_type in INTEGER_OPERATORS:
                layers[module_name(node.name)] = "int8"
            elif node.op_type in FLOAT_OPERATORS:
                layers[module_name(node.name)] = "float32"
        return PrecisionAudit(self.spec.precision, layers)


def module_name(node: str) -> str:
    """The module behind a node of an optimised graph, whose name carries the optimiser's own endings."""
    return re.sub(r"(\.(output|activation))?(_nchwc)?(_token_\d+)?$", "", node)


def _session_options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = ERRORS_ONLY
    return options


class OnnxRuntimeBackend(Backend):
    name = "onnxruntime"
    precisions = ("fp32", "int8")
    plan_file = "plan.onnx"

    def available(self, precision: str) -> Availability:
        try:
            import onnxruntime  # noqa: F401
        except ImportError as error:
            return Availability(False, f"ONNX Runtime cannot be imported: {error}", "pip install onnxruntime")
        return AVAILABLE

    def graph_kind(self, precision: str) -> GraphKind | None:
        return "int8-asymmetric" if precision == "int8" else "fp32"

    def build_options(self, precision: str, request: BuildRequest) -> Mapping[str, Any]:
        # The optimised graph holds layouts chosen for this CPU.
        return {
            "version": version_of("onnxruntime"),
            "providers": PROVIDERS,
            "graph_optimization_level": "ORT_ENABLE_ALL",
            "cpu_features": sorted(cpu_features()),
        }

    def build(self, precision: str, request: BuildRequest, path: Path) -> None:
        import onnxruntime

        options = _session_options(request.threads)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(request.graph, options, providers=PROVIDERS)

    def load(self, precision: str, request: BuildRequest, plan: Path | None) -> Engine:
        assert plan is not None
        return OnnxRuntimeEngine(EngineSpec(self.name, precision), plan, request.threads)


BACKEND = OnnxRuntimeBackend()
