"""MINDIR, the model file of MindSpore, run in MindSpore."""
