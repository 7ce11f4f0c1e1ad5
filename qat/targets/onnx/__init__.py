"""ONNX, run in ONNX Runtime."""
