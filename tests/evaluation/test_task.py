import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from otcxr_sk.evaluation import compare, knn_probe, label_efficiency, linear_probe

Y, PATIENTS = np.tile([0, 1], 20), np.arange(40)
PARTS = {"train": np.arange(20), "test": np.arange(20, 40)}
Z, TASK = Y[:, None] + np.random.default_rng(0).normal(size=(40, 3)), {"groups": PATIENTS, **PARTS}


def compare_one(Z, *args, **options):
    return compare({"one": Z}, *args, reference="one", **options)


@pytest.fixture(params=[linear_probe, knn_probe, label_efficiency, compare_one])
def evaluate(request):
    return request.param


def test_a_patient_in_both_parts_is_refused_and_its_rows_are_named(evaluate):
    with pytest.raises(ValueError, match="train and test share 1 patient, such as in rows "):
        evaluate(Y[:, None], Y, np.where(PATIENTS == 25, 7, PATIENTS), **PARTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Z": np.ones((39, 2))}, "has 39 rows, y has 40"),
        ({"Z": np.where(Y == 1, np.nan, 0)[:, None]}, "NaN"),
        ({"y": np.stack([Y, 2 * Y], 1)}, "0, 1 or NaN in every column; row 1 of column 1 is 2"),
        (
            {"y": (PATIENTS < 20).astype(int)},
            r"y must have the same two or more classes in .* train has \[1\], test has",
        ),
        (
            {"y": np.stack([Y, 0 * Y], 1)},
            r"y\[:, 1\] must have the same two or more classes in .* train has \[0.0\]",
        ),
        ({"y": np.full(40, np.nan)}, r"two or more classes in train and in test; train has \[\]"),
        ({"groups": PATIENTS[1:]}, "groups has 39 rows for 40 images"),
        ({"train": np.arange(40) < 20}, "train must be one or more row numbers, got bool"),
        ({"test": []}, "test must be one or more row numbers"),
        ({"y": [0, "virus"] * 20}, "y: row 0 is a number, but row 1 is text"),
        ({"y": [0, np.inf] * 20}, "y: row 1 is infinite"),
        ({"y": iter(Y)}, r"shape \(n,\), or several as columns"),
        ({"Z": Y}, r"must be numbers, with a row of features for each image"),
        ({"test": [40]}, "test must be row numbers from 0 to 39, got 40 to 40"),
    ],
)
def test_the_message_names_what_is_wrong(evaluate, change, message):
    given = {"Z": Y[:, None], "y": Y, "groups": PATIENTS, **PARTS, **change}
    with pytest.raises(ValueError, match=message):
        evaluate(given.pop("Z"), given.pop("y"), given.pop("groups"), **given)


# From classes with None where unknown.
WRAPPINGS = {
    "list": list,
    "NaN": lambda y: [np.nan if value is None else value for value in y],
    "array": lambda y: np.array(y, dtype=object),
    "one column": lambda y: np.array(y, dtype=object)[:, None],
    "Series": lambda y: pd.Series(y, dtype=object),
    "DataFrame": lambda y: pd.DataFrame({"y": y}),
    "category": lambda y: pd.Series(y, dtype="category"),
    "nullable": lambda y: pd.Series(y).convert_dtypes(),
    "masked": lambda y: np.ma.masked_array(
        [y[0] if value is None else value for value in y], mask=[value is None for value in y]
    ),
    "polars": pl.Series,
    "Arrow": pa.array,
}


@pytest.mark.parametrize("wrap", WRAPPINGS)
@pytest.mark.parametrize("classes", [[0, 1], [False, True], [3, 7], ["bacteria", "virus"]])
def test_labels_in_any_wrapping_are_the_same(wrap, classes):
    y = [classes[Y[row]] if row % 7 else None for row in range(-1, 39)]
    expected = linear_probe(Z, [np.nan if v is None else classes.index(v) for v in y], **TASK)
    assert linear_probe(Z, WRAPPINGS[wrap](y), **TASK) == expected


@pytest.mark.parametrize("text", ["", " ", "nan", "<NA>"])
def test_text_for_an_unknown_label_is_no_class(text):
    y = np.where(Y == 1, "virus", "bacteria").astype(object)
    y[::5] = text
    expected = linear_probe(Z, np.where(y == text, np.nan, Y), **TASK)
    assert linear_probe(Z, y, **TASK) == expected


def test_columns_of_labels_in_any_wrapping_are_the_same():
    y = np.stack([Y, np.roll(Y, 1)], 1).astype(float)
    y[::7, 1] = np.nan
    frame = pd.DataFrame(y, columns=["a", "b"])
    expected = linear_probe(Z, y, **TASK)
    for other in (
        frame,
        frame.astype("Int64"),
        frame.astype({"a": bool}),
        frame.astype(object).where(frame.notna(), None),
        pl.DataFrame(frame.convert_dtypes()),
        np.ma.masked_array(np.nan_to_num(y), mask=np.isnan(y)),
        y.tolist(),
    ):
        assert linear_probe(Z, other, **TASK) == expected


def test_features_of_rows_that_are_not_used_may_be_nan(evaluate):
    holes = Z.copy()
    holes[[4, 30]] = np.nan
    with pytest.raises(ValueError, match=r"row 4 \(and 1 more\) has NaN .*: train\[np\.isfinite"):
        evaluate(holes, Y, PATIENTS, **PARTS)
    parts = {name: np.setdiff1d(rows, [4, 30]) for name, rows in PARTS.items()}
    for probe in (linear_probe, knn_probe):
        assert probe(holes, Y, PATIENTS, **parts) == probe(Z, Y, PATIENTS, **parts)
