"""ONNX Runtime on the CPU, and on a GPU where its CUDA provider is installed.

The plan is the graph after all of its optimisations, loaded with none left to do. On a GPU it runs as one would deploy
it: in a CUDA graph, and FP16 in NHWC (`DEPLOYED`). The layout is chosen when the plan is loaded: ONNX Runtime's own
operators for it cannot be saved.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from trtgate.engines.base import Backend, BuildRequest, Engine, not_imported, only_on
from trtgate.engines.gpu import CAPTURED, GpuEngine, Lane
from trtgate.kinds import AVAILABLE, Availability, Device, EngineSpec, GraphKind, LayerTime, PrecisionAudit, Seconds
from trtgate.signature import Signature, Tensors
from trtgate.stack import cpu_features, version_of

if TYPE_CHECKING:
    import onnx
    import torch

log = logging.getLogger(__name__)

ON_CPU_PROVIDER = "CPUExecutionProvider"
CUDA_PROVIDER = "CUDAExecutionProvider"
# What a plan runs with besides, by precision. ResNet-50 on an H100, batch 1 and 32 in ms: FP16 1.40 and 3.33 without
# these, 0.64 and 2.60 in a CUDA graph, 0.43 and 1.89 in NHWC too; FP32 2.40 and 10.9, 2.02 and 10.6, but 2.09 and 12.8.
# TF32 is on by default, and would make an engine that was asked for FP32 something else. FP16 has nothing to compute in
# it, and yet slower kernels where it is off (1.31.1): 2.10 ms for 1.81 at batch 32, EfficientNet-Lite0 4.07 for 2.05;
# with the bias within the convolution, which is off by default, that takes 1.45, and 0.284 for 0.371 at batch 1.
DEPLOYED: Mapping[str, Mapping[str, int]] = {
    "fp32": {"enable_cuda_graph": 1, "use_tf32": 0},
    "fp16": {"enable_cuda_graph": 1, "use_tf32": 1, "prefer_nhwc": 1, "fuse_conv_bias": 1},
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


def runtime(device: Device) -> Any:
    """The `onnxruntime` module. Raises ImportError, on a GPU for PyTorch too.

    PyTorch finds CUDA and cuDNN among its own packages and has them loaded; ONNX Runtime then finds them so.
    """
    if device == "cuda":
        import torch  # noqa: F401
    import onnxruntime

    return onnxruntime


class OnnxRuntimeEngine(Engine):
    """A session on the CPU."""

    def __init__(self, spec: EngineSpec, plan: Path, threads: int, signature: Signature) -> None:
        super().__init__(spec)
        self._plan = plan
        self._threads = threads
        self._signature = signature
        self._session = load_session(plan, threads, [ON_CPU_PROVIDER])

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
            session = load_session(self._plan, self._threads, [ON_CPU_PROVIDER], profile=Path(folder) / "profile")
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
    """For each lane a session with its own stream, device memory that is bound once, and one CUDA graph.

    Sessions could hold several graphs, by number. But ONNX Runtime frees what belonged to the shape before when another
    comes: the graph of EfficientNet-Lite0 at batch 1 then read freed memory (1.31.1, FP16).
    """

    def __init__(self, spec: EngineSpec, plan: Path, threads: int, signature: Signature) -> None:
        super().__init__(spec, signature)
        self._plan = plan
        self._threads = threads
        self._launched_as: dict[int, str] = {}

    def _lane(self, size: int, deployed: Mapping[str, int]) -> Lane:
        """A session on a stream of its own, whose first runs have captured what is asked for."""
        import torch

        from trtgate.engines.pytorch import TorchLane

        stream = torch.cuda.Stream()
        [(name, options)] = providers(self.spec, "cuda")
        options = {**options, **deployed, "user_compute_stream": str(stream.cuda_stream)}
        session = load_session(self._plan, self._threads, [(name, options)])
        return TorchLane(lambda images: self._prepare(session, images, size), size, self._signature, stream=stream)

    def _prepare(self, session: Any, images: Sequence[torch.Tensor], size: int) -> Callable[[], list[torch.Tensor]]:
        import onnxruntime

        from trtgate.engines.pytorch import empty

        found = []
        binding = session.io_binding()
        for each, image in zip(self._signature.inputs, images, strict=True):
            binding.bind_input(each.name, "cuda", 0, np.dtype(each.dtype), each.at(size), image.data_ptr())
        for each in self._signature.outputs:
            output = empty(each, size, "cuda")
            binding.bind_output(each.name, "cuda", 0, np.dtype(each.dtype), each.at(size), output.data_ptr())
            found.append(output)
        options = onnxruntime.RunOptions()
        # Versions before this was heeded for graphs too wait for each; that shows as being host-bound.
        options.add_run_config_entry("disable_synchronize_execution_providers", "1")
        run = session.run_with_iobinding

        def call() -> list[torch.Tensor]:
            run(binding, options)
            return found

        return call

    def new_lane(self, size: int) -> Lane:
        deployed = DEPLOYED[self.spec.precision]
        try:
            lane = self._lane(size, deployed)
            self._launched_as[size] = CAPTURED
            return lane
        except Exception as error:  # it has types of its own for some of them
            # It refuses when it loads, or when it captures: a concatenation of more than 32 (1.31.1, DenseNet-201).
            how = f"without a CUDA graph: {' '.join(str(error).split())}"
        # Only now, since what was refused holds memory as long as its error does.
        lane = self._lane(size, {**deployed, "enable_cuda_graph": 0})
        log.warning("%s runs %s", self.spec.id, how)
        self._launched_as[size] = how
        return lane

    def audit(self) -> PrecisionAudit:
        return PrecisionAudit(self.spec.precision, layer_types(self._plan))

    def facts(self) -> Mapping[str, Any]:
        return {"launched_as": {str(size): how for size, how in self._launched_as.items()}}

    def notes(self, batch_size: int) -> tuple[str, ...]:
        how = self._launched_as[batch_size]
        return () if how == CAPTURED else (how,)


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

    A product of two activations, as in attention, is none of them: nobody asks for it in INT8. Nor is a normalisation
    behind a pooling, which ONNX Runtime writes as a convolution of one weight a channel where channels are in blocks.
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
        elif node.name in weighted and not _is_normalisation(node):
            layers[module_name(node.name)] = weights.get(node.input[1], "float32")
    return layers


def _is_normalisation(node: onnx.NodeProto) -> bool:
    """Whether a convolution was a BatchNormalization; its names are those that NchwcTransformer gives."""
    return (
        node.op_type == "Conv"
        and node.domain == "com.microsoft.nchwc"
        and module_name(node.name).endswith("_bn")
        and module_name(node.input[1]) == "bn_scale"
    )


def providers(spec: EngineSpec, device: Device) -> list[Any]:
    """What builds a plan: ONNX Runtime's provider of that processor, with the options that its graph may depend on."""
    if device == "cpu":
        return [ON_CPU_PROVIDER]
    return [(CUDA_PROVIDER, {"device_id": 0, "use_tf32": DEPLOYED[spec.precision]["use_tf32"]})]


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

    def runtimes(self, device: Device) -> tuple[str, ...]:
        return ("onnxruntime",)

    def available(self, spec: EngineSpec, device: Device) -> Availability:
        device = runs_on(spec, device)
        package = "onnxruntime-gpu" if device == "cuda" else "onnxruntime"
        try:
            onnxruntime = runtime(device)
        except ImportError as error:
            return not_imported("ONNX Runtime", error, f"pip install {package}", "onnxruntime")
        if spec.precision == "fp16":
            where = only_on("cuda", device)
        elif spec.precision == "int8":
            where = only_on("cpu", device)
        else:
            where = AVAILABLE
        if where.ok and device == "cuda" and CUDA_PROVIDER not in onnxruntime.get_available_providers():
            return Availability(False, f"ONNX Runtime has no {CUDA_PROVIDER}", f"pip install {package}")
        return where

    def plan_file(self, spec: EngineSpec) -> str | None:
        return "plan.onnx"

    def graph_kind(self, spec: EngineSpec) -> GraphKind | None:
        kinds: dict[str, GraphKind] = {"fp32": "fp32", "fp16": "fp16", "int8": "int8-asymmetric"}
        return kinds[spec.precision]

    def build_options(self, spec: EngineSpec, request: BuildRequest) -> Mapping[str, Any]:
        # The optimised graph holds layouts chosen for this processor.
        device = runs_on(spec, request.device)
        deployed = {"runs_with": dict(DEPLOYED[spec.precision])} if device == "cuda" else {}
        return {
            **deployed,
            "version": version_of("onnxruntime"),
            "providers": providers(spec, device),
            "graph_optimization_level": "ORT_ENABLE_ALL",
            "cpu_features": sorted(cpu_features()),
        }

    def build(self, spec: EngineSpec, request: BuildRequest, path: Path) -> None:
        device = runs_on(spec, request.device)
        onnxruntime = runtime(device)
        options = _session_options(request.threads)
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        options.optimized_model_filepath = str(path)
        onnxruntime.InferenceSession(request.graph, options, providers=providers(spec, device))

    def load(self, spec: EngineSpec, request: BuildRequest, plan: Path | None) -> Engine:
        assert plan is not None
        if runs_on(spec, request.device) == "cuda":
            return OnnxRuntimeGpuEngine(spec, plan, request.threads, request.signature)
        return OnnxRuntimeEngine(spec, plan, request.threads, request.signature)


BACKEND = OnnxRuntimeBackend()
