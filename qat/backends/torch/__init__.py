"""PyTorch as a training backend."""
