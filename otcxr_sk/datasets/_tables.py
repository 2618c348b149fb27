"""Tables of text, as published beside the pictures."""

from __future__ import annotations

import csv
import gzip
import zlib
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

Table = dict[str, list[str]]


def read_table(file: Path) -> tuple[Table, list[int]]:
    """Columns of text, and the line of each row in the file; ``.gz`` is decompressed.

    Blanks around a value are dropped, and so are nameless columns at the end, of which published
    tables have some, unless they hold values.
    """
    names: list[str] = []
    columns: list[list[str]] = []
    lines: list[int] = []
    # One copy of each value: a table may have millions, few of them different.
    known: dict[str, str] = {}
    try:
        with _open(file) as stream:
            reader = csv.reader(stream, strict=True)
            names = _trimmed([name.strip() for name in next(reader, [])], 0)
            if not names or len(set(names)) != len(names):
                raise ValueError(f"{file}: needs a header of different column names, got {names}")
            columns = [[] for _ in names]
            for row in reader:
                if not row:
                    continue
                values = _trimmed([value.strip() for value in row], len(names))
                if len(values) != len(names):
                    raise ValueError(
                        f"{file}, row {reader.line_num}: {len(values)} values for the "
                        f"{len(names)} columns {', '.join(names)}"
                    )
                for column, value in zip(columns, values, strict=True):
                    column.append(known.setdefault(value, value))
                lines.append(reader.line_num)
    except (UnicodeDecodeError, csv.Error, OSError, EOFError, zlib.error) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"{file} cannot be read as a UTF-8 CSV: {error}") from error
    if not lines:
        raise ValueError(f"{file} has no rows")
    return dict(zip(names, columns, strict=True)), lines


def need(table: Table, column: str, file: Path, why: str = "") -> list[str]:
    """Return a column, or raise ValueError if the table lacks it."""
    if column not in table:
        raise ValueError(
            f"{file} has no column {column!r}; it has {', '.join(table)}" + (why and f" ({why})")
        )
    return table[column]


def numbers(table: Table, column: str, file: Path, lines: list[int]) -> NDArray[np.float64]:
    """Return a column as float64, NaN where it is blank."""
    values = np.full(len(lines), np.nan)
    for row, (text, line) in enumerate(zip(need(table, column, file), lines, strict=True)):
        try:
            values[row] = float(text or "nan")
        except ValueError:
            raise ValueError(f"{file}, row {line}: {column} is {text!r}, not a number") from None
    return values


def _open(file: Path) -> TextIO:
    if file.suffix == ".gz":
        return gzip.open(file, "rt", newline="", encoding="utf-8-sig")
    return open(file, newline="", encoding="utf-8-sig")


def _trimmed(values: list[str], length: int) -> list[str]:
    """Drop what is empty at the end, beyond `length`."""
    while len(values) > length and not values[-1]:
        values.pop()
    return values
