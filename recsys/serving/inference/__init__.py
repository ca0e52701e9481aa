"""Models in ONNX Runtime, and who may run them."""
