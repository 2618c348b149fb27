"""CSV tables, read as columns of text, and the files that they name."""

import csv
import gzip
import os
import re
import zlib
from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from otcxr_sk._files import open_file, read_file
from otcxr_sk._paths import reason
from otcxr_sk._quote import counted, listed, plain_text, quoted

# Of patients: more than a digest has. An array gives every id the space of the longest.
LONGEST_ID = 128

_MOST_COLUMNS = 10_000
_LONGEST_ROW = 2**20
# Published lists have a few megabytes.
_MOST_TEXT = 2**26
# Tables deflate to about a tenth; small ones may be all alike.
_MOST_INFLATED, _PER_BYTE, _SHORT, _PER_VALUE = 2**23, 32, 32, 4
_MARKS = (BOM_UTF16_LE, BOM_UTF16_BE)
_DELIMITERS = (",", ";", "\t")
# The first line of some files from Excel, before the header.
_EXCEL = re.compile(r'"?sep=([^\w\s"]|\t)"?')
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
        raise ValueError(f"{self} has no column {column!r}; it has {listed(self)}")

    def __str__(self) -> str:
        return shown(self.file)

    def at(self, row: int) -> str:
        """Name a row in a message."""
        return f"{self}, row {self.lines[row]}"

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
                    raise ValueError(f"{self.at(row)}: {column} is {quoted(text)}, not a number")
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
    try:
        with open_file(file) as packed:
            stream: Any = packed
            most = None
            if file.suffix == ".gz":
                stream = gzip.GzipFile(fileobj=packed)
                most = _MOST_INFLATED + _PER_BYTE * os.fstat(packed.fileno()).st_size
            encoding = "utf-16" if stream.read(2) in _MARKS else "utf-8-sig"
            stream.seek(0)
            with TextIOWrapper(stream, encoding, newline="") as text:
                return _read(file, text, most)
    except FileNotFoundError:
        raise FileNotFoundError(f"{shown(file)} does not exist") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{shown(file)} cannot be read: it is damaged, or not compressed; download it again"
        ) from error
    except OSError as error:
        raise unreadable(file, error) from error


def read_text(file: Path, errors: str = "strict") -> str:
    """Read a text file in UTF-8.

    Raises
    ------
    ValueError
        If it is something else, or longer than such files are.
    """
    try:
        return read_file(file, _MOST_TEXT).decode("utf-8-sig", errors)
    except OSError as error:
        raise unreadable(file, error) from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{shown(file)} is not UTF-8 text; download it again") from error


def shown(path: Any) -> str:
    """Return a path as a message shows it: names in a downloaded folder may be anything."""
    return plain_text(os.fspath(path)).replace("\n", "\\n")


def below(folder: Path, name: str) -> str | None:
    """Return the path of what a table names below a folder, or None if that is elsewhere."""
    tidy = os.path.normpath(name)
    # On Windows, a path that begins with a separator may not count as absolute.
    if os.path.splitdrive(tidy)[0] or tidy.split(os.sep)[0] in ("", os.pardir):
        return None
    return os.path.join(folder, tidy)


def unreadable(file: Path, error: OSError) -> ValueError:
    """Return the error for a file that the system does not let us read."""
    return ValueError(
        f"{shown(file)} cannot be read ({reason(error)}); check that it is a file, and that you "
        "may read it"
    )


def _read(file: Path, text: TextIOWrapper, most: int | None) -> Table:
    rows = _rows(file, text, most)
    names = _stripped(next(rows, (0, []))[1], 0)
    if not names or len(set(names)) != len(names):
        raise ValueError(
            f"{shown(file)}: needs a header with unique column names, got {listed(names) or 'none'}"
        )
    if len(names) > _MOST_COLUMNS:
        raise ValueError(f"{shown(file)} has more than {_MOST_COLUMNS} columns; remove some")
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
            f"{shown(file)}, row {line}{and_more(odd)}: {counted(length, 'value')} for "
            f"the {counted(len(names), 'column')} {listed(names)}"
        )
    if not lines:
        raise ValueError(f"{shown(file)} has no rows")
    return Table(file, columns, lines)


def _rows(file: Path, text: TextIOWrapper, most: int | None) -> Iterator[tuple[int, list[str]]]:
    """Yield each row that is not empty, and the line of the file that it ends at.

    There are at most `most` characters in all.
    """
    # Lines that were read, and those of them that precede the row being read.
    read = done = 0
    # Characters in all, and of the row being read.
    total = length = 0
    delimiter = ""

    def lines() -> Iterator[str]:
        nonlocal read, total, length
        while line := text.readline(_LONGEST_ROW + 1):
            read += 1
            # The shortest take time, too.
            total += max(len(line), _SHORT) + _PER_VALUE * line.count(delimiter or ",")
            length += len(line)
            if length > _LONGEST_ROW:
                raise ValueError(
                    f"{shown(file)}, row {done + 1}: it has more than {_LONGEST_ROW} characters; "
                    f"correct it, or {_ADVICE}"
                )
            if most is not None and total > most:
                raise ValueError(
                    f"{shown(file)}, row {read}: no table is compressed that much; unpack the file "
                    "first if it is genuine"
                )
            if "\0" in line:
                raise ValueError(f"{shown(file)}, row {read}: this is not text; {_ADVICE}")
            yield line

    source = lines()
    try:
        head = next(source, "")
        if told := _EXCEL.fullmatch(head.rstrip("\r\n")):
            head = next(source, "")
        delimiter = told[1] if told else max(_DELIMITERS, key=head.count)
        for row in csv.reader(chain([head], source), strict=True, delimiter=delimiter):
            done, length = read, 0
            if row:
                yield done, row
    except UnicodeDecodeError as error:
        line = read + 1 + error.object[: error.start].count(b"\n")
        raise ValueError(f"{shown(file)}, row {line}: this is not UTF-8 text; {_ADVICE}") from error
    except csv.Error as error:
        raise ValueError(
            f"{shown(file)}, row {done + 1}: a quote is not closed, or is followed by text, or a "
            f"value is too long; correct it, or {_ADVICE}"
        ) from error


def _stripped(values: list[str], length: int) -> list[str]:
    """Strip values, and drop empty ones at the end, beyond `length`."""
    values = [value.strip() for value in values]
    while len(values) > length and not values[-1]:
        values.pop()
    return values
