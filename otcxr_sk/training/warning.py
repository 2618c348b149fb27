"""Warnings that point at the user's code."""

from __future__ import annotations

import sys
import warnings
from types import FrameType

# Through which a call comes from the user's code to a line that warns.
_BETWEEN = {"otcxr_sk", "sklearn", "joblib", "pickle", "contextlib"}


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's code, however many calls of libraries are in between."""
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)
