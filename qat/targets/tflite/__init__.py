"""TensorFlow Lite, run in LiteRT."""
