"""Text and numbers, where people see them: in messages, on the terminal and in spreadsheets."""

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

_LONGEST = 80
_NAMED = 5

# With these, a spreadsheet program begins a formula, also if they are wide.
# Some separate cells by other characters than commas.
_FORMULA = re.compile(r"(?:^|(?<=[;\t\r\n]))(?=[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20])")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", re.ASCII)


def quoted(value: Any, longest: int = _LONGEST) -> str:
    """Return a value as a message quotes it: in quotes if it is text, escaped, and cut."""
    # NumPy's text prints its type.
    return repr(_cut(str(value), longest)) if isinstance(value, str) else brief(value, longest)


def brief(value: Any, longest: int = _LONGEST) -> str:
    """Return a value as a message shows it without quotes: escaped, and cut."""
    return plain_text(_cut(str(value), longest)).replace("\n", "\\n")


def few(values: Sequence[Any], named: int = _NAMED, show: Callable[[Any], str] = str) -> str:
    """Return the first of some values as a message names them, and dots for the others."""
    return ", ".join(map(show, values[:named])) + (", ..." if len(values) > named else "")


def listed(values: Iterable[Any], named: int = _NAMED) -> str:
    """Return some values as a message lists them: the first of them, each quoted."""
    values = list(values)
    total = f" ({len(values)} in all)" if len(values) > named else ""
    return few(values, named, quoted) + total


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "2 images"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[:longest] + "..."


def plain_text(text: str) -> str:
    """Return text whose control characters, but for line breaks, are escaped.

    A terminal would obey them.
    """
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() or one == "\n" else repr(one)[1:-1] for one in text)


def cell(value: Any) -> str:
    """Return a value as a cell of a CSV file, with a quote before what would be a formula."""
    text = str(value)
    return text if _NUMBER.fullmatch(text) else _FORMULA.sub("'", text)
