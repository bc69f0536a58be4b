"""The one list of the operators that carry weights: what INT8 is about, and what an audit looks at."""

from __future__ import annotations

import onnx

OPERATORS = ("Conv", "Gemm", "MatMul")


def weighted_nodes(graph: onnx.ModelProto, operators: tuple[str, ...] = OPERATORS) -> list[onnx.NodeProto]:
    """The nodes whose second input is weights, in the graph's order: not the products of two activations in attention.

    Weights are what is computed of constants alone, through Q/DQ and casts too.
    """
    constants = {value.name for value in graph.graph.initializer}
    found = []
    for node in graph.graph.node:
        inputs = [name for name in node.input if name]
        if node.op_type == "Constant" or (inputs and constants.issuperset(inputs)):
            constants.update(node.output)
        elif node.op_type in operators and len(node.input) > 1 and node.input[1] in constants:
            found.append(node)
    return found
