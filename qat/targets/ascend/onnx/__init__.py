"""The deploy form of ONNX for Ascend."""
