"""Headers of NPY arrays, read as what they are: NumPy evaluates them as Python, which may warn."""

import re
from typing import IO, NamedTuple

SIGNATURE = b"\x93NUMPY"
# The limit that NumPy itself has.
_LONGEST = 10_000

# The header is the text of a Python dictionary. Python 2 wrote an L behind numbers.
_SHAPE = re.compile(r"""['"]shape['"]\s*:\s*[(\[]([-\d,\sL]*)[)\]]""")
_BY_COLUMNS = re.compile(r"""['"]fortran_order['"]\s*:\s*(True|False)""")
_TYPE = re.compile(r"""['"]descr['"]\s*:\s*(?:['"]([^'"]*)['"]|\[)""")


class Header(NamedTuple):
    """What an array says of itself.

    Attributes
    ----------
    raw : bytes
        All that comes before its values.
    shape : tuple of int
        As claimed: lengths may be negative, or of any size.
    by_columns : bool
        Whether the first index varies fastest.
    type : str
        Of a number, as NumPy writes it; empty for that of a row of a table.
    """

    raw: bytes
    shape: tuple[int, ...]
    by_columns: bool
    type: str


def read_header(file: IO[bytes]) -> Header:
    """Read the header of an NPY array from its start, and leave the file where its values begin.

    Raises
    ------
    ValueError
        It does not describe an array.
    """
    start = file.read(8)
    length = file.read(2 if start[6:7] == b"\x01" else 4)
    text = file.read(min(int.from_bytes(length, "little"), _LONGEST))
    found = [pattern.search(text.decode("latin-1")) for pattern in (_SHAPE, _BY_COLUMNS, _TYPE)]
    if not start.startswith(SIGNATURE) or not all(found):
        raise ValueError
    shape, by_columns, kind = (match[1] or "" for match in found if match)
    lengths = tuple(map(int, re.findall(r"-?\d+", shape)))
    return Header(start + length + text, lengths, by_columns == "True", kind)
