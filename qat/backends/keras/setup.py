"""What has to be settled before TensorFlow is imported; whoever needs it imports it from here."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # or each process tells of every device that is not there

import keras
import tensorflow as tf

__all__ = ["keras", "tf"]
