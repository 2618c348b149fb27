"""Read sources ahead, in batches and by other processes; check and measure all of their images."""

from otcxr_sk.images.batches._loading import behind, read_batches, read_usable_batches
from otcxr_sk.images.batches._ranges import FITTED, ImageRangeWarning, Spreads, spread
from otcxr_sk.images.batches._scan import Scan, scan

__all__ = [
    "FITTED",
    "ImageRangeWarning",
    "Scan",
    "Spreads",
    "behind",
    "read_batches",
    "read_usable_batches",
    "scan",
    "spread",
]
