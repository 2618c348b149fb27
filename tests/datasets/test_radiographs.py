import copy
import pickle

import joblib
import numpy as np
import pytest
from sklearn.model_selection import GroupKFold

from otcxr_sk.datasets import Radiographs, make_chest_phantoms

FIELDS = ["X", "paths", "images", "labels", "label_names", "groups", "split", "table", "missing"]


@pytest.fixture
def data():
    return Radiographs(
        paths=["a.png", "b.png"],
        labels=np.array([[1.0], [np.nan]]),
        label_names=("nodule",),
        groups=["p", "q"],
        split=["train", "test"],
        table={"age": ["57", ""]},
        missing=["c.png"],
        boxes=None,
    )


def through_joblib(data, folder):
    joblib.dump(data, folder / "data.joblib")
    return joblib.load(folder / "data.joblib")


def test_fields_are_keys_and_attributes(data):
    assert list(data) == [*FIELDS, "boxes"]
    assert set(dir(data)) == set(data)
    assert all(getattr(data, name) is data[name] for name in data)
    with pytest.raises(AttributeError, match="votes"):
        _ = data.votes


def test_attributes_can_be_set(data):
    data.split = None
    assert data["split"] is None


def test_fields_have_the_documented_types(data):
    assert data.groups.tolist() == ["p", "q"]
    assert data.split.tolist() == ["train", "test"]
    assert data.table["age"].dtype == object
    assert data.table["age"].tolist() == ["57", ""]
    assert (data.label_names, data.missing) == (["nodule"], ["c.png"])


@pytest.mark.parametrize(
    "duplicate",
    [
        lambda data, _: pickle.loads(pickle.dumps(data)),
        lambda data, _: copy.deepcopy(data),
        through_joblib,
    ],
)
def test_copies_are_equal(data, duplicate, tmp_path):
    other = duplicate(data, tmp_path)
    assert type(other) is Radiographs
    np.testing.assert_equal(dict(other), dict(data))
    assert other.groups is other["groups"]


def test_without_images_X_is_the_paths_and_takes_the_rows_of_a_splitter(data):
    assert data.X.tolist() == data.paths
    assert data.images is None
    (train, test), _ = GroupKFold(2).split(data.X, groups=data.groups)
    assert sorted([*data.X[train], *data.X[test]]) == data.paths


def test_phantoms_have_the_same_fields_and_X_is_the_images():
    phantoms = make_chest_phantoms(1, image_size=32, random_state=0)
    assert type(phantoms) is Radiographs
    assert set(phantoms) >= set(FIELDS)
    assert phantoms.X is phantoms.images
    assert (phantoms.paths, phantoms.split, phantoms.table, phantoms.missing) == (
        None,
        None,
        {},
        [],
    )
