"""Imports TensorFlow with the environment variables that it needs to find set; other modules import it from here."""

from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # else each process prints a warning for every missing device

import keras
import tensorflow as tf

__all__ = ["keras", "tf"]
