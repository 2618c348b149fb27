"""CSV tables, read as columns of text."""

import csv
import gzip
import re
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

_MARKS = (BOM_UTF16_LE, BOM_UTF16_BE)
_DELIMITERS = (",", ";", "\t")
# The first line of some files from Excel, before the header.
_EXCEL = re.compile('"?sep=(.)"?')
_ADVICE = "open it in a spreadsheet program and save it as 'CSV UTF-8'"


class Table(dict[str, list[str]]):
    """Columns of text. A column that the table lacks raises ValueError.

    Parameters
    ----------
    file : Path
        Where the table is from, for messages.
    columns : dict of str to list of str, length n
    lines : sequence of int, length n
        Line of the file that each row ends at, for messages.
    """

    def __init__(self, file: Path, columns: Mapping[str, list[str]], lines: Sequence[int]) -> None:
        super().__init__(columns)
        self.file, self.lines = file, lines

    def __missing__(self, column: str) -> list[str]:
        raise ValueError(f"{self.file} has no column {column!r}; it has {', '.join(self)}")

    def at(self, row: int) -> str:
        """Name a row in a message."""
        return f"{self.file}, row {self.lines[row]}"

    def first(self, rows: Sequence[int]) -> str:
        """Name the first of some rows in a message, and the number of the others."""
        return self.at(rows[0]) + and_more(rows)

    def select(self, rows: Iterable[int]) -> "Table":
        """Return the given rows."""
        rows = list(rows)
        columns = {name: [values[row] for row in rows] for name, values in self.items()}
        return Table(self.file, columns, [self.lines[row] for row in rows])

    def numbers(self, *columns: str) -> NDArray[np.float64]:
        """Return k columns as float64 of shape (n, k), NaN where they are blank."""
        found = np.empty((len(self.lines), len(columns)))
        for i, column in enumerate(columns):
            for row, text in enumerate(self[column]):
                try:
                    found[row, i] = float(text or "nan")
                except ValueError:
                    found[row, i] = np.inf
                if np.isinf(found[row, i]):
                    raise ValueError(f"{self.at(row)}: {column} is {text!r}, not a number")
        return found


def check_missing(missing: str) -> None:
    """Raise ValueError if what to do about missing images is unknown."""
    if missing not in ("raise", "drop"):
        raise ValueError(f"missing must be 'raise' or 'drop', got {missing!r}")


def and_more(rows: Sequence[Any]) -> str:
    """Return the number of rows after the first, for a message that names the first."""
    return f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""


def read_table(file: Path) -> Table:
    """Read a CSV file, or a ``.csv.gz``.

    Values are separated by commas, semicolons or tabs, and text is UTF-8, or UTF-16 with a byte
    order mark, as from spreadsheet programs. Spaces around values are stripped. Unnamed columns at
    the end, which some published tables have, are dropped if they are empty.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file cannot be read, or has no rows, repeated column names, or a row of another
        length than the header.
    """
    open_file: Callable[..., IO[Any]] = gzip.open if file.suffix == ".gz" else open
    try:
        with open_file(file, "rb") as stream:
            encoding = "utf-16" if stream.read(2) in _MARKS else "utf-8-sig"
        with open_file(file, "rt", encoding=encoding, newline="") as text:
            return _read(file, text)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} does not exist") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{file} cannot be read: it is damaged, or not compressed; download it again"
        ) from error
    except OSError as error:
        raise ValueError(
            f"{file} cannot be read; check that it is a file, and that you may read it"
        ) from error


def read_text(file: Path) -> str:
    """Read a text file in UTF-8.

    Raises
    ------
    ValueError
        If it is something else.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{file} is not UTF-8 text; download it again") from error


def _read(file: Path, text: Iterable[str]) -> Table:
    rows = _rows(file, text)
    names = _stripped(next(rows, (0, []))[1], 0)
    if not names or len(set(names)) != len(names):
        raise ValueError(f"{file}: needs a header with unique column names, got {names}")
    columns: dict[str, list[str]] = {name: [] for name in names}
    lines: list[int] = []
    odd: list[tuple[int, int]] = []
    # A table may have millions of values, few of them distinct: keep one copy of each.
    known: dict[str, str] = {}
    for line, row in rows:
        values = _stripped(row, len(names))
        if len(values) != len(names):
            odd.append((line, len(values)))
            continue
        for column, value in zip(columns.values(), values, strict=True):
            column.append(known.setdefault(value, value))
        lines.append(line)
    if odd:
        line, length = odd[0]
        raise ValueError(
            f"{file}, row {line}{and_more(odd)}: {length} values for the {len(names)} columns "
            f"{', '.join(names)}"
        )
    if not lines:
        raise ValueError(f"{file} has no rows")
    return Table(file, columns, lines)


def _rows(file: Path, text: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not empty, and the line of the file that it ends at."""
    # Lines that were read, and those of them that precede the row being read.
    read = done = 0

    def lines() -> Iterator[str]:
        nonlocal read
        for line in text:
            read += 1
            if "\0" in line:
                raise ValueError(f"{file}, row {read}: this is not text; {_ADVICE}")
            yield line

    source = lines()
    try:
        head = next(source, "")
        if told := _EXCEL.fullmatch(head.rstrip("\r\n")):
            head = next(source, "")
        delimiter = told[1] if told else max(_DELIMITERS, key=head.count)
        for row in csv.reader(chain([head], source), strict=True, delimiter=delimiter):
            done = read
            if row:
                yield done, row
    except UnicodeDecodeError as error:
        line = read + 1 + error.object[: error.start].count(b"\n")
        raise ValueError(f"{file}, row {line}: this is not UTF-8 text; {_ADVICE}") from error
    except csv.Error as error:
        raise ValueError(
            f"{file}, row {done + 1}: a quote is not closed, or is followed by text, or a value is "
            f"too long; correct it, or {_ADVICE}"
        ) from error


def _stripped(values: list[str], length: int) -> list[str]:
    """Strip values, and drop empty ones at the end, beyond `length`."""
    values = [value.strip() for value in values]
    while len(values) > length and not values[-1]:
        values.pop()
    return values
