"""Synthetic frontal chest X-rays."""

from otcxr_sk.datasets.phantoms._make import make_chest_phantoms

__all__ = ["make_chest_phantoms"]
