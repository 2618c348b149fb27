"""Columns of paths, of which some, or all, are missing."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from wrappings import EXPECTED, IMAGES, by_estimator, encoded

from otcxr_sk.images import PathSource, as_source

START = 12
MISSING = {
    "list": lambda paths: [None] * START + paths,
    "NaN": lambda paths: [np.nan] * START + paths,
    "empty text": lambda paths: [""] * START + paths,
    "empty bytes": lambda paths: [b""] * START + encoded(paths),
    "masked": lambda paths: np.ma.MaskedArray(
        ["x"] * START + paths, mask=[True] * START + [False] * len(paths)
    ),
    "Series": lambda paths: pd.Series([None] * START + paths),
    "Series of text": lambda paths: pd.Series([pd.NA] * START + paths, dtype="string"),
    "DataFrame": lambda paths: pd.DataFrame({"path": [None] * START + paths}),
    "polars": lambda paths: pl.Series([None] * START + paths),
    "polars DataFrame": lambda paths: pl.DataFrame({"path": [None] * START + paths}),
    "Arrow": lambda paths: pa.array([None] * START + paths),
    "array of objects": lambda paths: np.array([None] * START + paths, dtype=object),
}


@pytest.mark.parametrize("kind", MISSING)
@pytest.mark.parametrize("n", [0, 3], ids=["all missing", "some missing"])
def test_a_column_may_start_or_be_empty(kind, n, paths):
    column = MISSING[kind]([str(path) for path in paths[:n]])
    for source in (as_source(column), by_estimator(column, on_error="nan")):
        assert isinstance(source, PathSource)
        _, problems = source.read_usable(range(START + n), 9)
        assert [problem.row for problem in problems] == list(range(START))
        assert "row 0: there is no path" in problems[0].reason
    with pytest.raises(ValueError, match=r"row 0 is .*, not the path of an image; leave it out"):
        by_estimator(column)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([np.nan] * 4),
        pd.Series([pd.NaT] * 4),
        pd.DataFrame({"path": [np.nan] * 4}),
        np.full(4, np.nan),
        np.full((4, 1), np.nan),
        pl.Series([None] * 4),
        pa.nulls(4),
        pa.table({"path": pa.nulls(4)}),
    ],
    ids=lambda X: f"{type(X).__module__}.{type(X).__name__}",
)
def test_a_column_without_any_path_has_the_type_of_numbers(column):
    assert isinstance(by_estimator(column, on_error="nan"), PathSource)
    with pytest.raises(ValueError, match=r"row 0 is .*, not the path"):
        by_estimator(column)


def test_an_image_may_be_missing_in_a_list():
    images, problems = as_source([None, IMAGES[1]]).read_usable([0, 1], 9)
    assert [problem.row for problem in problems] == [0]
    np.testing.assert_array_equal(images[1], EXPECTED[1])
