"""Chest X-rays with labels and patients: published, synthetic, and your own."""

from otcxr_sk.datasets import published
from otcxr_sk.datasets._duplicates import NearDuplicates, find_near_duplicates
from otcxr_sk.datasets._labelled import load_images, load_labelled
from otcxr_sk.datasets._leakage import LeakageError, check_leakage
from otcxr_sk.datasets._radiographs import Radiographs
from otcxr_sk.datasets.phantoms import make_chest_phantoms
from otcxr_sk.datasets.published import *  # noqa: F403

__all__ = [
    "LeakageError",
    "NearDuplicates",
    "Radiographs",
    "check_leakage",
    "find_near_duplicates",
    "load_images",
    "load_labelled",
    "make_chest_phantoms",
]
__all__ += published.__all__
