"""What is run: torchvision's classifiers and some others with their weights, or an ONNX file of the user's own."""
