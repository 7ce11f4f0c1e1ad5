"""MindSpore as a training backend."""
