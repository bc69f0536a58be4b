"""OpenVINO on the CPU. The plan is the exported compiled model."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trtgate.engines.base import Backend, BuildRequest, Engine, not_imported, only_on
from trtgate.kinds import Availability, Device, EngineSpec, GraphKind, PrecisionAudit
from trtgate.signature import Signature, Tensors, contiguous
from trtgate.stack import cpu_features, version_of

DEVICE = "CPU"
# What OpenVINO may compute the float layers in; integer layers follow the graph's Q/DQ.
INFERENCE_PRECISION = {"fp32": "f32", "bf16": "bf16", "int8": "f32"}
DTYPES = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "i8": "int8", "u8": "int8"}
ARITHMETIC_LAYERS = frozenset({"Convolution", "FullyConnected", "MatMul"})

# What stands behind a node's name, or its output's for the last one, once OpenVINO has made something of it.
MADE_OF_IT = re.compile(r"(/(WithoutBiases|DequantizationMultiply))+$")


class OpenVINOEngine(Engine):
    def __init__(self, spec: EngineSpec, plan: Path, threads: int, signature: Signature) -> None:
        super().__init__(spec)
        import openvino

        blob = io.BytesIO(plan.read_bytes())
        self._signature = signature
        self._compiled = openvino.Core().import_model(blob, DEVICE, _properties(spec.precision, threads))
        self._request = self._compiled.create_infer_request()

    @functools.cached_property
    def _places(self) -> dict[str, int]:
        """At which place each output comes: in their order, or by name where the signature leaves some out."""
        names, ports = self._signature.output_names, list(self._compiled.outputs)
        if len(ports) == len(names):
            return {name: index for index, name in enumerate(names)}
        return {name: next(index for index, port in enumerate(ports) if name in port.get_names()) for name in names}

    def infer(self, inputs: Tensors) -> Tensors:
        self.bind(inputs)()
        return {
            each.name: np.array(self._request.get_output_tensor(self._places[each.name]).data, each.dtype)
            for each in self._signature.outputs
        }

    def bind(self, inputs: Tensors) -> Callable[[], object]:
        import openvino

        for index, port in enumerate(self._compiled.inputs):  # one that nothing reads is not among them
            name = next(each.name for each in self._signature.inputs if each.name in port.get_names())
            # Shared, not copied: the request reads the caller's array, as ONNX Runtime and PyTorch do.
            tensor = openvino.Tensor(contiguous(inputs[name]), shared_memory=True)
            self._request.set_input_tensor(index, tensor)
        infer: Callable[[], object] = self._request.infer
        return infer

    def audit(self) -> PrecisionAudit:
        layers = {}
        for node in self._compiled.get_runtime_model().get_ops():
            info = node.get_rt_info()
            layer = str(info["layerType"].value)
            if layer in ARITHMETIC_LAYERS and (layer != "MatMul" or _is_constant(node.input_value(1).get_node())):
                kind = str(info["runtimePrecision"].value)
                layers[MADE_OF_IT.sub("", node.get_friendly_name())] = DTYPES.get(kind, kind)
        return PrecisionAudit(self.spec.precision, layers)

    def close(self) -> None:
        self._request = self._compiled = None


def _is_constant(node: Any) -> bool:
    """Whether a layer holds weights, reordered perhaps; a product of two activations, as in attention, has none."""
    while str(node.get_rt_info()["layerType"].value) in {"Reorder", "Transpose", "Reshape"}:
        node = node.input_value(0).get_node()
    return str(node.get_rt_info()["layerType"].value) == "Const"


def _properties(precision: str, threads: int) -> dict[str, Any]:
    return {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": INFERENCE_PRECISION[precision],
    }


class OpenVINOBackend(Backend):
    name = "openvino"
    builds_apart = True

    def runtimes(self, device: Device) -> tuple[str, ...]:
        return ("openvino",)

    def available(self, spec: EngineSpec, device: Device) -> Availability:
        try:
            import openvino  # noqa: F401
        except ImportError as error:
            return not_imported("OpenVINO", error, "pip install openvino", "openvino")
        if spec.precision == "bf16" and not cpu_features() & {"avx512_bf16", "amx_bf16", "bf16"}:
            return Availability(False, "this CPU has no BF16 instructions")
        return only_on("cpu", device)

    def plan_file(self, spec: EngineSpec) -> str | None:
        return "plan.blob"

    def graph_kind(self, spec: EngineSpec) -> GraphKind | None:
        return "int8-symmetric" if spec.precision == "int8" else "fp32"

    def build_options(self, spec: EngineSpec, request: BuildRequest) -> Mapping[str, Any]:
        return {
            "version": version_of("openvino"),
            "device": DEVICE,
            "properties": _properties(spec.precision, request.threads),
            "cpu_features": sorted(cpu_features()),
        }

    def build(self, spec: EngineSpec, request: BuildRequest, path: Path) -> None:
        import openvino

        core = openvino.Core()
        graph = core.read_model(request.graph)
        if len(request.batch_sizes) == 1:  # kernels for a known shape are about 5 % faster
            size = request.batch_sizes[0]
            graph.reshape({each.name: list(each.at(size)) for each in request.signature.inputs})
        compiled = core.compile_model(graph, DEVICE, _properties(spec.precision, request.threads))
        blob = compiled.export_model()
        path.write_bytes(blob.getvalue() if isinstance(blob, io.BytesIO) else blob)

    def load(self, spec: EngineSpec, request: BuildRequest, plan: Path | None) -> Engine:
        assert plan is not None
        return OpenVINOEngine(spec, plan, request.threads, request.signature)


BACKEND = OpenVINOBackend()
