"""Readers of data sets, and the order in which training sees them."""

from qat.data.dataset import Dataset, Split, accuracy, load

__all__ = ["Dataset", "Split", "accuracy", "load"]
