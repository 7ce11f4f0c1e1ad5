"""Readers of data sets, and the order in which training sees them."""

from qat.data.augment import Augmentation
from qat.data.dataset import Dataset, Split, accuracy, load
from qat.data.folds import Folds, cross_validation

__all__ = ["Augmentation", "Dataset", "Folds", "Split", "accuracy", "cross_validation", "load"]
