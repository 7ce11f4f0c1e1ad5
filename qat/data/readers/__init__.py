"""Readers of data sets, one file each: whatever module here has a ``READER`` is tried by ``qat.data.load``."""
