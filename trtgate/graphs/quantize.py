"""ONNX FP32 -> INT8 with explicit Q/DQ nodes, by ONNX Runtime's static quantisation.

Where Q/DQ stands decides accuracy and speed alike, and no builder complains about a bad place. Here only the *inputs*
of QUANTIZED operators are, so a Conv's output is rounded once, after its activation, and never between Conv and ReLU6,
where the unclipped range costs EfficientNet-Lite0 over ten points of agreement. GlobalAveragePool is
among them so that the Conv before it can write integers. MaxPool needs none of its own: rounding and taking the largest
can be done in either order, and builders move the Q behind it to the front.

Two kinds, because the runtimes' integer kernels differ:

- `symmetric`: int8 activations with zero point 0, float biases. What TensorRT requires and OpenVINO runs at full speed.
  At a residual Add only the skip input has Q/DQ: the other one must stay bare, or Conv+Add+ReLU does not fuse
  (TensorRT developer guide, "Q/DQ layer-placement recommendations").
- `asymmetric`: uint8 activations, int32 biases. What ONNX Runtime's x86 kernels (U8S8) are fast at.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from trtgate.graphs.weighted import OPERATORS, weighted_nodes
from trtgate.kinds import UserError
from trtgate.samples import Samples
from trtgate.signature import Tensors

log = logging.getLogger(__name__)

Kind = Literal["symmetric", "asymmetric"]
Calibration = Literal["minmax", "entropy"]
Ranges = Mapping[str, tuple[float, ...]]
QUANTIZED = (*OPERATORS, "Add", "GlobalAveragePool")
# Raised whenever the rules below put a Q/DQ node elsewhere or give it other bits, so that cached graphs of the old
# rules are not reused.
PLACEMENT = 5
# Migacz's numbers: a histogram of 2048 bins, reduced to the 128 levels of one sign.
ENTROPY_BINS = 2048
ENTROPY_LEVELS = 128
CHUNK = 4


@dataclass(frozen=True)
class QuantizeOptions:
    """How the INT8 graphs of one model are made; `keep_float` holds node names or patterns such as `layer4.*`."""

    calibration: Calibration = "minmax"
    keep_float: tuple[str, ...] = ()


def _reader(batches: Iterator[Tensors]) -> Any:
    """Batches one by one, as ONNX Runtime's calibrators ask for them."""
    from onnxruntime.quantization import CalibrationDataReader

    class Batches(CalibrationDataReader):  # type: ignore[misc]  # its package has no types
        def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
            batch = next(batches, None)
            return None if batch is None else dict(batch)

    return Batches()


def measure_ranges(fp32: Path, samples: Samples, calibration: Calibration) -> Ranges:
    """(lowest, highest) of every activation that may be quantised, over `samples`.

    "minmax" takes the extremes; "entropy" the threshold that loses least information in the sense of Kullback and
    Leibler (Migacz, "8-bit inference with TensorRT", GTC 2017), over the 2048 bins it wants: with ONNX Runtime's
    default of as many bins as quantised levels nothing can ever be clipped and entropy *is* min-max.
    """
    from onnxruntime.quantization import CalibrationMethod, create_calibrator

    method = CalibrationMethod.MinMax if calibration == "minmax" else CalibrationMethod.Entropy
    bins = {} if calibration == "minmax" else {"num_bins": ENTROPY_BINS, "num_quantized_bins": ENTROPY_LEVELS}
    with TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        calibrator = create_calibrator(
            fp32,
            list(QUANTIZED),
            augmented_model_path=f"{folder}/augmented.onnx",
            calibrate_method=method,
            extra_options=bins,
        )
        # All activations of a chunk are held at once: some 100 MB a photo for ResNet-50.
        for start in range(0, len(samples), CHUNK):
            chunk = range(start, min(start + CHUNK, len(samples)))
            calibrator.collect_data(_reader(samples[index] for index in chunk))
        found = calibrator.compute_data()
        return {name: tuple(float(np.min(v)) for v in data.range_value) for name, data in found.items()}


def needs_reduced_range(cpu_features: frozenset[str]) -> bool:
    """Whether 8-bit weights would overflow on this CPU.

    Without VNNI, x86 adds pairs of u8 x s8 products in saturating 16-bit arithmetic (VPMADDUBSW), in ONNX Runtime and
    OpenVINO alike; ONNX Runtime's guide on quantisation ("When to use reduce-range") asks for 7-bit weights there.
    Unreduced, EfficientNet-Lite0 keeps 857 (onnxruntime-int8) and 536 (openvino-int8) of 1,000 answers on such a CPU.
    """
    x86 = "avx2" in cpu_features
    return x86 and not cpu_features & {"avx512_vnni", "avx_vnni", "amx_int8"}


def quantize(
    fp32: Path,
    path: Path,
    kind: Kind,
    ranges: Ranges,
    keep_float: tuple[str, ...] = (),
    *,
    sample: Tensors,
    reduce_range: bool = False,
) -> None:
    """Write the INT8 graph of `kind` of the FP32 graph `fp32` to `path`, with activation ranges as measured.

    `sample` is something that the graph can be run on. `reduce_range` narrows weights to 7 bits where
    `needs_reduced_range` says that 8 would overflow.

    Raises UserError when `keep_float` names a node that the graph does not have.
    """
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    graph = onnx.load(fp32)
    read = set_outputs_apart(graph)
    symmetric = kind == "symmetric"
    activations = {name for node in graph.graph.node for name in (*node.input, *node.output)}
    overrides: dict[str, list[dict[str, Any]]] = {
        name: [{"rmin": np.float32(low), "rmax": np.float32(high)}]
        for name, (low, high) in ranges.items()
        if name in activations
    }
    if reduce_range:
        overrides |= narrowed_weights(graph)
    with contextlib.redirect_stdout(io.StringIO()), quiet_root_logger():
        quantize_static(
            graph,
            path,
            # It insists on calibrating; every range that it finds is overridden.
            _reader(iter([sample])),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QInt8 if symmetric else QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            op_types_to_quantize=list(QUANTIZED),
            nodes_to_exclude=[*matching_nodes(graph, keep_float), *not_quantized(graph)],
            extra_options={
                "ActivationSymmetric": symmetric,
                "WeightSymmetric": True,
                "QuantizeBias": not symmetric,
                "OpTypesToExcludeOutputQuantization": list(QUANTIZED),
                "TensorQuantOverrides": overrides,
            },
        )
    quantized = onnx.load(path)
    put_in_order(quantized)
    require_measured(quantized, ranges)
    if symmetric:
        bare_main_branches(quantized)
    else:
        close_convolutions(quantized, ranges)
    rename(
        quantized.graph, {new: old for name in read for new, old in ((name, f"{name}{READ}"), (f"{name}{APART}", name))}
    )
    onnx.checker.check_model(quantized, full_check=True)
    onnx.save(quantized, path)


# What a tensor that is an output is called as one, and as what is read inside, once its own name is the other's.
APART, READ = "_answer", "_inside"


def set_outputs_apart(graph: onnx.ModelProto) -> list[str]:
    """Give each output that is read inside, too, as an embedding that a head follows, a name of its own, in place; the
    names. ONNX Runtime's quantiser would round the output itself, and rename what has a measured range."""
    inside = {name for node in graph.graph.node for name in read_by(node)}
    inside &= {name for node in graph.graph.node for name in node.output}
    read = [value for value in graph.graph.output if value.name in inside]
    found = [value.name for value in read]
    for value in read:
        node = onnx.helper.make_node("Identity", [value.name], [f"{value.name}{APART}"], f"{value.name}{APART}")
        graph.graph.node.append(node)
        value.name = node.output[0]
    return found


def rename(graph: onnx.GraphProto, names: Mapping[str, str]) -> None:
    """Call tensors otherwise, in place, in the graphs inside, too."""
    for node in graph.node:
        for side in (node.input, node.output):
            side[:] = [names.get(name, name) for name in side]
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                rename(inner, names)
    for value in (*graph.output, *graph.value_info):
        value.name = names.get(value.name, value.name)


def narrowed_weights(graph: onnx.ModelProto) -> dict[str, list[dict[str, Any]]]:
    """Overrides that give the weights of dense convolutions and matrix products 7 bits.

    Depthwise convolutions keep 8: they sum over a window, not over channels, and their kernels do so in 32 bits. On
    EfficientNet-Lite0 that keeps 947 and 954 of 1,000 answers (onnxruntime-int8, openvino-int8), where 7 bits
    everywhere keep 931 and 933.
    """
    from onnxruntime.quantization import QuantType

    overrides: dict[str, list[dict[str, Any]]] = {}
    for node in weighted_nodes(graph):
        attributes = {attribute.name: attribute.i for attribute in node.attribute}
        if attributes.get("group", 1) == 1:
            axis = 0 if node.op_type == "Conv" or attributes.get("transB") else 1
            overrides[node.input[1]] = [
                {"quant_type": QuantType.QInt8, "symmetric": True, "reduce_range": True, "axis": axis}
            ]
    return overrides


def not_quantized(graph: onnx.ModelProto) -> list[str]:
    """The names of the QUANTIZED nodes that stay in float whoever asks.

    These are products of two activations, as in attention, and additions that are no residual ones of a convolution's
    output: those of a bias behind a matrix product, with which it is computed; the residual stream of a transformer,
    whose range is too wide for 8 bits; and those of a constant, as a hard swish begins with, where Q/DQ would stand
    between a convolution and its activation (TensorRT-RTX 1.7 refuses such a graph).
    """
    producers = {output: node.op_type for node in graph.graph.node for output in node.output}
    constants = {each.name for each in graph.graph.initializer}
    constants |= {name for name, kind in producers.items() if kind == "Constant"}
    weighted = {node.name for node in weighted_nodes(graph)}
    return [
        node.name
        for node in graph.graph.node
        if (node.op_type in OPERATORS and node.name not in weighted)
        or (
            node.op_type == "Add"
            and ("Conv" not in {producers.get(name) for name in node.input} or not constants.isdisjoint(node.input))
        )
    ]


@contextlib.contextmanager
def quiet_root_logger() -> Iterator[None]:
    """ONNX Runtime's quantiser warns on the root logger, once per channel that it adjusts."""
    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(before)


def require_measured(graph: onnx.ModelProto, ranges: Ranges) -> None:
    """Raises AssertionError when an activation was quantised by a range that nobody measured."""
    for node in graph.graph.node:
        if node.op_type == "QuantizeLinear" and node.input[0] not in ranges:
            raise AssertionError(f"{node.input[0]} was quantised without a measured range")


def matching_nodes(graph: onnx.ModelProto, patterns: tuple[str, ...]) -> list[str]:
    """Names of the quantisable nodes that the patterns name.

    Raises UserError for a pattern that matches none: a misspelt name would otherwise quantise silently.
    """
    left_out = set(not_quantized(graph))
    names = [node.name for node in graph.graph.node if node.op_type in QUANTIZED and node.name not in left_out]
    chosen: list[str] = []
    for pattern in patterns:
        found = fnmatch.filter(names, pattern)
        if not found:
            raise UserError(
                f"keep_float: no node that is quantised is named {pattern}; "
                f"the graph has {', '.join(names[:3])}, ... {names[-1]}"
            )
        chosen += [name for name in found if name not in chosen]
    return chosen


def bare_main_branches(graph: onnx.ModelProto) -> None:
    """Take Q/DQ off the main-branch input of every residual Add, in place.

    The main branch is the input that a Conv produces; where both are (a downsample block), the Conv with the longer
    way from where the branches part, so that the projection on the skip keeps its Q/DQ.
    """
    producers = {output: node for node in graph.graph.node for output in node.output}
    for add in (node for node in graph.graph.node if node.op_type == "Add"):
        candidates = []
        for index, name in enumerate(add.input):
            dequantize = producers.get(name)
            if dequantize is None or dequantize.op_type != "DequantizeLinear":
                continue
            quantize_node = producers.get(dequantize.input[0])
            if quantize_node is None or quantize_node.op_type != "QuantizeLinear":
                continue
            source = quantize_node.input[0]
            if source in producers and producers[source].op_type == "Conv":
                candidates.append((_convs_above(producers, source), index, source))
        if candidates:
            _, index, source = max(candidates)
            add.input[index] = source
    remove_dead_nodes(graph)


def close_convolutions(graph: onnx.ModelProto, ranges: Ranges) -> None:
    """Put Q/DQ behind every quantised convolution whose output nobody quantises, in place.

    ONNX Runtime computes a convolution in integers only if it may write integers too, and no graph but a residual
    network's has another convolution behind each: here follow a LayerNormalization, a Concat, an activation that is
    not computed along, or several readers of which one wants float. The integers are those of the kind "asymmetric".
    """
    body = graph.graph
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in body.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    dequantized = {output for node in body.node if node.op_type == "DequantizeLinear" for output in node.output}
    made: dict[str, list[onnx.NodeProto]] = {}  # by the tensor behind whose making they go
    for node in body.node:
        if node.op_type != "Conv" or node.input[1] not in dequantized:
            continue
        tensor = _written_by(node, readers)
        floats = [reader for reader in readers.get(tensor, []) if reader.op_type != "QuantizeLinear"]
        if not _writes_float(tensor, readers):
            continue
        measured = ranges.get(tensor) or _activated(ranges.get(node.output[0]), graph, readers[node.output[0]][0])
        if measured is None:
            continue
        quantizer = next((reader for reader in readers[tensor] if reader.op_type == "QuantizeLinear"), None)
        if quantizer is None:
            scale, integers = _scale_of(graph, tensor, measured), f"{tensor}_QuantizeLinear_Output"
            quantizer = onnx.helper.make_node(
                "QuantizeLinear", [tensor, *scale], [integers], f"{tensor}_QuantizeLinear"
            )
            made[tensor] = [quantizer]
        integers, back = quantizer.output[0], f"{tensor}_closed_DequantizeLinear_Output"
        made.setdefault(tensor if tensor in made else integers, []).append(
            onnx.helper.make_node(
                "DequantizeLinear", [integers, *quantizer.input[1:]], [back], f"{tensor}_closed_DequantizeLinear"
            )
        )
        for reader in floats:
            for position, name in enumerate(reader.input):
                if name == tensor:
                    reader.input[position] = back
    nodes = [each for node in body.node for each in (node, *made.get(node.output[0], []))]
    del body.node[:]
    body.node.extend(nodes)


def _written_by(conv: onnx.NodeProto, readers: Mapping[str, list[onnx.NodeProto]]) -> str:
    """The tensor that a convolution writes, with the activation that is computed along."""
    after = readers.get(conv.output[0], [])
    along = len(after) == 1 and after[0].op_type in COMPUTED_ALONG
    return str(after[0].output[0] if along else conv.output[0])


def _activated(
    measured: tuple[float, ...] | None, graph: onnx.ModelProto, activation: onnx.NodeProto
) -> tuple[float, ...] | None:
    """The range behind a Relu or Clip whose input's was measured; None where it was not."""
    if measured is None:
        return None
    constants = {value.name: onnx.numpy_helper.to_array(value) for value in graph.graph.initializer}
    low, high = -np.inf, np.inf
    if activation.op_type == "Relu":
        low = 0.0
    elif activation.op_type == "Clip":
        low, high = (
            float(constants[name]) if name in constants else limit
            for name, limit in zip([*activation.input[1:], "", ""][:2], (low, high), strict=True)
        )
    return tuple(float(np.clip(value, low, high)) for value in measured)


def _writes_float(tensor: str, readers: Mapping[str, list[onnx.NodeProto]]) -> bool:
    """Whether somebody reads the tensor in float. A Q that stands behind a MaxPool is moved before it."""
    after = readers.get(tensor, [])
    if len(after) == 1 and after[0].op_type == "MaxPool":
        after = readers.get(after[0].output[0], [])
    return any(reader.op_type != "QuantizeLinear" for reader in after)


# Activations that ONNX Runtime computes along with the integer convolution before them.
COMPUTED_ALONG = ("Relu", "Clip")


def _scale_of(graph: onnx.ModelProto, tensor: str, measured: tuple[float, ...]) -> list[str]:
    """Initialisers with the scale and the zero point of uint8 for a range, added to the graph; their names."""
    low, high = min(0.0, measured[0]), max(0.0, measured[1])
    scale = np.float32((high - low) / 255 or 1.0)
    zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
    names = [f"{tensor}_closed_scale", f"{tensor}_closed_zero_point"]
    for name, value in zip(names, (scale, zero), strict=True):
        graph.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(value), name))
    return names


def _convs_above(producers: dict[str, onnx.NodeProto], tensor: str) -> int:
    """Convolutions on the unbranched way up from `tensor` to the nearest Add, MaxPool or graph input."""
    count = 0
    while tensor in producers and producers[tensor].op_type not in {"Add", "MaxPool"}:
        count += producers[tensor].op_type == "Conv"
        tensor = producers[tensor].input[0]
    return count


def read_by(node: onnx.NodeProto) -> set[str]:
    """The tensors that a node reads, those of the branches and loops inside it too."""
    names = set(node.input)
    for attribute in node.attribute:
        for inner in (attribute.g, *attribute.graphs):
            names.update(*map(read_by, inner.node), (each.name for each in inner.output))
    return names


def put_in_order(graph: onnx.ModelProto) -> None:
    """Put every node behind those whose outputs it reads, in place; what is in order already stays as it is.

    ONNX Runtime's quantiser sorts by what nodes read themselves, and puts a branch before what it reads inside.
    """
    nodes = list(graph.graph.node)
    wanted = [read_by(node) for node in nodes]
    missing = {name for node in nodes for name in node.output}
    ordered: list[onnx.NodeProto] = []
    rest = list(range(len(nodes)))
    while rest:
        ready = next((index for index in rest if not wanted[index] & missing), rest[0])
        ordered.append(nodes[ready])
        missing -= set(nodes[ready].output)
        rest.remove(ready)
    if ordered != nodes:
        del graph.graph.node[:]
        graph.graph.node.extend(ordered)


def remove_dead_nodes(graph: onnx.ModelProto) -> None:
    """Drop nodes and initialisers that nothing reads any more, in place."""
    used = {output.name for output in graph.graph.output}
    kept = []
    for node in reversed(graph.graph.node):
        if used.intersection(node.output):
            kept.append(node)
            used.update(read_by(node))
    del graph.graph.node[:]
    graph.graph.node.extend(reversed(kept))
    initializers = [value for value in graph.graph.initializer if value.name in used]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(initializers)
    infos = [info for info in graph.graph.value_info if info.name in {o for node in kept for o in node.output}]
    del graph.graph.value_info[:]
    graph.graph.value_info.extend(infos)
