"""An ONNX file's FP32 graph made ready for INT8: constants folded, batch norms in the weights before them.

By ONNX Runtime's own basic optimisations, which leave nothing but standard operators; without them a batch norm stands
between a convolution and its activation, and no builder computes the three in integers.
"""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx.version_converter

from trtgate.graphs import OPSET
from trtgate.onnx_file import in_form

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
    onnx.save(in_form(onnx.load(path)), path)
