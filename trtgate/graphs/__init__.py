"""PyTorch -> ONNX FP32 -> FP16 and INT8 with explicit Q/DQ."""

# What the one input and the one output are called of a graph that we export.
INPUT = "input"
OUTPUT = "logits"
