"""AIR, the form that Ascend takes from MindSpore."""
