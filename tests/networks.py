"""Small networks in ONNX, of the kinds that people have: fixed and open shapes, integers, states, several outputs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).standard_normal(shape) * 0.3).astype(np.float32)


def network(
    nodes: Sequence[Any],
    inputs: dict[str, tuple[int, Sequence[Any]]],
    outputs: dict[str, tuple[int, Sequence[Any] | None]],
    weights: dict[str, np.ndarray],
    opset: int = 17,
) -> onnx.ModelProto:
    made = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info(name, *about) for name, about in inputs.items()],
        [helper.make_tensor_value_info(name, *about) for name, about in outputs.items()],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def heads(batch: Any = "N", height: Any = "H", width: Any = "W", *, spoilt: bool = False) -> onnx.ModelProto:
    """A convolution with a batch norm and two convolutional heads, `map` and `boxes`; nodes have no names.

    A `spoilt` one gives nothing on channel 2 of `boxes`.
    """
    scale = np.ones(6, np.float32)
    weights = {"w": random(8, 3, 3, 3), "m": random(1, 8, 1, 1, seed=1), "b": random(6, 8, 3, 3, seed=2)}
    weights |= {"g": np.ones(8, np.float32) * 1.5, "z": random(8, seed=3), "u": random(8, seed=4)}
    if spoilt:
        scale[2] = 0.0
    weights |= {"v": np.ones(8, np.float32), "s": scale.reshape(1, 6, 1, 1)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "g", "z", "u", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Conv", ["r", "m"], ["c"]),
        helper.make_node("Sigmoid", ["c"], ["map"]),
        helper.make_node("Conv", ["r", "b"], ["d"], pads=[1, 1, 1, 1]),
        helper.make_node("Mul", ["d", "s"], ["boxes"]),
    ]
    return network(
        nodes,
        {"x": (FLOAT, [batch, 3, height, width])},
        {"map": (FLOAT, None), "boxes": (FLOAT, None)},
        weights,
    )


def text() -> onnx.ModelProto:
    """Token ids and a mask of a length that is open; embeddings, a matrix product, a sum over what is masked in."""
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["e"]),
        helper.make_node("MatMul", ["e", "w"], ["h"]),
        helper.make_node("Tanh", ["h"], ["t"]),
        helper.make_node("Cast", ["attention_mask"], ["f"], to=FLOAT),
        helper.make_node("Unsqueeze", ["f", "last"], ["k"]),
        helper.make_node("Mul", ["t", "k"], ["q"]),
        helper.make_node("ReduceSum", ["q", "one"], ["pooled"], keepdims=0),
    ]
    return network(
        nodes,
        {"input_ids": (INT64, ["batch", "length"]), "attention_mask": (INT64, ["batch", "length"])},
        {"pooled": (FLOAT, ["batch", 8])},
        {"table": random(11, 8), "w": random(8, 8), "last": np.array([2]), "one": np.array([1])},
    )


def recurrent() -> onnx.ModelProto:
    """Sound with a state and a scalar, as voice detectors have them: nothing here is a batch of samples."""
    nodes = [
        helper.make_node("MatMul", ["sound", "w"], ["h"]),
        helper.make_node("Cast", ["rate"], ["r"], to=FLOAT),
        helper.make_node("Div", ["h", "r"], ["d"]),
        helper.make_node("Add", ["d", "state"], ["out_state"]),
        helper.make_node("ReduceMean", ["out_state"], ["loud"], keepdims=0),
    ]
    return network(
        nodes,
        {"sound": (FLOAT, [1, 16]), "state": (FLOAT, [1, 4]), "rate": (INT64, [])},
        {"loud": (FLOAT, []), "out_state": (FLOAT, [1, 4])},
        {"w": random(16, 4)},
    )


def classifier(classes: int = 5) -> onnx.ModelProto:
    """A convolution, a mean and a matrix product: [batch,3,16,16] to [batch,classes]."""
    nodes = [
        helper.make_node("Conv", ["photo", "w"], ["a"], pads=[1, 1, 1, 1], name="conv"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "v"], ["scores"], name="fc"),
    ]
    return network(
        nodes,
        {"photo": (FLOAT, ["batch", 3, 16, 16])},
        {"scores": (FLOAT, ["batch", classes])},
        {"w": random(8, 3, 3, 3) * 3, "v": random(8, classes, seed=1) * 5},
    )


def embedding() -> onnx.ModelProto:
    """What a head reads is an output, too, and so is what another branch of two convolutions reads."""
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Relu", ["a"], ["features"], name="relu"),
        helper.make_node("Conv", ["features", "v"], ["b"], pads=[1, 1, 1, 1], name="second"),
        helper.make_node("GlobalAveragePool", ["b"], ["p"], name="pool"),
        helper.make_node("Flatten", ["p"], ["embedding"], name="flatten"),
        helper.make_node("Gemm", ["embedding", "u"], ["scores"], name="fc"),
    ]
    weights = {"w": random(8, 3, 3, 3), "v": random(8, 8, 3, 3, seed=1), "u": random(8, 5, seed=2)}
    outputs = dict.fromkeys(("embedding", "features", "scores"), (FLOAT, None))
    return network(nodes, {"x": (FLOAT, ["N", 3, 16, 16])}, outputs, weights)


def masks(given: Sequence[Any], channels: int, *, last: bool) -> onnx.ModelProto:
    """A convolution and a sigmoid of a picture whose channels come last if it has three there; its maps `m` come so if
    `last`, as those of TensorFlow do."""
    ahead = ["x"] if given[3] != 3 else ["t"]
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", [*ahead, "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("Sigmoid", ["a"], ["s" if last else "m"]),
        helper.make_node("Transpose", ["s"], ["m"], perm=[0, 2, 3, 1]),
    ]
    chosen = nodes[0 if given[3] == 3 else 1 : 4 if last else 3]
    weights = {"w": random(channels, 3, 3, 3)}
    return network(chosen, {"x": (FLOAT, list(given))}, {"m": (FLOAT, None)}, weights)


def branching() -> onnx.ModelProto:
    """A branch that reads what is made outside of it, and a bias of [1,N]."""

    def branch(op: str) -> onnx.GraphProto:
        value = helper.make_tensor_value_info(op, FLOAT, None)
        return helper.make_graph([helper.make_node(op, ["h", "c"], [op])], op, [], [value])

    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], name="first"),
        helper.make_node("ReduceSum", ["x"], ["sum"], keepdims=0),
        helper.make_node("Greater", ["sum", "zero"], ["more"]),
        helper.make_node("If", ["more"], ["y"], then_branch=branch("Add"), else_branch=branch("Sub")),
        helper.make_node("Gemm", ["y", "v", "bias"], ["z"], name="second"),
    ]
    weights = {
        "w": random(8, 6),
        "v": random(6, 4, seed=1),
        "bias": random(1, 4),
        "c": random(6),
        "zero": np.float32(0),
    }
    return network(nodes, {"x": (FLOAT, ["batch", 8])}, {"z": (FLOAT, None)}, weights)


def finding() -> onnx.ModelProto:
    """As many answers as there is to be found, beside an input that nothing reads."""
    nodes = [
        helper.make_node("Greater", ["x", "half"], ["more"]),
        helper.make_node("NonZero", ["more"], ["where"]),
        helper.make_node("Mul", ["x", "half"], ["y"]),
    ]
    inputs = {"unread": (FLOAT, [3]), "x": (FLOAT, [1, 20])}
    return network(nodes, inputs, {"where": (INT64, None), "y": (FLOAT, None)}, {"half": np.float32(0.5)})


def save(model: onnx.ModelProto, path: Path, **how: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path, **how)
    return path


def suppressing() -> onnx.ModelProto:
    """Boxes by non-maximum suppression: on photos of noise there are none."""
    nodes = [
        helper.make_node("Reshape", ["x", "rows"], ["scores"]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most", "same", "least"], ["chosen"]),
    ]
    weights = {
        "rows": np.array([1, 1, 20]),
        "boxes": (np.arange(20)[None, :, None] * 10 + np.array([0, 0, 5, 5])).astype(np.float32),
        "most": np.array([20]),
        "same": np.array([0.5], np.float32),
        "least": np.array([2.0], np.float32),
    }
    return network(nodes, {"x": (FLOAT, [1, 20])}, {"chosen": (INT64, None)}, weights)


def random_noise() -> onnx.ModelProto:
    """What it is given, and noise that is another one each time."""
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["noise"]),
        helper.make_node("Add", ["x", "noise"], ["y"]),
        helper.make_node("MatMul", ["x", "w"], ["z"]),
    ]
    return network(nodes, {"x": (FLOAT, ["batch", 8])}, {"y": (FLOAT, None), "z": (FLOAT, None)}, {"w": random(8, 4)})
