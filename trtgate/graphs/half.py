"""ONNX FP32 -> FP16: half-precision arithmetic behind float32 inputs and outputs, by ONNX Runtime's own converter."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx

# The smallest number that FP16 holds at all, a subnormal. Smaller weights are lifted to it, not lost.
SMALLEST = 2.0**-24


def convert(fp32: Path, path: Path) -> None:
    """Write the FP16 graph of the FP32 graph `fp32` to `path`: one cast behind the input, one before the output.

    Raises onnx.checker.ValidationError when the result is no valid graph.
    """
    from onnxruntime.transformers.float16 import convert_float_to_float16
    from onnxruntime.transformers.onnx_model import OnnxModel

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the float32 number .* will be truncated")
        converted = OnnxModel(convert_float_to_float16(onnx.load(fp32), min_positive_val=SMALLEST, keep_io_types=True))
    converted.topological_sort()  # it puts its casts at the end
    onnx.checker.check_model(converted.model, full_check=True)
    onnx.save(converted.model, path)
