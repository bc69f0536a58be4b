"""ONNX FP32 -> FP16: half-precision arithmetic behind float32 inputs and outputs."""

from __future__ import annotations

import warnings
from pathlib import Path

import onnx
from onnxconverter_common.float16 import convert_float_to_float16

# The smallest number that FP16 holds at all, a subnormal. The converter lifts smaller weights to it; its own default
# would lift everything below 1e-7.
SMALLEST = 2.0**-24


def convert(fp32: Path, path: Path) -> None:
    """Write the FP16 graph of the FP32 graph `fp32` to `path`: one cast behind the input, one before the output.

    Raises onnx.checker.ValidationError when the result is no valid graph.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="the float32 number .* will be truncated")
        graph = convert_float_to_float16(onnx.load(fp32), min_positive_val=SMALLEST, keep_io_types=True)
    onnx.checker.check_model(graph, full_check=True)
    onnx.save(graph, path)
