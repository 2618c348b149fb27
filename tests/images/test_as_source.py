import h5py
import numpy as np
import pandas as pd
import pytest

from otcxr_sk.datasets import find_near_duplicates
from otcxr_sk.images import ArraySource, PathSource, as_source


def test_a_source_is_returned_unchanged(images):
    source = ArraySource(images, resize="crop")
    assert as_source(source) is source


@pytest.mark.parametrize("convert", [np.asarray, np.ndarray.tolist, list], ids=lambda f: f.__name__)
def test_arrays_and_lists_of_numbers_are_images(images, convert):
    given = convert(images)
    source = as_source(given)
    assert isinstance(source, ArraySource)
    np.testing.assert_array_equal(source.read(range(7), 9), ArraySource(given).read(range(7), 9))


def test_an_array_on_disk_is_read_by_row(images, tmp_path):
    with h5py.File(tmp_path / "images.h5", "w") as file:
        stored = file.create_dataset("images", data=images)
        source = as_source(stored)
        assert isinstance(source, ArraySource)
        assert source._array is stored
        np.testing.assert_array_equal(source.read([3], 9), ArraySource(images).read([3], 9))


@pytest.mark.parametrize("column", [list, np.array, pd.Series], ids=lambda f: f.__name__)
def test_paths_are_files(images, paths, column):
    for given in (paths, [str(path) for path in paths]):
        source = as_source(column(given))
        assert isinstance(source, PathSource)
        np.testing.assert_array_equal(
            source.read(range(7), 9), ArraySource(images).read(range(7), 9)
        )


@pytest.mark.parametrize(
    ("images", "message"),
    [
        ("a.png", "a sequence of paths"),
        ([1.0, 2.0], r"3 axes, got shape \(2,\)"),
        ([None], "row 0 is None"),
    ],
    ids=repr,
)
def test_anything_else_is_refused(images, message):
    with pytest.raises(ValueError, match=message):
        as_source(images)


@pytest.mark.parametrize("function", [as_source, find_near_duplicates])
@pytest.mark.parametrize("empty", [[], (), np.zeros((0, 3))], ids=["list", "tuple", "array"])
def test_nothing_is_an_error_that_says_so(function, empty):
    with pytest.raises(ValueError, match="there are no images"):
        function(empty)
