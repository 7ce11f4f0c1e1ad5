"""Exported C files on emulated Cortex-M processors: their codes, and what an inference costs there, counted exactly."""
