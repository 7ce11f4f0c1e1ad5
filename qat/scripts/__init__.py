"""The commands: each module has ``add_arguments`` and ``run``, and works as a script and under ``qat``."""
