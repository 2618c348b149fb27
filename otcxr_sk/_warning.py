"""Warnings that point at the user's code."""

import sys
import warnings
from types import FrameType

# Packages between the user's code and a line that warns.
_BETWEEN = {"otcxr_sk", "sklearn", "joblib", "pickle", "contextlib"}


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's code that led here, past all calls within libraries."""
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)
