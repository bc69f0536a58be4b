"""A classifier of a few thousand weights in ONNX, as our own exports look, and what it answers."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from trtgate.signature import BATCH, Signature, TensorSpec

CROP = 16


def signature(crop: int = CROP) -> Signature:
    """What goes into it and what comes out."""
    photos = TensorSpec("input", "float32", (BATCH, 3, crop, crop))
    return Signature((photos,), (TensorSpec("logits", "float32", (BATCH, 1000)),))


def graph(*, pooling: str = "GlobalAveragePool") -> onnx.ModelProto:
    """conv1 - relu - conv2 - relu - mean - fc; `pooling` is GlobalAveragePool, or ReduceMean with axes as an input."""
    random = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array((random.standard_normal(shape) * 0.3).astype(np.float32), name)

    def constant(name: str, *values: int) -> onnx.TensorProto:
        return numpy_helper.from_array(np.array(values, np.int64), name)

    weights = [
        weight("conv1.weight", 8, 3, 3, 3),
        weight("conv1.bias", 8),
        weight("conv2.weight", 8, 8, 3, 3),
        weight("conv2.bias", 8),
        weight("fc.weight", 1000, 8),
        weight("fc.bias", 1000),
        constant("shape", -1, 8),
    ]
    pads = {"pads": [1, 1, 1, 1]}
    pooled = ["conv2.activation"]
    if pooling == "ReduceMean":
        weights.append(constant("axes", -1, -2))
        pooled.append("axes")
    nodes = [
        helper.make_node("Conv", ["input", "conv1.weight", "conv1.bias"], ["conv1.output"], name="conv1", **pads),
        helper.make_node("Relu", ["conv1.output"], ["conv1.activation"], name="relu1"),
        helper.make_node("Conv", ["conv1.activation", "conv2.weight", "conv2.bias"], ["conv2.output"], name="conv2",
                         strides=[2, 2], **pads),
        helper.make_node("Relu", ["conv2.output"], ["conv2.activation"], name="relu2"),
        helper.make_node(pooling, pooled, ["mean"], name="mean"),
        helper.make_node("Reshape", ["mean", "shape"], ["flat"], name="flatten"),
        helper.make_node("Gemm", ["flat", "fc.weight", "fc.bias"], ["logits"], name="fc", transB=1),
    ]  # fmt: skip
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 3, CROP, CROP])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 1000])],
        weights,
    )
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    onnx.checker.check_model(model, full_check=True)
    return model


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same with Q/DQ on the inputs of both convolutions and of the matrix product."""
    quantised = onnx.ModelProto()
    quantised.CopyFrom(model)
    nodes = list(quantised.graph.node)
    del quantised.graph.node[:]
    for node in nodes:
        if node.op_type in {"Conv", "Gemm"}:
            for index, (name, scale) in enumerate(zip(node.input[:2], (0.04, 0.01), strict=True)):
                quantised.graph.initializer.append(numpy_helper.from_array(np.float32(scale), f"{name}_scale"))
                quantised.graph.initializer.append(numpy_helper.from_array(np.int8(0), f"{name}_zero"))
                inputs = [f"{name}_scale", f"{name}_zero"]
                quantised.graph.node.extend(
                    [
                        helper.make_node(
                            "QuantizeLinear", [name, *inputs], [f"{name}_q"], name=f"{name}_QuantizeLinear"
                        ),
                        helper.make_node(
                            "DequantizeLinear", [f"{name}_q", *inputs], [f"{name}_dq"], name=f"{name}_DequantizeLinear"
                        ),
                    ]
                )
                node.input[index] = f"{name}_dq"
        quantised.graph.node.append(node)
    onnx.checker.check_model(quantised, full_check=True)
    return quantised


def photos(count: int) -> np.ndarray:
    """float32[count,3,CROP,CROP]."""
    return np.random.default_rng(1).standard_normal((count, 3, CROP, CROP), np.float32)


def answers(model: onnx.ModelProto, images: np.ndarray) -> np.ndarray:
    """What ONNX Runtime computes, float32[N,1000]."""
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    logits: np.ndarray = session.run(["logits"], {"input": images})[0]
    return logits
