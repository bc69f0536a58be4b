"""Runs an ONNX graph by PyTorch, layer by layer, wherever its weights are put: what the stand-in computes with.

Only the operators of image classifiers, and only as our own graphs use them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import numpy_helper

Values = dict[str, Any]
WEIGHTED = ("Conv", "Gemm", "MatMul")
FOLLOWING = ("Relu", "Clip")


@dataclass
class Layer:
    """One or more nodes that are reported as one layer."""

    nodes: list[onnx.NodeProto]

    @property
    def name(self) -> str:
        return " + ".join(node.name for node in self.nodes)

    @property
    def kind(self) -> str:
        return str(self.nodes[0].op_type)

    @property
    def weighted(self) -> bool:
        return self.kind in WEIGHTED


def attributes(node: onnx.NodeProto) -> dict[str, Any]:
    return {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}


def operator_set(model: onnx.ModelProto) -> int:
    return next(int(each.version) for each in model.opset_import if each.domain in {"", "ai.onnx"})


class Network:
    """A parsed graph. Without `reads_axes_input` a mean whose axes are an input is over all, as in TensorRT 8.6."""

    def __init__(self, model: onnx.ModelProto, *, reads_axes_input: bool = True) -> None:
        self.model = model
        self._reads_axes_input = reads_axes_input
        self.constants: Values = {
            each.name: torch.from_numpy(numpy_helper.to_array(each).copy()) for each in model.graph.initializer
        }
        self._nodes: list[onnx.NodeProto] = []
        for node in model.graph.node:
            if all(name in self.constants or not name for name in node.input):
                # Weights behind their DequantizeLinear, and constants: computed once.
                for name, value in zip(node.output, self._call(node, self.constants), strict=True):
                    self.constants[name] = value
            else:
                self._nodes.append(node)
        self.layers = group(self._nodes)

    @property
    def quantised(self) -> frozenset[str]:
        """The weighted nodes that read through a DequantizeLinear."""
        dequantised = {node.output[0] for node in self.model.graph.node if node.op_type == "DequantizeLinear"}
        return frozenset(node.name for node in self._nodes if node.op_type in WEIGHTED and node.input[0] in dequantised)

    def unsupported(self) -> list[tuple[int, str]]:
        """Index and operator of the nodes that cannot be run."""
        return [(i, n.op_type) for i, n in enumerate(self.model.graph.node) if n.op_type not in OPERATORS]

    def to(self, device: str, half: bool) -> None:
        """Put the weights on a device; `half` turns float weights into FP16."""
        for name, value in self.constants.items():
            if value.dtype is torch.int64:  # shapes and axes, which the host reads: never from a GPU while capturing
                continue
            moved = value.to(device)
            if half and moved.dtype is torch.float32 and moved.numel() > 1:
                moved = moved.half()
            if device != "cpu" and moved.ndim == 4:
                moved = moved.contiguous(memory_format=torch.channels_last)
            self.constants[name] = moved

    def run(self, images: torch.Tensor, after: Callable[[Layer], object] = lambda layer: None) -> torch.Tensor:
        """The graph's one output; `after` is called when a layer's work has been handed over."""
        values: Values = {self.model.graph.input[0].name: images}
        for layer in self.layers:
            for node in layer.nodes:
                found = self._call(node, _Both(values, self.constants))
                values.update(zip(node.output, found, strict=True))
            after(layer)
        return values[self.model.graph.output[0].name]

    def _call(self, node: onnx.NodeProto, values: Mapping[str, Any]) -> Sequence[Any]:
        inputs = [values[name] if name else None for name in node.input]
        given = attributes(node)
        if node.op_type == "ReduceMean" and len(inputs) > 1 and not self._reads_axes_input:
            inputs = [inputs[0]]
        found = OPERATORS[node.op_type](inputs, given)
        return found if isinstance(found, list) else [found]


class _Both:
    """Activations before constants."""

    def __init__(self, values: Values, constants: Values) -> None:
        self._values, self._constants = values, constants

    def __getitem__(self, name: str) -> Any:
        return self._values[name] if name in self._values else self._constants[name]


def group(nodes: Sequence[onnx.NodeProto]) -> list[Layer]:
    """A weighted node takes the activation right behind it; Q/DQ nodes go with the layer that reads them."""
    readers: dict[str, int] = {}
    for node in nodes:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    layers: list[Layer] = []
    by_output: dict[str, Layer] = {}
    for node in nodes:
        before = by_output.get(node.input[0])
        if (
            node.op_type in FOLLOWING
            and before is not None
            and before.weighted
            and before is layers[-1]
            and readers[node.input[0]] == 1
        ):
            before.nodes.append(node)
        else:
            before = Layer([node])
            layers.append(before)
        for name in node.output:
            by_output[name] = before
    return layers


def _together(x: torch.Tensor, *others: torch.Tensor | None) -> list[torch.Tensor | None]:
    """All of them in the type of the weights, which is what a layer computes in."""
    kind = next((each.dtype for each in others if each is not None), x.dtype)
    return [x.to(kind), *(None if each is None else each.to(kind) for each in others)]


def _on_cpu_in_float(function: Callable[..., torch.Tensor], x: torch.Tensor, *others: Any, **given: Any) -> Any:
    """A CPU is slow at half precision: there the operands are rounded, and the sums are not."""
    if x.dtype is torch.float16 and x.device.type == "cpu":
        floats = [None if each is None else each.float() for each in others]
        return function(x.float(), *floats, **given).half()
    return function(x, *others, **given)


def _convolve(inputs: Sequence[Any], given: Mapping[str, Any]) -> torch.Tensor:
    x, weight, bias = _together(inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None)
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    options = {
        "stride": tuple(given.get("strides", [1, 1])),
        "padding": (top, left),
        "dilation": tuple(given.get("dilations", [1, 1])),
        "groups": given.get("group", 1),
    }
    found: torch.Tensor = _on_cpu_in_float(F.conv2d, x, weight, bias, **options)
    return found


def _gemm(inputs: Sequence[Any], given: Mapping[str, Any]) -> torch.Tensor:
    x, weight, bias = _together(inputs[0], inputs[1], inputs[2] if len(inputs) > 2 else None)
    found: torch.Tensor = _on_cpu_in_float(F.linear, x, weight if given.get("transB") else weight.T, bias)
    return found


def _max_pool(inputs: Sequence[Any], given: Mapping[str, Any]) -> torch.Tensor:
    top, left, bottom, right = given.get("pads", [0, 0, 0, 0])
    x = inputs[0]
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom), value=-torch.inf), 0, 0
    return F.max_pool2d(
        x, given["kernel_shape"], given.get("strides"), (top, left), ceil_mode=bool(given.get("ceil_mode", 0))
    )


def _reduce_mean(inputs: Sequence[Any], given: Mapping[str, Any]) -> torch.Tensor:
    axes = inputs[1].tolist() if len(inputs) > 1 else given.get("axes") or list(range(inputs[0].ndim))
    return inputs[0].mean(axes, keepdim=bool(given.get("keepdims", 1)))


def _shape(value: torch.Tensor | np.ndarray) -> list[int]:
    return [int(each) for each in value.tolist()]


def _reshape(inputs: Sequence[Any], given: Mapping[str, Any]) -> torch.Tensor:
    wanted = [inputs[0].shape[i] if each == 0 else each for i, each in enumerate(_shape(inputs[1]))]
    return inputs[0].reshape(wanted)


def _scale(x: torch.Tensor, scale: torch.Tensor, axis: int) -> torch.Tensor:
    """A scale for each slice of x along `axis`, in a shape that broadcasts."""
    return scale if scale.numel() == 1 else scale.reshape([-1 if i == axis % x.ndim else 1 for i in range(x.ndim)])


def _quantize(inputs: Sequence[Any], given: Mapping[str, Any]) -> torch.Tensor:
    x, scale, zero = inputs
    scale = _scale(x, scale, given.get("axis", 1))
    # Kept as whole numbers in the float type: PyTorch has no integer convolutions to give them to.
    low, high = (-128, 127) if zero.dtype is torch.int8 else (0, 255)
    return torch.round(x / scale.to(x.dtype)).add(zero.to(x.dtype)).clamp_(low, high)


def _dequantize(inputs: Sequence[Any], given: Mapping[str, Any]) -> torch.Tensor:
    x, scale, *zero = inputs
    kind = scale.dtype
    scale = _scale(x, scale, given.get("axis", 1))
    offset = _scale(x, zero[0], given.get("axis", 1)).to(kind) if zero and zero[0] is not None else 0
    return (x.to(kind) - offset) * scale


def _clip(inputs: Sequence[Any], given: Mapping[str, Any]) -> torch.Tensor:
    low, high = (inputs[i] if len(inputs) > i else None for i in (1, 2))
    return torch.clamp(
        inputs[0], None if low is None else low.to(inputs[0]), None if high is None else high.to(inputs[0])
    )


TYPES = {
    onnx.TensorProto.FLOAT: torch.float32,
    onnx.TensorProto.FLOAT16: torch.float16,
    onnx.TensorProto.INT64: torch.int64,
}

OPERATORS: Mapping[str, Callable[[Sequence[Any], Mapping[str, Any]], Any]] = {
    "Conv": _convolve,
    "Gemm": _gemm,
    "MatMul": lambda inputs, given: _on_cpu_in_float(torch.matmul, *_together(*inputs)),
    "Relu": lambda inputs, given: F.relu(inputs[0]),
    "Clip": _clip,
    "Sigmoid": lambda inputs, given: torch.sigmoid(inputs[0]),
    "HardSigmoid": lambda inputs, given: F.hardsigmoid(inputs[0]),
    "HardSwish": lambda inputs, given: F.hardswish(inputs[0]),
    "Add": lambda inputs, given: torch.add(*_together(*inputs)),
    "Mul": lambda inputs, given: torch.mul(*_together(*inputs)),
    "MaxPool": _max_pool,
    "GlobalAveragePool": lambda inputs, given: inputs[0].mean((2, 3), keepdim=True),
    "ReduceMean": _reduce_mean,
    "Flatten": lambda inputs, given: inputs[0].flatten(given.get("axis", 1)),
    "Reshape": _reshape,
    "Concat": lambda inputs, given: torch.cat(list(inputs), given["axis"]),
    "Transpose": lambda inputs, given: inputs[0].permute(given["perm"]),
    "Identity": lambda inputs, given: inputs[0],
    "Cast": lambda inputs, given: inputs[0].to(TYPES[given["to"]]),
    "Constant": lambda inputs, given: torch.from_numpy(numpy_helper.to_array(given["value"]).copy()),
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _dequantize,
}
