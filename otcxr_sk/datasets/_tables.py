"""CSV tables, read as columns of text."""

import csv
import gzip
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray


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
                    raise ValueError(
                        f"{self.at(row)}: {column} is {text!r}, not a number"
                    ) from None
        return found


def read_table(file: Path) -> Table:
    """Read a CSV file, or a ``.csv.gz``.

    Spaces around values are stripped. Unnamed columns at the end, which some published tables
    have, are dropped if they are empty.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file cannot be read, or has no rows, repeated column names, or a row of another
        length than the header.
    """
    open_text: Callable[..., TextIO] = gzip.open if file.suffix == ".gz" else open
    lines: list[int] = []
    # A table may have millions of values, few of them distinct: keep one copy of each.
    known: dict[str, str] = {}
    try:
        with open_text(file, "rt", newline="", encoding="utf-8-sig") as stream:
            reader = csv.reader(stream, strict=True)
            names = _stripped(next(reader, []), 0)
            if not names or len(set(names)) != len(names):
                raise ValueError(f"{file}: needs a header with unique column names, got {names}")
            columns: dict[str, list[str]] = {name: [] for name in names}
            for row in filter(None, reader):
                values = _stripped(row, len(names))
                if len(values) != len(names):
                    raise ValueError(
                        f"{file}, row {reader.line_num}: {len(values)} values for the "
                        f"{len(names)} columns {', '.join(names)}"
                    )
                for column, value in zip(columns.values(), values, strict=True):
                    column.append(known.setdefault(value, value))
                lines.append(reader.line_num)
    except FileNotFoundError:
        raise FileNotFoundError(f"{file} does not exist") from None
    except (UnicodeDecodeError, csv.Error, OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{file} cannot be read as a UTF-8 CSV: {error}") from error
    if not lines:
        raise ValueError(f"{file} has no rows")
    return Table(file, columns, lines)


def _stripped(values: list[str], length: int) -> list[str]:
    """Strip values, and drop empty ones at the end, beyond `length`."""
    values = [value.strip() for value in values]
    while len(values) > length and not values[-1]:
        values.pop()
    return values
