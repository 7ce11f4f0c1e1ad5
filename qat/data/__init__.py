"""Data sets: their readers, the order in which training sees the images, augmentation, folds."""

from qat.data.augment import Augmentation
from qat.data.dataset import Dataset, Split, accuracy
from qat.data.folds import Folds, cross_validation
from qat.data.foreign import dataset_of
from qat.data.loading import load
from qat.data.preparation import Preparation

__all__ = [
    "Augmentation",
    "Dataset",
    "Folds",
    "Preparation",
    "Split",
    "accuracy",
    "cross_validation",
    "dataset_of",
    "load",
]
