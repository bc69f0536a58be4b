"""An ONNX file's FP32 graph made ready for INT8: constants folded, batch norms in the weights before them.

By ONNX Runtime's own basic optimisations, which leave nothing but standard operators; without them a batch norm stands
between a convolution and its activation, and no builder computes the three in integers.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.version_converter

from trtgate.graphs import OPSET
from trtgate.models.onnx_file import in_form

# Raised whenever what is written changes, so that cached graphs of before are not reused.
FORM = 1
# The oldest opset with a scale for each channel.
OLDEST = 13


class TooOld(Exception):
    """The graph's opset has no Q/DQ by channel, and it cannot be brought to one that has."""


def fold(fp32: Path, path: Path) -> None:
    """Write the folded graph of `fp32`, of our own opset where it can be converted.

    Raises TooOld for a graph of an opset before OLDEST that cannot.
    """
    import onnxruntime

    model = onnx.load(fp32)
    opset = next((each.version for each in model.opset_import if each.domain in {"", "ai.onnx"}), 0)
    if opset < OPSET:
        try:
            model = onnx.version_converter.convert_version(model, OPSET)
        except Exception as error:  # the converter's own, of which there are many
            if opset < OLDEST:
                raise TooOld(f"its opset is {opset}, and it cannot be converted to {OPSET}") from error
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    folded = in_form(onnx.load(path))
    flatten_biases(folded)
    onnx.save(folded, path)


def flatten_biases(model: onnx.ModelProto) -> None:
    """Give the biases of Gemm one axis, in place: to a row of N numbers [1,N] and [N] are the same, and ONNX Runtime's
    quantiser knows the latter only."""
    readers = [name for node in model.graph.node for name in node.input]
    rows = {each.name: each for each in model.graph.initializer if len(each.dims) == 2 and each.dims[0] == 1}
    for node in model.graph.node:
        if (
            node.op_type == "Gemm"
            and len(node.input) > 2
            and node.input[2] in rows
            and readers.count(node.input[2]) == 1
        ):
            del rows[node.input[2]].dims[0]
