"""What X may be, and how everything else is refused."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pydicom
import pytest
import scipy.sparse
import torch
from PIL import Image
from pydicom.data import get_testdata_file

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.estimators._inputs import check_images
from otcxr_sk.images import ArraySource, DatasetSource, ImageReadError, PathSource

GRAY = np.random.default_rng(0).integers(0, 256, (4, 8, 6), dtype=np.uint8)


def check(X, *, image_shape=None, fitting=True, estimator=None):
    estimator = estimator or OTCXRPretrainer()
    return check_images(X, estimator, image_shape=image_shape, fitting=fitting)


def read(X, **options):
    return check(X, **options).read(np.arange(len(X)), 8)


@pytest.mark.parametrize(
    ("X", "options"),
    [
        (GRAY, {}),
        (list(GRAY), {}),
        (tuple(GRAY), {}),
        (GRAY.reshape(4, -1), {"image_shape": (8, 6)}),
        (pd.DataFrame(GRAY.reshape(4, -1)), {"image_shape": [8, 6]}),
        (pl.DataFrame(GRAY.reshape(4, -1)), {"image_shape": (8, 6)}),
        (GRAY[:, None], {}),
        (GRAY[..., None], {}),
        (np.stack([GRAY] * 3, 1), {}),
        (np.stack([GRAY] * 3, 3), {}),
        (list(np.stack([GRAY] * 3, 3)), {}),
    ],
    ids=lambda value: f"{type(value).__name__}{getattr(value, 'shape', '')}",
)
def test_arrays_of_every_layout_are_the_same_images(X, options):
    np.testing.assert_allclose(read(X, **options), read(GRAY), atol=1e-6)


def test_rows_without_image_shape_are_squares_if_they_can_be():
    square = np.arange(18.0).reshape(2, 9)
    np.testing.assert_array_equal(
        check(square).read([0, 1], 3)[:, 0], square.reshape(2, 3, 3).astype(np.float32)
    )
    strip = np.arange(14.0).reshape(2, 7)
    with pytest.warns(UserWarning, match="2 images of 1 x 7 pixels"):
        found = read(strip)
    np.testing.assert_array_equal(found, read(strip.reshape(2, 1, 7)))


@pytest.mark.parametrize(("shape", "size"), [((20, 5), "1 x 5"), ((16, 16), "4 x 4")])
def test_a_table_or_a_single_image_is_warned_of_unless_its_shape_is_given(shape, size):
    X = np.random.default_rng(0).random(shape)
    n = shape[0]
    words = rf"taken as {n} images of {size} pixels.*X\[np.newaxis\].*image_shape=\("
    with pytest.warns(UserWarning, match=words):
        check(X)
    image_shape = tuple(map(int, size.split(" x ")))
    assert len(check(X, image_shape=image_shape)) == n
    assert len(check(X, fitting=False, image_shape=image_shape)) == n


def test_an_ambiguous_channel_axis_is_refused_with_how_to_transpose():
    X = np.random.default_rng(0).random((2, 3, 5, 3))
    words = r"moveaxis\(X, 1, 3\) if it is axis 1, np\.moveaxis\(X, 3, 1\) if it is axis 3"
    with pytest.raises(ValueError, match=words):
        check(X)
    luma = [0.299, 0.587, 0.114]
    first, last = read(np.moveaxis(X, 1, 3)), read(np.moveaxis(X, 3, 1))
    np.testing.assert_allclose(first, read(np.tensordot(X, luma, (1, 0))), rtol=1e-6)
    np.testing.assert_allclose(last, read(X @ luma), rtol=1e-6)


@pytest.mark.parametrize(
    "X",
    [
        ["a.png", "b.dcm"],
        ("a.png", "b.dcm"),
        np.array(["a.png", "b.dcm"]),
        np.array(["a.png", "b.dcm"], dtype=object),
        pd.Series(["a.png", "b.dcm"], index=[7, 3]),
        pd.Series(["a.png", "b.dcm"], dtype=object),
        pd.Series(["a.png", "b.dcm"], dtype="category"),
        pl.Series(["a.png", "b.dcm"]),
        pd.DataFrame({"path": ["a.png", "b.dcm"]}),
        pl.DataFrame({"path": ["a.png", "b.dcm"]}),
        np.array([["a.png"], ["b.dcm"]]),
    ],
    ids=lambda value: f"{type(value).__module__.split('.')[0]}-{type(value).__name__}",
)
def test_strings_in_any_sequence_are_paths(X):
    source = check(X)
    assert isinstance(source, PathSource)
    assert source.describe(1) == "row 1, file 'b.dcm'"


def test_an_array_is_viewed_and_not_copied():
    for X in (GRAY, GRAY.reshape(4, -1), GRAY[:, None]):
        source = check(X, image_shape=(8, 6))
        assert isinstance(source, ArraySource)
        assert np.shares_memory(source._array, X)


class Slices:
    """A minimal array: a shape, a dtype, and slices of rows."""

    def __init__(self, stack):
        self.shape, self.dtype, self.stack = stack.shape, stack.dtype, stack

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self.stack[rows]

    def __len__(self):
        return len(self.stack)


@pytest.mark.parametrize(
    ("X", "options"),
    [
        (GRAY, {}),
        (GRAY.reshape(4, -1), {"image_shape": (8, 6)}),
        (GRAY[:, None], {}),
        (np.stack([GRAY] * 3, 3), {}),
    ],
    ids=lambda value: str(getattr(value, "shape", "")),
)
def test_an_array_outside_memory_is_read_by_slices(X, options):
    np.testing.assert_allclose(read(Slices(X), **options), read(GRAY), atol=1e-6)
    estimator = OTCXRPretrainer()
    check(Slices(X), estimator=estimator, **options)
    assert getattr(estimator, "n_features_in_", None) == (48 if X.ndim == 2 else None)
    with pytest.raises(ValueError, match="1 sample"):
        check(Slices(X[:1]), **options)
    with pytest.raises(ValueError, match="real numbers"):
        check(Slices(X.astype(complex)), **options)
    with pytest.raises(ValueError, match=r"images come as .*got \(2, 1, 1, 2, 2\)"):
        check(Slices(np.zeros((2, 1, 1, 2, 2))))


@pytest.mark.parametrize(
    "X",
    [
        torch.utils.data.TensorDataset(torch.from_numpy(GRAY)),
        [torch.from_numpy(image) for image in GRAY],
        [Image.fromarray(image) for image in GRAY],
        tuple((image, 0) for image in GRAY),
    ],
    ids=["data set", "tensors", "PIL images", "items"],
)
def test_torch_data_sets_and_lists_of_their_items_are_images(X):
    assert isinstance(check(X), DatasetSource)
    np.testing.assert_allclose(read(X), read(GRAY), atol=1e-6)
    with pytest.raises(ValueError, match="1 sample"):
        check(torch.utils.data.Subset(X, [0]) if not isinstance(X, list | tuple) else X[:1])


@pytest.mark.parametrize("row", [torch.ones(9), [1.0] * 9, (1.0,) * 9], ids=type)
def test_rows_of_numbers_are_an_array(row):
    assert isinstance(check([row, row]), ArraySource)


def test_a_folder_stands_for_the_images_in_it(tmp_path):
    for name, image in zip("abcd", GRAY, strict=True):
        Image.fromarray(image).save(tmp_path / f"{name}.png")
    (tmp_path / "labels.csv").write_text("path,label")
    for folder in (tmp_path, str(tmp_path)):
        source = check(folder)
        assert isinstance(source, PathSource)
        assert [Path(source.file(row)).name for row in range(4)] == [
            "a.png", "b.png", "c.png", "d.png",
        ]  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no image in"):
        check(tmp_path / "empty")


def test_two_images_are_needed_to_fit_and_one_to_embed():
    for X in (GRAY[:1], GRAY[:1].reshape(1, -1), ["a.png"]):
        assert len(check(X, fitting=False, image_shape=(8, 6))) == 1
        with pytest.raises(ValueError, match="1 sample"):
            check(X)
    with pytest.raises(ValueError, match="0 sample"):
        check(GRAY[:0], fitting=False)


@pytest.mark.parametrize(
    ("X", "error", "words"),
    [
        ("imagse/", FileNotFoundError, "there is no file and no folder 'imagse/'; check the path"),
        (__file__, ValueError, r"sequence of paths, got one path; use \['.*.py'\]"),
        ([], ValueError, "there are no images"),
        (["a.png", None], ValueError, "row 1 is None, not the path"),
        ([None, "a.png"], ValueError, "row 0 is None, not the path"),
        (["a.png", 3], ValueError, "row 1 is 3, not the path"),
        (pd.Series([np.nan, "a.png"]), ValueError, "row 0 is nan, not the path"),
        (pl.Series(["a.png", None]), ValueError, "row 1 is None, not the path"),
        (
            pd.DataFrame({"p": ["a", "b"], "q": [1, 2]}),
            ValueError,
            "2 columns.*the column of paths alone",
        ),
        (
            pl.DataFrame({"p": ["a", "b"], "q": [1, 2]}),
            ValueError,
            "2 columns.*the column of paths alone",
        ),
        (np.zeros(5), ValueError, "Reshape your data"),
        (
            np.zeros((2, 1, 2, 2, 2)),
            ValueError,
            r"images come as \(n, h, w\).*got \(2, 1, 2, 2, 2\)",
        ),
        (np.zeros((2, 4, 5, 6)), ValueError, "no axis of 1 or 3 channels"),
        (np.zeros((4, 2, 2), complex), ValueError, "images must be real numbers"),
        (np.zeros((4, 4), complex), ValueError, "Complex data not supported"),
        (scipy.sparse.coo_array(np.ones((4, 4))), TypeError, "Sparse data"),
        (scipy.sparse.coo_array(np.ones((4, 1))), TypeError, "Sparse data"),
        (np.full((2, 9), np.nan), ValueError, "NaN"),
    ],
    ids=repr,
)
def test_anything_else_is_refused_with_the_reason(X, error, words):
    with pytest.raises(error, match=f"(?s){words}"):
        check(X)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_images_that_are_not_finite_are_named_by_row(value):
    X = np.stack([GRAY[0] / 255, np.full(GRAY[0].shape, value)])
    encoder = OTCXRPretrainer("test_resnet", image_size=32, epochs=0)
    with pytest.raises(ValueError, match=r"(?s)1 of 2 .*row 1: the image contains NaN or infinity"):
        encoder.fit(X)
    encoder.fit(GRAY)
    for work in (encoder.transform, encoder.score, encoder.match):
        with pytest.raises(ValueError, match="row 1: the image contains NaN or infinity"):
            work(X)


def test_an_image_shape_must_fit_the_rows():
    with pytest.raises(ValueError, match=r"image_shape=\(4, 5\) needs rows of 20 pixels.* has 48"):
        check(GRAY.reshape(4, -1), image_shape=(4, 5))


BROKEN = {
    "missing": "no such file",
    "empty": "empty",
    "truncated": "cut short|damaged",
    "truncated.dcm": "cut short|damaged",
    "text": "not a DICOM, PNG, JPEG, TIFF or NPY file",
    "without pixels": "no pixel data|not a DICOM image",
    "ct": "modality is 'CT'",
    "constant": "constant",
    "folder": "folder",
    "nan": "NaN",
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Paths of two good files and of a broken one of every kind, by kind."""
    folder = tmp_path_factory.mktemp("files")
    noise = np.random.default_rng(0).integers(0, 256, (2, 64, 64), dtype=np.uint8)
    names = {kind: str(folder / f"{kind}.file") for kind in [*BROKEN, "good", "better"]}
    for kind, image in zip(["good", "better"], noise, strict=True):
        Image.fromarray(image).save(names[kind], format="PNG")
    whole = Path(names["good"]).read_bytes()
    Path(names["empty"]).touch()
    Path(names["truncated"]).write_bytes(whole[:2000])
    Path(names["text"]).write_text("no image" * 99)
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    dataset.save_as(names["ct"])
    dataset.Modality = "DX"
    dataset.save_as(names["truncated.dcm"])
    os.truncate(names["truncated.dcm"], os.path.getsize(names["truncated.dcm"]) - 20_000)
    del dataset.PixelData
    dataset.save_as(names["without pixels"])
    Image.new("L", (64, 64), 7).save(names["constant"], format="PNG")
    os.mkdir(names["folder"])
    with open(names["nan"], "wb") as file:
        np.save(file, np.full((4, 4), np.nan))
    return names


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_file_stops_fit_before_training_by_name(files, kind, monkeypatch):
    monkeypatch.setattr("otcxr_sk.training._trainer.Trainer.fit", _never)
    estimator = OTCXRPretrainer("test_resnet", image_size=32)
    with pytest.raises(ImageReadError if kind not in ("constant", "nan") else ValueError) as caught:
        estimator.fit([files["good"], files[kind], files["better"]])
    assert "1 of 3 images cannot be used" in str(caught.value)
    assert files[kind] in str(caught.value)
    assert files["good"] not in str(caught.value)
    assert re.search(BROKEN[kind], str(caught.value))
    assert not [name for name in vars(estimator) if name.endswith("_")]


def _never(*args, **kwargs):
    raise AssertionError("training has started")


def test_all_broken_files_are_named_at_once(files):
    broken = [files["missing"], files["empty"], files["ct"]]
    with pytest.raises(ImageReadError) as caught:
        OTCXRPretrainer("test_resnet", image_size=32).fit([*broken, files["good"]])
    assert "3 of 4 images cannot be used" in str(caught.value)
    assert all(name in str(caught.value) for name in broken)


def test_a_broken_file_is_named_by_transform(files):
    good = [files["good"], files["better"]]
    estimator = OTCXRPretrainer("test_resnet", image_size=32, epochs=1, batch_size=2).fit(good)
    for kind in ("missing", "truncated", "ct", "nan"):
        with pytest.raises(ValueError, match=re.escape(files[kind])):
            estimator.transform([*good, files[kind]])
    # Nothing can be learnt from a constant image, but it has an embedding.
    assert np.isfinite(estimator.transform([files["constant"]])).all()


def test_a_broken_row_is_named():
    X = np.random.default_rng(0).random((5, 32, 32))
    X[3] = 0.5
    with pytest.raises(ValueError, match=r"row 3: the image is constant, every pixel is 0\.5"):
        OTCXRPretrainer("test_resnet", image_size=32).fit(X)
