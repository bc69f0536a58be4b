"""ONNX files that anybody may have made, or that came damaged: each is read, or refused in one sentence."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto

from tests import networks
from trtgate.kinds import EngineBroken, UserError
from trtgate.models import onnx_file
from trtgate.models.onnx_file import OnnxFile, describe
from trtgate.samples import Seeded

from .test_fuzz import EXAMPLES, a_file, fuzzed, in_one_sentence, spoiled

pytestmark = pytest.mark.fuzz

Draw = Callable[..., Any]
# Few names, so that what is written by one node is read by the next, and given twice.
NAMES = st.sampled_from(["x", "y", "z", "w", "", "batch", "a/b:0", "[/x]", "\x1b[2J", "x\ny", "é", "n" * 300])
# -1 and 0 stand for what is open; None has neither a length nor a name.
AXES = st.sampled_from([None, -1, 0, 1, 2, 3, 8, 1 << 31, 1 << 62, "N", "batch", "H", "", "\x1b[2J"])
TYPES = st.sampled_from([*TensorProto.DataType.values(), 1, 1, 7, 99])
OPERATORS = st.sampled_from(
    [
        "Identity",
        "Cast",
        "Gather",
        "Constant",
        "Add",
        "MatMul",
        "Conv",
        "Reshape",
        "If",
        "Loop",
        "QuantizeLinear",
        "F",
        "",
    ]
)
GIVEN = st.sampled_from(["x", "y", "a/b:0", "é", "nobody"])
SHAPES = st.none() | st.dictionaries(GIVEN, st.lists(st.integers(1, 9), max_size=5).map(tuple), max_size=2)
VALUES = st.dictionaries(
    GIVEN, st.none() | st.integers() | st.floats() | st.lists(st.integers(-9, 300), max_size=3), max_size=2
)


@st.composite
def tensors(draw: Draw) -> TensorProto:
    """An initialiser, whose bytes need not be as many as it says."""
    made = TensorProto(name=draw(NAMES), dims=draw(st.lists(st.sampled_from([0, 1, 2, 3, -1, 1 << 62]), max_size=3)))
    made.data_type = draw(TYPES)
    made.raw_data = draw(st.binary(max_size=24))
    if draw(st.integers(0, 9)) == 0:
        made.data_location = TensorProto.EXTERNAL
        keys = st.sampled_from(["location", "offset", "length", "checksum"])
        some = st.sampled_from(["", ".", "..", "/dev/zero", "file", "-1", "x" * 300, str(1 << 70)])
        for key, value in draw(st.lists(st.tuples(keys, some), max_size=3)):
            made.external_data.add(key=key, value=value)
    return made


@st.composite
def values(draw: Draw) -> ValueInfoProto:
    """An input or an output: a tensor, or something else, or nothing."""
    made = ValueInfoProto(name=draw(NAMES))
    kind = draw(
        st.sampled_from(["tensor", "tensor", "tensor", "tensor", "scalar", "sequence", "map", "optional", "none"])
    )
    if kind == "tensor":
        made.type.tensor_type.elem_type = draw(TYPES)
        made.type.tensor_type.shape.SetInParent()
        for axis in draw(st.lists(AXES, max_size=5)):
            dim = made.type.tensor_type.shape.dim.add()
            if isinstance(axis, str):
                dim.dim_param = axis
            elif axis is not None:
                dim.dim_value = axis
    elif kind == "scalar":
        made.type.tensor_type.elem_type = draw(TYPES)
    elif kind == "sequence":
        made.type.sequence_type.elem_type.tensor_type.elem_type = 1
    elif kind == "map":
        made.type.map_type.key_type = 7
    elif kind == "optional":
        made.type.optional_type.elem_type.tensor_type.elem_type = 1
    return made


@st.composite
def nodes(draw: Draw, depth: int = 0) -> NodeProto:
    """A node of any operator, with as many inputs and outputs as it happens to have."""
    made = NodeProto(op_type=draw(OPERATORS), name=draw(NAMES), domain=draw(st.sampled_from(["", "", "", "own"])))
    made.input.extend(draw(st.lists(NAMES, max_size=3)))
    made.output.extend(draw(st.lists(NAMES, max_size=2)))
    kinds = ["axis", "value", "to", "none", "none"] + (["body"] if depth < 2 else [])
    kind = draw(st.sampled_from(kinds))
    if kind in {"axis", "to"}:
        made.attribute.add(name=kind, type=AttributeProto.INT, i=draw(st.sampled_from([0, 1, -1, 7, 1 << 40])))
    elif kind == "value":
        made.attribute.add(name=kind, type=AttributeProto.TENSOR, t=draw(tensors()))
    elif kind == "body":
        made.attribute.add(name=kind, type=AttributeProto.GRAPH, g=draw(graphs(depth + 1)))
    return made


@st.composite
def graphs(draw: Draw, depth: int = 0) -> GraphProto:
    return GraphProto(
        name=draw(NAMES),
        node=draw(st.lists(nodes(depth), max_size=4)),
        input=draw(st.lists(values(), max_size=3)),
        output=draw(st.lists(values(), max_size=2)),
        initializer=draw(st.lists(tensors(), max_size=2)),
        value_info=draw(st.lists(values(), max_size=1)),
    )


@st.composite
def made_up(draw: Draw) -> bytes:
    """A model of any nodes with any inputs and outputs; seldom one that a runtime would take."""
    model = ModelProto(graph=draw(graphs()), ir_version=draw(st.sampled_from([0, 3, 8, 10, 1 << 40])))
    for domain in draw(st.sampled_from([[""], ["", "own"], []])):
        model.opset_import.add(domain=domain, version=draw(st.sampled_from([17, 1, 0, -1, 1 << 40])))
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 2]))):
        function = model.functions.add(name=draw(st.sampled_from(["F", "G"])), domain="own")
        function.input.extend(draw(st.lists(NAMES, max_size=2)))
        function.output.extend(draw(st.lists(NAMES, max_size=2)))
        function.node.extend(draw(st.lists(nodes(1), max_size=2)))
        function.opset_import.add(domain="", version=17)
    return bytes(model.SerializeToString())


@st.composite
def simple(draw: Draw) -> bytes:
    """A model that adds to or looks up its inputs, sound but for what is asked of their types, shapes and names."""
    inputs = draw(st.lists(values(), min_size=1, max_size=3))
    made = [
        onnx.helper.make_node(draw(st.sampled_from(["Identity", "Shape", "NonZero"])), [each.name], [f"out {index}"])
        for index, each in enumerate(inputs)
    ]
    outputs = [ValueInfoProto(name=node.output[0]) for node in made]
    graph = GraphProto(name="simple", node=made, input=inputs, output=outputs)
    return bytes(
        onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8
        ).SerializeToString()
    )


SOUND = [
    each().SerializeToString()
    for each in (
        networks.heads,
        networks.text,
        networks.recurrent,
        networks.classifier,
        networks.branching,
        networks.finding,
    )
]
FILES = made_up() | simple() | spoiled(SOUND) | st.binary(max_size=100)


def require_sound(found: OnnxFile) -> None:
    """What is said of a file can be worked with: samples are made of it, and its names can be printed and saved."""
    for each in (*found.signature.inputs, *found.signature.outputs):
        assert each.name.isprintable()
        assert np.dtype(each.dtype).kind in "fiub"
        assert all(isinstance(axis, str) or axis >= -1 for axis in each.shape)
    if all(np.prod(each.at(1), dtype=float) < 1e6 for each in found.signature.inputs):
        samples = Seeded(found.signature, found.limits, {}, 2, seed=0)
        assert found.signature.join([samples[0], samples[1]], 2).keys() == {
            each.name for each in found.signature.inputs
        }


def read(content: bytes, shape: Any, constants: Any) -> None:
    found, told = None, ""
    with a_file(content) as path:
        try:
            found = describe(path, shape or {}, constants)
        except (UserError, EngineBroken) as error:
            in_one_sentence(error)
            told = str(error)
    assert "\n" not in told
    if found is not None:
        require_sound(found)


@fuzzed
@given(FILES, SHAPES, VALUES)
def test_an_onnx_file(content: bytes, shape: Any, constants: Any) -> None:
    """All that is read off the file itself; what running it would tell is made up."""
    told = {"problem": "", "outputs": [["y", "float32", ["batch", 3]]], "left_out": [], "unsteady": [], "batched": True}
    told |= {"unbatched": "", "apart": True}
    with mock.patch.object(onnx_file, "run_in_child", return_value=told):
        read(content, shape, constants)


@settings(max_examples=max(3, EXAMPLES // 20))
@given(FILES, SHAPES, VALUES)
def test_an_onnx_file_that_is_run(content: bytes, shape: Any, constants: Any) -> None:
    read(content, shape, constants)
