"""Data sets: their readers, the order in which training sees the images, augmentation, folds."""

from qat.data.augment import Augmentation
from qat.data.dataset import Dataset, Split, accuracy, load
from qat.data.folds import Folds, cross_validation

__all__ = ["Augmentation", "Dataset", "Folds", "Split", "accuracy", "cross_validation", "load"]
