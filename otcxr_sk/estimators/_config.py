"""Checks of the configuration in a folder from anywhere."""

import math
from collections.abc import Mapping
from typing import Any, NoReturn

from otcxr_sk._quote import quoted

_LONGEST_TEXT, _LARGEST_INT = 200, 2**53

# What may be True or False.
_BOOLEANS = {"warm_start", "frozen", "several", "classes", "class_weight"}


def require_keys(name: str, found: Any, keys: Any) -> None:
    """Refuse an object that has other keys."""
    if not isinstance(found, Mapping):
        refuse(name, "must be an object")
    for key in sorted(found.keys() ^ set(keys)):
        refuse(name, f"{'has' if key in found else 'lacks'} {quoted(key)}")


def require_count(name: str, value: Any, least: int = 1, most: int = _LARGEST_INT) -> None:
    """Refuse what is not a whole number in a range."""
    if type(value) is not int or not least <= value <= most:
        refuse(name, f"is {quoted(value)}, not a whole number from {least} to {most}")


def check_plain(value: Any, name: str = "it") -> None:
    """Refuse what passes for a number or a name in Python, but is none that was written."""
    if isinstance(value, dict):
        for key, one in value.items():
            check_plain(key, "key")
            check_plain(one, key)
    elif isinstance(value, list):
        for one in value:
            check_plain(one, name)
    elif isinstance(value, str):
        if len(value) > _LONGEST_TEXT or not value.isprintable():
            refuse(name, f"is {quoted(value)}")
    elif isinstance(value, bool):
        if name not in _BOOLEANS:
            refuse(name, f"is {value}")
    elif isinstance(value, int | float) and not abs(value) < (
        _LARGEST_INT if isinstance(value, int) else math.inf
    ):
        refuse(name, f"is {quoted(value)}")


def refuse(name: str, what: str) -> NoReturn:
    """Raise the error that says what is wrong with a value."""
    raise ValueError(f"{quoted(name)} {what}")
