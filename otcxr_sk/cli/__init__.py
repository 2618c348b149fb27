"""The command line `otcxr-sk`, a thin layer over the library.

Modules load NumPy, torch and the like where a command runs: `--help` and completion must be fast.
"""

from otcxr_sk.cli._main import main

__all__ = ["main"]
