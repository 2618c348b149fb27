"""JSON from files, bounded before it is parsed."""

import json
from typing import Any

# Each costs Python some 60 bytes, many times what it has in the file.
MOST_VALUES = 2**20
_DEEPEST = 32


def parse(text: bytes | str, most: int = MOST_VALUES) -> dict[str, Any]:
    """Return the object that a JSON text holds.

    Parameters
    ----------
    text : bytes or str
    most : int
        Number of values that it may have.

    Raises
    ------
    ValueError
        It is not JSON, not an object, or has more parts or levels than anything that programs
        write for each other.
    """
    content: Any = text.encode() if isinstance(text, str) else text
    if sum(map(content.count, (b",", b"[", b"{"))) > most:
        raise ValueError
    try:
        content = json.loads(text)
    except RecursionError as error:
        raise ValueError from error
    if not isinstance(content, dict):
        raise ValueError
    level: list[Any] = [content]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
    if level:
        raise ValueError
    return content
