"""Tables of results: CSV files, and lines of Markdown."""

import csv

import numpy as np


def read_csv(file):
    """Read the rows of a CSV file, each a dict of strings."""
    with open(file, newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        raise ValueError(f"{file} has no rows")
    return rows


def write_csv(rows, file, digits=None):
    """Write dicts to a CSV file, floats rounded to so many significant digits.

    The columns are those of the longest row; what another row lacks is NaN.
    """
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, max(rows, key=len), restval=np.nan)
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {
                    name: float(f"{value:.{digits}g}")
                    if digits and isinstance(value, float)
                    else value
                    for name, value in row.items()
                }
            )


def markdown_row(cells):
    """Return a row of a Markdown table."""
    return f"| {' | '.join(cells)} |"


def markdown_head(cells):
    """Return the two lines that a Markdown table begins with."""
    return [markdown_row(cells), "|" + "---|" * len(cells)]
