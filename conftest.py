"""Hides GPUs from all tests but those that are marked with ``gpu``."""

import os


def pytest_configure(config):
    """Hide them before torch looks, here and in the processes that tests and xdist start."""
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
