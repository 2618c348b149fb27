"""Warnings that point at the user's code, and the filters that decide what becomes of them."""

import os
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

# Packages between the user's code and a line that warns.
_BETWEEN = {"otcxr_sk", "sklearn", "joblib", "pickle", "contextlib"}

_filtering = threading.RLock()

Doubts = list[tuple[str, type[Warning]]]

# Of each thread.
_held = threading.local()


def warn_user(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the line of the user's code that led here, past all calls within libraries."""
    doubts: Doubts | None = getattr(_held, "doubts", None)
    if doubts is not None:
        doubts.append((message, category))
        return
    frame: FrameType | None = sys._getframe()
    level = 1
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in _BETWEEN:
        frame = frame.f_back
        level += 1
    warnings.warn(message, category, stacklevel=level)


@contextmanager
def held_warnings() -> Iterator[Doubts]:
    """Keep what `warn_user` is told in this thread, for another one that knows the user's line."""
    doubts: Doubts = []
    _held.doubts = doubts
    try:
        yield doubts
    finally:
        del _held.doubts


@contextmanager
def keeping_filters() -> Iterator[None]:
    """Let one thread at a time do what changes Python's filters of warnings and sets them back.

    All threads share the filters. Two that do so at once would leave them changed for good.
    scikit-learn does it wherever it checks an array or labels.
    """
    with _filtering:
        yield


def _forget_other_threads() -> None:
    # In a forked process, a thread that held the lock does not exist.
    global _filtering
    _filtering = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_other_threads)
