"""What images may be wrapped in, for `as_source` and for the estimators alike."""

import io
import os
from collections import UserList, deque
from pathlib import Path

import dask.array
import h5py
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse
import torch
import zarr
from PIL import Image
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    Subset,
    TensorDataset,
)
from torchvision.datasets import ImageFolder
from wrappings import (
    BOTH,
    EXPECTED,
    IMAGES,
    PILS,
    UNIT,
    ArrayLike,
    Capsule,
    Indexed,
    Items,
    Stream,
    by_estimator,
    encoded,
    h5,
    objects,
)

from otcxr_sk.datasets import find_near_duplicates
from otcxr_sk.images import ArraySource, DatasetSource, ImageReadError, PathSource, as_source

PATHS = {
    "list of text": lambda paths, _: paths,
    "list of bytes": lambda paths, _: encoded(paths),
    "list of Path": lambda paths, _: [Path(path) for path in paths],
    "list of DirEntry": lambda paths, _: sorted(
        os.scandir(os.path.dirname(paths[0])), key=lambda entry: entry.name
    ),
    "bytes and text": lambda paths, _: [*encoded(paths[:2]), *paths[2:]],
    "tuple": lambda paths, _: tuple(paths),
    "deque": lambda paths, _: deque(paths),
    "sequence": lambda paths, _: UserList(paths),
    "values of a dict": lambda paths, _: dict(enumerate(paths)).values(),
    "keys of a dict": lambda paths, _: dict.fromkeys(paths).keys(),
    "array U": lambda paths, _: np.array(paths),
    "array S": lambda paths, _: np.array(encoded(paths)),
    "array of objects": lambda paths, _: np.array(encoded(paths), dtype=object),
    "array of one column": lambda paths, _: np.array(paths)[:, np.newaxis],
    "Series": lambda paths, _: pd.Series(paths, index=range(9, 4, -1)),
    "Series of text": lambda paths, _: pd.Series(paths, dtype="string"),
    "Series of bytes": lambda paths, _: pd.Series(encoded(paths)),
    "Series of Arrow": lambda paths, _: pd.Series(paths, dtype=pd.ArrowDtype(pa.string())),
    "Series of categories": lambda paths, _: pd.Series(paths, dtype="category"),
    "Index": lambda paths, _: pd.Index(paths),
    "DataFrame": lambda paths, _: pd.DataFrame({"path": paths}),
    "polars Series": lambda paths, _: pl.Series(paths),
    "polars categories": lambda paths, _: pl.Series(paths, dtype=pl.Categorical),
    "polars bytes": lambda paths, _: pl.Series(encoded(paths)),
    "polars DataFrame": lambda paths, _: pl.DataFrame({"path": paths}),
    "Arrow": lambda paths, _: pa.array(paths),
    "Arrow chunks": lambda paths, _: pa.chunked_array([paths[:2], paths[2:]]),
    "Arrow bytes": lambda paths, _: pa.array(encoded(paths)),
    "Arrow dictionary": lambda paths, _: pa.array(paths).dictionary_encode(),
    "Arrow table": lambda paths, _: pa.table({"path": paths}),
    "HDF5": h5,
    "HDF5 as text": lambda paths, tmp_path: h5(paths, tmp_path).asstr(),
    "HDF5 S": lambda paths, tmp_path: h5(np.array(encoded(paths)), tmp_path),
    "from the home folder": lambda paths, _: [f"~/{os.path.basename(path)}" for path in paths],
    "folder": lambda paths, _: os.path.dirname(paths[0]),
    "folder as bytes": lambda paths, _: os.fsencode(os.path.dirname(paths[0])),
    "folder in an array": lambda paths, _: np.array(os.path.dirname(paths[0])),
    "home folder": lambda paths, _: "~",
}
if hasattr(np.dtypes, "StringDType"):
    PATHS["array T"] = lambda paths, _: np.array(paths, dtype=np.dtypes.StringDType())


@BOTH
@pytest.mark.parametrize("kind", PATHS)
def test_paths_in_any_wrapping_are_files(kind, open_, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    paths = [str(home / f"{row}.png") for row in range(5)]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    source = open_(PATHS[kind](paths, tmp_path))
    assert isinstance(source, PathSource)
    assert [source.file(row) for row in range(5)] == paths
    np.testing.assert_array_equal(source.read(range(5), 9), EXPECTED)


ARRAYS = {
    "array": IMAGES,
    "list of arrays": list(IMAGES),
    "arrays of several types": [IMAGES[0], UNIT[1], IMAGES[2].astype(np.uint16) * 257, *UNIT[3:]],
    "nested lists": UNIT.tolist(),
    "lists in a tuple": tuple(UNIT.tolist()),
    "column of arrays of rows": pd.Series([objects(list(image)) for image in IMAGES]),
    "polars nested lists": pl.Series(IMAGES.tolist(), dtype=pl.List(pl.List(pl.UInt8))),
    "Arrow nested lists": pa.array(IMAGES.tolist(), pa.list_(pa.list_(pa.uint8()))),
    "numbers as objects": UNIT.astype(object),
    "arrays as objects": objects(list(IMAGES)),
    "masked, nothing hidden": np.ma.MaskedArray(IMAGES),
    "memoryview": memoryview(IMAGES),
    "converts itself": ArrayLike(IMAGES),
    "list that converts itself": [ArrayLike(image) for image in IMAGES],
    "DLPack": Capsule(IMAGES),
    "list of DLPack": [Capsule(image) for image in IMAGES],
    "dask": dask.array.from_array(IMAGES, chunks=(2, -1, -1)),
    "zarr": zarr.array(IMAGES),
    "tensor": torch.from_numpy(IMAGES),
    "tensor with gradient": torch.from_numpy(UNIT).requires_grad_(),
    "tensor turned": torch.from_numpy(IMAGES.transpose(1, 2, 0).copy()).permute(2, 0, 1),
    "tensor with channel": torch.from_numpy(IMAGES)[:, None],
    "list of tensors": [torch.from_numpy(image) for image in IMAGES],
    "PIL images": PILS,
    "deque of PIL images": deque(PILS),
    "PIL images of a dict": dict(enumerate(PILS)).values(),
    "Series of PIL images": pd.Series(PILS, index=[4, 3, 2, 1, 0]),
    "DataFrame of images": pd.DataFrame({"image": list(IMAGES)}),
    "polars objects": pl.Series(PILS, dtype=pl.Object),
    "data set": TensorDataset(torch.from_numpy(IMAGES), torch.arange(5)),
    "subset": Subset(TensorDataset(torch.from_numpy(IMAGES)), range(5)),
    "joined": ConcatDataset([TensorDataset(torch.from_numpy(p)) for p in (IMAGES[:2], IMAGES[2:])]),
    "class with an index": Indexed(),
    "class of torch": Items(lambda image: (torch.from_numpy(image), 1)),
    "list of mappings": [{"image": image, "label": 0} for image in IMAGES],
    "mapping with a list": {"image": list(IMAGES), "label": [0] * 5},
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("kind", ARRAYS)
def test_images_in_any_wrapping_are_the_same_images(kind, open_):
    np.testing.assert_allclose(open_(ARRAYS[kind]).read(range(5), 9), EXPECTED, atol=1e-6)


@BOTH
def test_half_precision_is_read_within_its_precision(open_):
    for dtype, tolerance in ((torch.float16, 5e-4), (torch.bfloat16, 4e-3)):
        source = open_(torch.from_numpy(UNIT).to(dtype))
        np.testing.assert_allclose(source.read(range(5), 9), EXPECTED, atol=tolerance)


@BOTH
def test_a_folder_of_classes_is_a_data_set(open_, tmp_path):
    for row, image in enumerate(IMAGES):
        (tmp_path / "xy"[row > 2]).mkdir(exist_ok=True)
        Image.fromarray(image).save(tmp_path / "xy"[row > 2] / f"{row}.png")
    source = open_(ImageFolder(tmp_path))
    np.testing.assert_allclose(source.read(range(5), 9), EXPECTED, atol=1e-6)


FLAT = UNIT.reshape(5, -1)
ROWS = {
    "array": FLAT,
    "integers": IMAGES.reshape(5, -1),
    "matrix": FLAT.view(np.matrix),
    "tensor": torch.from_numpy(FLAT).requires_grad_(),
    "DataFrame": pd.DataFrame(FLAT),
    "DataFrame of small integers": pd.DataFrame(IMAGES.reshape(5, -1)).astype("UInt8"),
    "polars": pl.DataFrame(FLAT),
    "Arrow": pa.table({str(place): column for place, column in enumerate(FLAT.T)}),
    "lists": FLAT.tolist(),
    "list of arrays": list(FLAT),
    "list of tensors": list(torch.from_numpy(FLAT)),
    "column of lists": pd.Series(FLAT.tolist()),
    "column of arrays": pd.DataFrame({"pixels": list(FLAT)}),
    "polars lists": pl.Series(FLAT.tolist()),
    "Arrow lists": pa.array(FLAT.tolist()),
    "objects": FLAT.astype(object),
}


@pytest.mark.parametrize("kind", ROWS)
def test_rows_of_pixels_in_any_wrapping_are_the_same_images(kind):
    source = by_estimator(ROWS[kind], image_shape=(20, 18))
    np.testing.assert_allclose(source.read(range(5), 9), EXPECTED, atol=1e-6)
    strips = as_source(UNIT.reshape(5, 1, -1)).read(range(5), 9)
    np.testing.assert_allclose(as_source(ROWS[kind]).read(range(5), 9), strips, atol=1e-6)


def test_an_array_is_viewed_and_not_copied():
    tensor = torch.from_numpy(IMAGES)
    for X in (IMAGES, memoryview(IMAGES), tensor, ArrayLike(IMAGES), np.ma.MaskedArray(IMAGES)):
        assert np.shares_memory(as_source(X)._array, IMAGES)


def test_an_array_on_disk_is_read_by_row(tmp_path):
    stored = h5(IMAGES, tmp_path)
    source = as_source(stored)
    assert source._array is stored
    np.testing.assert_array_equal(source.read([3], 9), EXPECTED[[3]])


@BOTH
def test_images_in_a_list_may_differ_in_size(open_):
    images = [IMAGES[0], IMAGES[1, :7], torch.from_numpy(IMAGES[2, :, :9])]
    expected = [as_source(np.asarray(image)[None]).read([0], 6)[0] for image in images]
    np.testing.assert_array_equal(open_(images).read([0, 1, 2], 6), expected)


def test_a_source_is_returned_unchanged():
    source = ArraySource(IMAGES, resize="crop")
    assert as_source(source) is source
    assert by_estimator(source, resize="crop") is source
    with pytest.raises(ValueError, match="given resize='crop', but 'squash' is needed"):
        by_estimator(source)


class Endless(Dataset):
    def __len__(self):
        raise NotImplementedError

    def __getitem__(self, row):
        return IMAGES[0]


def closed():
    with h5py.File("closed", "w", driver="core", backing_store=False) as file:
        return file.create_dataset("images", data=IMAGES)


def empty_in_hdf5():
    file = h5py.File("empty", "w", driver="core", backing_store=False)
    return file.create_dataset("images", data=h5py.Empty("f"))


REFUSED = {
    "nothing": (None, "nothing that images can be read from; pass an array"),
    "number": (3, "a list or column of paths, a folder"),
    "object": (object(), "nothing that images can be read from"),
    "list of objects": ([object()], "nothing that images can be read from"),
    "lazy frame": (pl.LazyFrame({"path": ["a"]}), r"not computed yet; pass X\.collect\(\)"),
    "delayed": (dask.delayed(IMAGES), r"not computed yet; pass X\.compute\(\)"),
    "datetimes": (np.zeros(3, "M8[s]"), "nothing that images can be read from"),
    "text with axes": (np.full((2, 3, 4), "a"), "must be real numbers"),
    "objects with axes": (np.full((2, 3, 4), object()), "must be real numbers"),
    "complex": (IMAGES.astype(complex), "must be real numbers"),
    "set": ({"a.png"}, r"a set has no order.*sorted\(X\)"),
    "frozenset": (frozenset(["a.png"]), "a set has no order"),
    "generator": ((path for path in ["a.png"]), r"from start to end.*list\(X\)"),
    "map": (map(str, ["a.png"]), r"list\(X\)"),
    "glob": (Path().glob("*.png"), r"list\(X\)"),
    "iterator": (iter(["a.png"]), r"list\(X\)"),
    "stream": (Stream(), "from start to end"),
    "loader": (DataLoader(TensorDataset(torch.zeros(2, 3, 3))), r"batches.*X\.dataset"),
    "open file": (io.BytesIO(b"x"), "open file; pass its path"),
    "open files": ([io.BytesIO(b"x")], "open files; pass their paths, or the images in them"),
    "closed file": (closed(), "does not tell its shape; .* open the file again"),
    "no length": (Endless(), "does not tell how many images it has"),
    "nothing in HDF5": (empty_in_hdf5(), "does not tell how many images it has"),
    "nested tensor": (torch.nested.nested_tensor(list(torch.ones(2, 3, 3)), layout=torch.jagged),
                      r"nested tensor; .* X\.unbind\(\)"),
    "tensor without numbers": (torch.empty(2, 3, 3, device="meta"), "has no numbers"),
    "mapping": ({"frontal": IMAGES, "lateral": IMAGES}, r"'frontal', 'lateral'.*X\['frontal'\]"),
    "PIL image": (Image.new("L", (3, 3)), r"one image; pass it in a list, \[X\]"),
    "path": (__file__, r"one path; use \['.*\.py'\]"),
    "path as bytes": (os.fsencode(__file__), r"one path; use \['.*\.py'\]"),
    "path in an array": (np.array(__file__), r"one path; use \['.*\.py'\]"),
    "color image": (np.zeros((40, 50, 3)), r"\(40, 50, 3\) would be 40 images.*X\[np.newaxis\]"),
    "gray image": (np.zeros((40, 50, 1)), r"\(40, 50, 1\) would be 40 images"),
    "transparent image": (np.zeros((40, 50, 4)), r"X\[np.newaxis, \.\.\., :3\]"),
    "masked pixels": (np.ma.masked_equal(IMAGES, 7), r"masked.*X\.filled\(0\)"),
    "sparse tensor": (torch.zeros(3, 4, 4).to_sparse(), r"X\.to_dense\(\)"),
    "unknown length": (
        (lambda array: array[array[:, 0, 0] > 0.5])(dask.array.zeros((4, 3, 3))),
        r"not known yet.*X\.compute\(\)",
    ),
    "lists of other lengths": ([[[1, 2]], [[1, 2, 3]]], "must have the same size"),
    "paths and labels": ([("a.png", 0)], "more than a path each.*'a.png'.*paths alone"),
    "paths under a name": ([{"image": "a.png"}], "more than a path each"),
    "several images": ([{"a": IMAGES[0], "b": IMAGES[0]}], "several images, 'a', 'b'"),
    "no image": ([{"label": 3}], "none of 'label' in the item is an image"),
    "columns": (pd.DataFrame({"p": ["a", "b"], "q": [1, 2]}), "2 columns.*paths alone"),
    "columns of polars": (pl.DataFrame({"p": [None, "b"], "q": [1, 2]}), "2 columns"),
    "columns of Arrow": (pa.table({"p": ["a", "b"], "q": [1, 2]}), "2 columns"),
    "columns that start empty": (pd.DataFrame({"p": [None] * 20 + ["a"], "q": 1}), "2 columns"),
    "content of a file": ([b"\x89PNG\r\n\0"], "row 0 is the content of a file.*BytesIO"),
    "mixed": (["a.png", 3], "row 1 is 3, not the path"),
    "mixed with an object": (["a.png", object()], "row 1 is something else, not the path"),
    "no data set": (Subset, "nothing that images can be read from"),
}  # fmt: skip


@BOTH
@pytest.mark.parametrize("kind", REFUSED)
def test_anything_else_is_refused_with_what_to_do(kind, open_):
    X, words = REFUSED[kind]
    with pytest.raises(ValueError, match=f"(?s){words}") as caught:
        open_(X)
    assert not any(word in str(caught.value) for word in ("eshape", "0x", "<class", "NoneType"))


@BOTH
@pytest.mark.parametrize(
    "empty",
    [[], (), {}, pd.Series([], dtype=object), pd.DataFrame(), pa.array([], pa.string())],
    ids=lambda X: f"{type(X).__module__}.{type(X).__name__}",
)
def test_nothing_is_an_error_that_says_so(open_, empty):
    with pytest.raises(ValueError, match="there are no images"):
        open_(empty)


@pytest.mark.parametrize("empty", [[], (), np.zeros((0, 3)), np.zeros((0, 3, 3))], ids=repr)
def test_nothing_is_compared_with_nothing(empty):
    with pytest.raises(ValueError, match="there are no images"):
        find_near_duplicates(empty)


def test_sparse_rows_are_refused_by_name():
    for X in (scipy.sparse.eye_array(4), scipy.sparse.dok_matrix((4, 4))):
        for fitting in (True, False):
            with pytest.raises(TypeError, match="Sparse data"):
                by_estimator(X, fitting=fitting)


def test_a_data_set_that_cannot_read_its_first_item_is_one():
    class Broken(Indexed):
        def __getitem__(self, row):
            if row == 0:
                raise OSError("the disk is gone")
            return super().__getitem__(row)

    source = as_source(Broken())
    assert isinstance(source, DatasetSource)
    with pytest.raises(ImageReadError, match="row 0: the data set fails to return this item"):
        source.read([0], 9)
    np.testing.assert_allclose(source.read([1], 9), EXPECTED[[1]], atol=1e-6)


def test_a_column_in_a_file_is_read_in_blocks(tmp_path):
    class Column:
        shape, dtype = (9000,), np.dtype(object)

        def __getitem__(self, rows):
            assert rows.stop - rows.start > 1000
            return np.array([f"{row}.png" for row in range(9000)], dtype=object)[rows]

    source = as_source(Column())
    assert len(source) == 9000
    assert source.file(8999) == "8999.png"


def test_a_tilde_is_the_home_folder_of_any_user_that_exists(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    source = as_source(["~/a.png", b"~/b.png", Path("~/c.png"), "~nobody-of-this-name/d.png"])
    assert [source.file(row) for row in range(4)] == [
        *(str(tmp_path / name) for name in ("a.png", "b.png", "c.png")),
        "~nobody-of-this-name/d.png",
    ]
