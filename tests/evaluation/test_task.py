import numpy as np
import pytest

from otcxr_sk.evaluation import compare, knn_probe, label_efficiency, linear_probe

Y, PATIENTS = np.tile([0, 1], 20), np.arange(40)
PARTS = {"train": np.arange(20), "test": np.arange(20, 40)}


def compare_one(Z, *args, **options):
    return compare({"one": Z}, *args, reference="one", **options)


@pytest.fixture(params=[linear_probe, knn_probe, label_efficiency, compare_one])
def evaluate(request):
    return request.param


def test_a_patient_in_both_parts_is_refused_and_named(evaluate):
    with pytest.raises(ValueError, match="1 patients are both in train and in test, 7 among"):
        evaluate(Y[:, None], Y, np.where(PATIENTS == 25, 7, PATIENTS), **PARTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Z": np.ones((39, 2))}, "has 39 rows, y has 40"),
        ({"Z": np.where(Y == 1, np.nan, 0)[:, None]}, "NaN"),
        ({"y": np.stack([Y, 2 * Y], 1)}, "0, 1 or NaN in every column; column 1 has 0, 2"),
        (
            {"y": (PATIENTS < 20).astype(int)},
            r"y must have the same two or more classes in .* train has \[1\], test has",
        ),
        (
            {"y": np.stack([Y, 0 * Y], 1)},
            r"y\[:, 1\] must have the same two or more classes in .* train has \[0.0\]",
        ),
        ({"y": np.full(40, np.nan)}, r"two or more classes in train and in test; train has \[\]"),
        ({"groups": np.full(40, np.nan)}, "groups contains NaN"),
        ({"groups": PATIENTS[1:]}, r"inconsistent numbers of samples: \[40, 39\]"),
        ({"train": np.arange(40) < 20}, "train must be one or more row numbers, got bool"),
        ({"test": []}, "test must be one or more row numbers"),
        ({"test": [40]}, "test must be row numbers from 0 to 39, got 40 to 40"),
    ],
)
def test_the_message_names_what_is_wrong(evaluate, change, message):
    given = {"Z": Y[:, None], "y": Y, "groups": PATIENTS, **PARTS, **change}
    with pytest.raises(ValueError, match=message):
        evaluate(given.pop("Z"), given.pop("y"), given.pop("groups"), **given)
