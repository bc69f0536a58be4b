"""What comes out of an ONNX file, learnt by running it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from trtgate.samples import Seeded
from trtgate.signature import BATCH, Signature, TensorSpec

SMALL = Signature(
    (TensorSpec("x", "float32", (1, 3, 8, 8)),),
    (TensorSpec("y", "float32", (1, 4, 8, 8)),),
)


def save_small(path: Path) -> None:
    """Write a network that whatever runs networks can run, one small convolution of the signature SMALL: what cannot
    run that either is broken, whatever it says of a larger one."""
    import onnx
    from onnx import helper

    weights = onnx.numpy_helper.from_array(np.linspace(-1, 1, 108, dtype=np.float32).reshape(4, 3, 3, 3), "w")
    inputs, outputs = (
        [helper.make_tensor_value_info(each.name, onnx.TensorProto.FLOAT, each.at(1)) for each in side]
        for side in (SMALL.inputs, SMALL.outputs)
    )
    node = helper.make_node("Conv", ["x", "w"], ["y"], name="conv", pads=[1, 1, 1, 1])
    graph = helper.make_graph([node], "one_convolution", inputs, outputs, [weights])
    opset = [helper.make_opsetid("", 13)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


# What ONNX Runtime calls the tensors that come out as arrays of numpy's own types.
NUMBERS = frozenset(
    f"tensor({kind})"
    for kind in (
        *("float", "double", "float16", "bool"),
        *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)),
    )
)


def try_graph(
    path: Path, inputs: tuple[TensorSpec, ...], limits: Mapping[str, int], constants: Mapping[str, Any]
) -> dict[str, Any]:
    """Run the file on two seeded samples, and on both at once where it takes batches; what came out.

    An axis of an output that is twice as long then is the batch, or a multiple of it; one that differs between samples
    has the length -1, and so has one that follows from an operator whose answers have any number, where shape inference
    knows no other length. `unbatched` is what the runtime said of two samples at once, where it could not run them
    though the inputs leave room. `unsteady` are outputs that differ from run to run on one sample. `apart` says that
    what comes out of two samples at once is what comes out of either.
    """
    import onnxruntime

    from trtgate.models.onnx_file import first_line, load_graph, with_shapes

    signature = Signature(inputs)
    given = Seeded(signature, limits, constants, 2, seed=0)
    samples = [given[index] for index in range(len(given))]
    found: dict[str, Any] = {"problem": "", "outputs": [], "left_out": [], "batched": signature.batched, "unsteady": []}
    found["unbatched"], found["apart"] = "", True
    try:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        model = with_shapes(load_graph(path), inputs)
        content = model.SerializeToString()
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        kinds = {each.name: each.type for each in session.get_outputs()}
        names = [name for name, kind in kinds.items() if kind in NUMBERS]
        found["left_out"] = [name for name in kinds if name not in names]
        if not names:  # an empty list would ask for all of them
            return found
        one, again, other = (
            [np.asarray(each) for each in session.run(names, dict(sample))] for sample in (samples[0], *samples)
        )
        known = {each.name: each.shape for each in session.get_outputs()}
        counted = counting(model)
    except Exception as error:  # ONNX Runtime's own, told in one line
        found["problem"] = first_line(error)
        return found
    both = one
    if signature.batched:
        try:
            both = session.run(names, dict(signature.join(samples, 2)))
        except Exception as error:  # a batch of one is written into the graph, or the runtime cannot run a larger one
            found["batched"], found["unbatched"] = False, first_line(error)
    found["unsteady"] = [name for name, a, b in zip(names, one, again, strict=True) if not _repeated(a, b)]
    for name, a, b, together in zip(names, one, other, both, strict=True):
        axes: list[int | str] = list(a.shape)
        if a.shape != b.shape:
            axes = [length if length == more else -1 for length, more in zip(a.shape, b.shape, strict=False)]
        elif found["batched"] and together.ndim == a.ndim:
            axes = [_grown(length, more) for length, more in zip(a.shape, together.shape, strict=True)]
        shown = known[name] if len(known[name] or ()) == len(axes) else [None] * len(axes)
        if name in counted:
            axes = [
                axis if axis == length or (axis == BATCH and length == BATCH) else -1
                for axis, length in zip(axes, shown, strict=True)
            ]
        found["outputs"].append([name, a.dtype.name, axes])
        if found["batched"] and name not in found["unsteady"]:
            found["apart"] = found["apart"] and _apart(axes, a, b, np.asarray(together))
    return found


# Operators of which nobody knows how much they give before they have run.
COUNTING = frozenset({"NonMaxSuppression", "NonZero", "Compress", "Unique", "Loop", "If", "Range", "StringSplit"})


def counting(model: Any) -> set[str]:
    """The values that may have any length, since they follow from such an operator."""
    found: set[str] = set()
    for node in model.graph.node:
        if node.op_type in COUNTING or found.intersection(node.input):
            found.update(node.output)
    return found


def _apart(axes: list[int | str], one: Any, other: Any, together: Any) -> bool:
    """Whether the answer to two samples at once is those to either, one after the other along one axis."""
    spec = TensorSpec("", str(one.dtype), tuple(axes))
    if spec.batch_axis is None or one.shape != other.shape:
        return False
    return _repeated(np.concatenate([one, other], spec.batch_axis), together)


def _repeated(one: Any, again: Any) -> bool:
    """Whether two runs on one sample gave the same, but for what the order of a sum changes."""
    if one.shape != again.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one, again))
    size = float(np.abs(one[np.isfinite(one)]).max(initial=0.0))
    return bool(np.allclose(one.astype(np.float64), again.astype(np.float64), 1e-3, 1e-4 * size, equal_nan=True))


def _grown(one: int, two: int) -> int | str:
    if one == two:
        return one
    if two != 2 * one:
        return -1
    return BATCH if one == 1 else f"{one}*{BATCH}"
