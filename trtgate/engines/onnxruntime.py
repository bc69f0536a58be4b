"""ONNX Runtime on the CPU, and on a GPU where its CUDA provider is installed.

The plan is the graph after all of its optimisations, loaded with none left to do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from trtgate.engines.base import (
    AVAILABLE,
    Availability,
    Backend,
    BuildRequest,
    Device,
    Engine,
    EngineSpec,
    GraphKind,
    LayerTime,
    PrecisionAudit,
    Seconds,
    only_on,
)
from trtgate.engines.gpu import GpuEngine, Lane
from trtgate.signature import Signature, Tensors
from trtgate.stack import cpu_features, version_of

if TYPE_CHECKING:
    import torch

CUDA_PROVIDER = "CUDAExecutionProvider"
# TF32 is on by default there, and would make an engine that was asked for FP32 something else.
PROVIDERS: Mapping[Device, list[Any]] = {
    "cpu": ["CPUExecutionProvider"],
    "cuda": [(CUDA_PROVIDER, {"device_id": 0, "use_tf32": 0})],
}
# Operators that carry the arithmetic, with the type that they compute in; floating ones follow their weights.
FLOAT_OPERATORS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")
INTEGER_OPERATORS = frozenset(
    {"QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "MatMulInteger", "MatMulIntegerToFloat"}
)
ERRORS_ONLY = 3
# The variant that runs on the CPU whatever the device: the reference of ONNX files. Nobody asks for it by name.
ON_CPU = "cpu"
# Of a profiled pass: runs that are not kept, and runs whose median is.
WARM_UP = 2
PROFILED_RUNS = 10
# How the profiler ends the name of a node whose computing it timed.
KERNEL = "_kernel_time"


class OnnxRuntimeEngine(Engine):
    """A session on the CPU."""

    def __init__(self, spec: EngineSpec, plan: Path, threads: int, signature: Signature) -> None:
        super().__init__(spec)
        self._plan = plan
        self._threads = threads
        self._signature = signature
        self._session = load_session(plan, threads, PROVIDERS["cpu"])

    def infer(self, inputs: Tensors) -> Tensors:
        return self._signature.named(self._session.run(self._signature.output_names, dict(inputs)))

    def bind(self, inputs: Tensors) -> Callable[[], object]:
        run, outputs, given = self._session.run, self._signature.output_names, dict(inputs)
        return lambda: run(outputs, given)

    def audit(self) -> PrecisionAudit:
        return PrecisionAudit(self.spec.precision, layer_types(self._plan))

    def layer_times(self, inputs: Tensors) -> tuple[LayerTime, ...]:
        kinds = layer_types(self._plan)
        with TemporaryDirectory() as folder:
            session = load_session(self._plan, self._threads, PROVIDERS["cpu"], profile=Path(folder) / "profile")
            for _ in range(WARM_UP + PROFILED_RUNS):
                session.run(self._signature.output_names, dict(inputs))
            events = json.loads(Path(session.end_profiling()).read_text())
        times: dict[str, list[float]] = {}
        for event in events:
            if event.get("cat") == "Node" and event["name"].endswith(KERNEL):
                name = module_name(event["name"].removesuffix(KERNEL))
                times.setdefault(name, []).append(event["dur"] / 1e6)
        # A node of an optimised graph may share its module's name with a reordering beside it: their times add up.
        return tuple(
            LayerTime(name, float(np.median(_by_run(seconds)[WARM_UP:])), kinds.get(name, ""))
            for name, seconds in times.items()
        )

    def close(self) -> None:
        self._session = None


def _by_run(seconds: list[float]) -> Seconds:
    """Times of one layer, one after the other over all runs, as float64[runs]."""
    runs = WARM_UP + PROFILED_RUNS
    whole = np.array(seconds[: len(seconds) // runs * runs])
    summed: Seconds = whole.reshape(runs, -1).sum(1)
    return summed


class OnnxRuntimeGpuEngine(GpuEngine):
    """A session on the GPU: one stream, inputs and outputs bound to device memory."""

    def __init__(self, spec: EngineSpec, plan: Path, threads: int, signature: Signature) -> None:
        super().__init__(spec, signature)
        import torch

        self._plan = plan
        self._stream = torch.cuda.Stream()
        name, options = PROVIDERS["cuda"][0]
        provider = (name, {**options, "user_compute_stream": str(self._stream.cuda_stream)})
        self._session = load_session(plan, threads, [provider])

    def _prepare(self, images: Sequence[torch.Tensor], size: int) -> Callable[[], list[torch.Tensor]]:
        import onnxruntime
        import torch

        found = []
        binding = self._session.io_binding()
        for each, image in zip(self._signature.inputs, images, strict=True):
            binding.bind_input(each.name, "cuda", 0, np.dtype(each.dtype), each.at(size), image.data_ptr())
        for each in self._signature.outputs:
            output = torch.from_numpy(np.zeros(each.at(size), each.dtype)).cuda()
            binding.bind_output(each.name, "cuda", 0, np.dtype(each.dtype), each.at(size), output.data_ptr())
            found.append(output)
        options = onnxruntime.RunOptions()
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        run = self._session.run_with_iobinding

        def call() -> list[torch.Tensor]:
            run(binding, options)
            return found

        return call

    def new_lane(self, size: int) -> Lane:
        from trtgate.engines.pytorch import TorchLane

        return TorchLane(lambda images: self._prepare(images, size), size, self._signature, stream=self._stream)

    def concurrent(self) -> bool:
        return False  # a session has one stream

    def audit(self) -> PrecisionAudit:
        return PrecisionAudit(self.spec.precision, layer_types(self._plan))

    def close(self) -> None:
        super().close()
        self._session = None


def load_session(plan: Path, threads: int, providers: list[Any], profile: Path | None = None) -> Any:
    """A session that optimises nothing further; with `profile` it times its layers into a file of that prefix.

    Raises RuntimeError when the runtime fell back to another provider than the one asked for, which it does with no
    more than a warning.
    """
    import onnxruntime

    options = _session_options(threads)
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    session = onnxruntime.InferenceSession(plan, options, providers=providers)
    wanted = providers[0] if isinstance(providers[0], str) else providers[0][0]
    if session.get_providers()[0] != wanted:
        raise RuntimeError(f"ONNX Runtime could not start its {wanted} and fell back to {session.get_providers()[0]}")
    return session


def layer_types(plan: Path) -> dict[str, str]:
    """The type that each convolution and matrix product of an optimised graph computes in, by module name.

    A product of two activations, as in attention, is none of them: nobody asks for it in INT8.
    """
    import onnx

    from trtgate.graphs.weighted import weighted_nodes

    model = onnx.load(plan)
    graph = model.graph
    weighted = {node.name for node in weighted_nodes(model, FLOAT_OPERATORS)}
    float_types = {onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16"}
    weights = {value.name: float_types.get(value.data_type, "float32") for value in graph.initializer}
    layers = {}
    for node in graph.node:
        if node.op_type in INTEGER_OPERATORS:
            layers[module_name(node.name)] = "int8"
        elif node.name in weighted:
            layers[module_name(node.name)] = weights.get(node.input[1], "float32")
    return layers


def runs_on(spec: EngineSpec, device: Device) -> Device:
    """The processor that an engine of a run on that device runs on."""
    return "cpu" if spec.variant == ON_CPU else device


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
    builds_apart = True
    specs = (
        EngineSpec("onnxruntime", "fp32"),
        EngineSpec("onnxruntime", "fp16"),
        EngineSpec("onnxruntime", "int8"),
    )

    def runtimes(self, device: Device) -> tuple[str, ...]:
        return ("onnxruntime",)

    def available(self, spec: EngineSpec, device: Device) -> Availability:
        try:
            import onnxruntime
        except ImportError as error:
            return Availability(False, f"ONNX Runtime cannot be imported: {error}", "pip install onnxruntime")
        if spec.variant == ON_CPU:
            return AVAILABLE
        if spec.precision == "fp16":
            where = only_on("cuda", device)
        elif spec.precision == "int8":
            where = only_on("cpu", device)
        else:
            where = AVAILABLE
        if where.ok and device == "cuda" and CUDA_PROVIDER not in onnxruntime.get_available_providers():
            return Availability(False, f"ONNX Runtime has no {CUDA_PROVIDER}", "pip install onnxruntime-gpu")
        return where

    def plan_file(self, spec: EngineSpec) -> str | None:
        return "plan.onnx"

    def graph_kind(self, spec: EngineSpec) -> GraphKind | None:
        kinds: dict[str, GraphKind] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-asymmetric"}
        return kinds[spec.precision]

    def build_options(self, spec: EngineSpec, request: BuildRequest) -> Mapping[str, Any]:
        # The optimised graph holds layouts chosen for this processor.
        return {
            "version": version_of("onnxruntime"),
            "providers": PROVIDERS[runs_on(spec, request.device)],
            "graph_optimization_level": "ORT_ENABLE_ALL",
            "cpu_features": sorted(cpu_features()),
        }

    def build(self, spec: EngineSpec, request: BuildRequest, path: Path) -> None:
        import onnxruntime

        options = _session_options(request.threads)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(request.graph, options, providers=PROVIDERS[runs_on(spec, request.device)])

    def load(self, spec: EngineSpec, request: BuildRequest, plan: Path | None) -> Engine:
        assert plan is not None
        if runs_on(spec, request.device) == "cuda":
            return OnnxRuntimeGpuEngine(spec, plan, request.threads, request.signature)
        return OnnxRuntimeEngine(spec, plan, request.threads, request.signature)


BACKEND = OnnxRuntimeBackend()
