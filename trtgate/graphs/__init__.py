"""PyTorch -> ONNX FP32 -> FP16 and INT8 with explicit Q/DQ."""

# The oldest opset whose Q/DQ and FP16 operators every supported builder parses (TensorRT 8.6 to 11, ONNX Runtime
# from 1.15, OpenVINO).
OPSET = 19
