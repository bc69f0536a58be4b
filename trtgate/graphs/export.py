"""PyTorch -> ONNX FP32: dynamic batch, checked, and compared with PyTorch before anyone builds on it."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch

from trtgate.graphs import OPSET
from trtgate.models.base import Model
from trtgate.signature import INPUT, OUTPUT

log = logging.getLogger(__name__)

# Raised whenever the export itself writes another graph, so that cached graphs of before are not reused.
FORM = 2
# FP32 arithmetic in another order differs by about 1e-6 of the largest logit; a lost layer or a wrong padding by 1e-1.
EXPORT_TOLERANCE = 1e-4


class ExportError(Exception):
    """The exported graph is invalid, or does not compute what PyTorch computes."""


def export(model: Model, path: Path) -> None:
    """Write `model` as ONNX: `input` float32[batch,3,crop,crop] -> `logits` float32[batch,classes].

    Raises ExportError when the graph is invalid or its logits differ from PyTorch's.
    """
    crop = model.preprocessing.crop
    # A batch of 1 would be specialised into the graph, so the example has 2.
    example = torch.zeros(2, 3, crop, crop)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            model.module,
            (example,),
            dynamo=True,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            input_names=[INPUT],
            output_names=[OUTPUT],
            opset_version=OPSET,
            verbose=False,
        )
    assert program is not None  # dynamo=True always returns one
    graph = program.model_proto
    name_nodes_by_module(graph)
    pool_by_name(graph)
    try:
        onnx.checker.check_model(graph, full_check=True)
    except onnx.checker.ValidationError as error:
        raise ExportError(f"the ONNX graph of {model.name} is invalid: {error}") from error
    onnx.save(graph, path)
    compare_with_pytorch(model, path)


def name_nodes_by_module(graph: onnx.ModelProto) -> None:
    """Name every node that has weights by its module, `layer1.0.conv1` say, in place.

    The exporter numbers nodes (`node_Conv_754`), differently in every PyTorch version, and expectations.toml names
    nodes that must stay in float. Its output becomes `layer1.0.conv1.output`, that of an activation right behind it
    `layer1.0.conv1.activation`: builders name fused layers by their outputs.
    """
    taken = {node.name for node in graph.graph.node}
    outputs = {output.name for output in graph.graph.output}
    renamed: dict[str, str] = {}
    for node in graph.graph.node:
        for index, name in enumerate(node.input):
            node.input[index] = renamed.get(name, name)
        new = ""
        if node.op_type in {"Conv", "Gemm", "MatMul"} and len(node.input) > 1:
            module = node.input[1].removesuffix(".weight")
            if module != node.input[1] and module not in taken:
                node.name = module
                taken.add(module)
                new = f"{module}.output"
        elif node.op_type in {"Relu", "Clip"} and node.input[0].endswith(".output"):
            new = f"{node.input[0].removesuffix('.output')}.activation"
        if new and node.output[0] not in outputs and new not in renamed.values():
            renamed[node.output[0]] = new
            node.output[0] = new
    for info in graph.graph.value_info:
        info.name = renamed.get(info.name, info.name)


def pool_by_name(graph: onnx.ModelProto) -> None:
    """Write a mean over the whole image as GlobalAveragePool, in place.

    The exporter writes a ReduceMean whose axes are an input. TensorRT 8.6 takes those for all axes, and answers
    nonsense; GlobalAveragePool means the same to every builder.
    """
    constants = {each.name: each for each in graph.graph.initializer}
    ranks = {
        info.name: len(info.type.tensor_type.shape.dim)
        for info in onnx.shape_inference.infer_shapes(graph).graph.value_info
    }
    nodes = list(graph.graph.node)
    del graph.graph.node[:]
    for node in nodes:
        graph.graph.node.append(node)
        if node.op_type != "ReduceMean" or len(node.input) < 2 or node.input[1] not in constants:
            continue
        axes = sorted(int(axis) % 4 for axis in onnx.numpy_helper.to_array(constants[node.input[1]]))
        if ranks.get(node.input[0]) != 4 or axes != [2, 3]:
            continue
        keeps = all(attribute.i for attribute in node.attribute if attribute.name == "keepdims")
        pooled = node.output[0] if keeps else f"{node.output[0]}.pooled"
        made = [onnx.helper.make_node("GlobalAveragePool", [node.input[0]], [pooled], name=node.name)]
        if not keeps:
            made.append(onnx.helper.make_node("Flatten", [pooled], [node.output[0]], name=f"{node.name}.flatten"))
        graph.graph.node.pop()
        graph.graph.node.extend(made)
    used = {name for node in graph.graph.node for name in node.input}
    kept = [each for each in graph.graph.initializer if each.name in used]
    del graph.graph.initializer[:]
    graph.graph.initializer.extend(kept)


def compare_with_pytorch(model: Model, path: Path) -> None:
    """Run the graph by ONNX Runtime on seeded noise at two batch sizes that the export did not see.

    Raises ExportError when a logit is off by more than EXPORT_TOLERANCE of the largest one.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    crop = model.preprocessing.crop
    for batch in (1, 3):
        noise = np.random.default_rng(batch).standard_normal((batch, 3, crop, crop), np.float32)
        with torch.inference_mode():
            expected = model.module(torch.from_numpy(noise)).numpy()
        got = session.run([OUTPUT], {INPUT: noise})[0]
        # A network may answer zero to everything, before its last layer has learnt anything.
        error = float(np.abs(got - expected).max() / max(np.abs(expected).max(), np.finfo(np.float32).tiny))
        log.debug("%s: export differs from PyTorch by %.1e of the largest logit at batch %d", model.name, error, batch)
        if not error <= EXPORT_TOLERANCE:
            raise ExportError(
                f"the ONNX graph of {model.name} differs from PyTorch by {error:.1e} of the largest logit at batch "
                f"{batch} (at most {EXPORT_TOLERANCE:.0e} is allowed)"
            )
