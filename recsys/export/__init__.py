"""Trained models to ONNX graphs, with proof of parity."""
