"""PyTorch -> ONNX FP32 -> FP16 and INT8 with explicit Q/DQ."""

# Every graph's one input, float32[batch,3,crop,crop], and one output, float32[batch,classes], by name.
INPUT = "input"
OUTPUT = "logits"
