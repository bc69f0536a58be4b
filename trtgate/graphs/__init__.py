"""PyTorch to ONNX: the FP32 graph, and the INT8 graphs made from it."""
