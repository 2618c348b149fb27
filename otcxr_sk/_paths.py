"""Paths that users give."""

import os
from typing import Any


def as_path(path: Any) -> str:
    """Return a path given as text or object as text, with ``~`` as the home folder.

    Raises
    ------
    TypeError
        It is neither.
    ValueError
        It starts with ``~``, and the home folder is not known.
    """
    if not isinstance(path, str | bytes | os.PathLike):
        raise TypeError("expected a path: text, bytes, or an object such as pathlib.Path")
    # The system takes strings of NumPy for bytes.
    given = str(os.fsdecode(path))
    if "\0" in given:
        raise ValueError(f"{given!r} is no path: it has a character NUL")
    whole = os.path.expanduser(given)
    # Python leaves the sign as it is where no home folder is known, as in some containers.
    if whole == given and given.replace(os.sep, "/").split("/")[0] == "~":
        raise ValueError(
            f"{given!r}: the home folder is not known here; write the path without '~', or set the "
            "environment variable HOME"
        )
    return whole


def reason(error: OSError) -> str:
    """Return why something failed, in the words of the system alone."""
    return error.strerror or "the system gives no reason"
