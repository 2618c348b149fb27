import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from otcxr_sk.images import ImageReadError, PathSource


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ("a.png", "a sequence of paths"),
        (Path("a.png"), r"a sequence of paths, got one; use \['a\.png'\]"),
        (5, "a sequence of paths, got 5"),
        (None, "a sequence of paths, got None"),
        ([], "no paths"),
        (["a.png", None], "row 1 is None"),
        (pd.Series(["a.png", np.nan]), "row 1 is nan"),
        (np.array([["a.png"]]), "one-dimensional"),
    ],
)
def test_anything_else_is_refused(paths, message):
    with pytest.raises((ValueError, TypeError), match=message):
        PathSource(paths)


def test_images_of_different_sizes_are_resized_one_by_one(tmp_path):
    for name, size in {"a.png": (9, 5), "b.png": (30, 40)}.items():
        Image.new("L", size, 51).save(tmp_path / name)
    rows = PathSource([tmp_path / "a.png", tmp_path / "b.png"]).read([0, 1], 6)
    np.testing.assert_allclose(rows, np.full((2, 1, 6, 6), 0.2), atol=1e-6)


def test_paths_are_not_stored_as_python_strings(tmp_path):
    odd = tmp_path / "Röntgen 肺\udcff.png"
    Image.new("L", (4, 4), 255).save(odd)
    source = PathSource([odd, "b.png"])
    assert {type(value) for value in vars(source).values()} <= {str, bytes, np.ndarray, type(None)}
    np.testing.assert_array_equal(source.read([0], 2), np.ones((1, 1, 2, 2)))


def test_a_source_of_many_paths_is_small():
    paths = [f"/a/folder/of/a/hospital/patient{row}/image.dcm" for row in range(100_000)]
    # A single long path must not make all of them long.
    paths[7] = "/" + 4000 * "x"
    tracemalloc.start()
    try:
        source = PathSource(paths)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
    assert [source.file(row) for row in (0, 7, 99_999)] == [paths[0], paths[7], paths[-1]]


def test_a_part_keeps_names_and_indices(tmp_path):
    paths = ["0.png", None, str(tmp_path / "x" / ".." / "2.png"), "3.png", "4.png"]
    for row in (2, 3):
        Image.new("L", (4, 4), row).save(tmp_path / f"{row}.png")
    (tmp_path / "x").mkdir()
    source = PathSource(paths, allow_missing=True)
    part = source.part(1, 5, str(tmp_path)).part(1, 4, "/elsewhere")
    assert len(part) == 3
    assert [part.file(row) for row in (1, 2, 3)] == [None, paths[2], str(tmp_path / "3.png")]
    np.testing.assert_allclose(part.read([3, 2], 1).ravel() * 255, [3, 2])
    with pytest.raises(ImageReadError, match="row 1: there is no path"):
        part.read([1], 4)
