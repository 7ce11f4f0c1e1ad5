"""Keras 3 over TensorFlow as a training backend."""
