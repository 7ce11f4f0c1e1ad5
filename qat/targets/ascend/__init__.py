"""The two formats for Ascend's int8 unit, run in an emulation of it."""
