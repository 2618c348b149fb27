"""What is decided while a file is read as an image, for whoever wants to know."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_told: ContextVar[dict[str, str | int] | None] = ContextVar("told", default=None)


@contextmanager
def telling() -> Iterator[dict[str, str | int]]:
    """Collect what is decided while the block reads a file.

    Yields
    ------
    told : dict of str to str or int
        Filled by `tell`, up to where a file is refused.
    """
    told: dict[str, str | int] = {}
    before = _told.set(told)
    try:
        yield told
    finally:
        _told.reset(before)


def tell(**decisions: str | int) -> None:
    """Tell, in words, how the file that is being read becomes an image."""
    told = _told.get()
    if told is not None:
        told |= decisions
