"""Chest radiographs with labels and patients: synthetic ones, and those of the user."""

from ._labelled import load_labelled
from ._phantoms import make_chest_phantoms

__all__ = ["load_labelled", "make_chest_phantoms"]
