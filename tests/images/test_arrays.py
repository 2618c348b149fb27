"""Rows of arrays that are not in memory."""

from functools import partial

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk.images import ArraySource, ImageReadError
from otcxr_sk.images._arrays import is_lazy
from otcxr_sk.images._loading import read_ahead

STACK = np.random.default_rng(0).integers(0, 256, (11, 6, 4), dtype=np.uint8)


class Slices:
    """The least that is needed: a shape, a dtype, slices of rows. Counts what is read."""

    def __init__(self, stack):
        self.shape, self.dtype = stack.shape, stack.dtype
        self.stack, self.read = stack, 0

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        part = self.stack[rows]
        self.read += len(part)
        return part

    def __array__(self, *args, **kwargs):
        raise AssertionError("made an array as a whole")


@pytest.fixture(scope="module", params=["memmap", "hdf5", "zarr", "slices"])
def lazily(request, tmp_path_factory):
    """Store a stack where only its rows are read from."""
    folder = tmp_path_factory.mktemp("stacks")

    def store(stack):
        name = folder / f"{request.param}{stack.ndim}"
        if request.param == "memmap":
            np.save(f"{name}.npy", stack)
            return np.load(f"{name}.npy", mmap_mode="r")
        if request.param == "hdf5":
            with h5py.File(name, "w") as file:
                file.create_dataset("images", data=stack, chunks=(2, *stack.shape[1:]))
            return h5py.File(name)["images"]
        if request.param == "zarr":
            array = zarr.create_array(
                str(name), shape=stack.shape, dtype=stack.dtype, chunks=(2, *stack.shape[1:])
            )
            array[:] = stack
            return zarr.open_array(str(name), mode="r")
        return Slices(stack)

    return store


@pytest.fixture(scope="module")
def lazy(lazily):
    return lazily(STACK)


@given(rows=st.lists(st.integers(0, len(STACK) - 1), max_size=20))
def test_any_rows_in_any_order_are_those_in_memory(lazy, rows):
    np.testing.assert_array_equal(ArraySource(lazy).read(rows, 8), ArraySource(STACK).read(rows, 8))


def test_layouts_and_flattened_rows(lazily):
    colour = np.stack([STACK] * 3, axis=1)
    expected = ArraySource(colour, layout="nchw").read(range(11), 8)
    found = ArraySource(lazily(colour), layout="nchw").read(range(11), 8)
    np.testing.assert_array_equal(found, expected)
    rows = lazily(STACK.reshape(11, -1))
    found = ArraySource(rows, image_shape=(6, 4)).read([4, 2], 8)
    np.testing.assert_array_equal(found, ArraySource(STACK).read([4, 2], 8))


def test_workers_read_the_same(lazy):
    read = partial(ArraySource(lazy).read, size=8)
    batches = np.array_split(np.random.default_rng(0).permutation(11), 4)
    expected = [ArraySource(STACK).read(rows, 8) for rows in batches]
    for found, wanted in zip(read_ahead(read, batches, 2), expected, strict=True):
        np.testing.assert_array_equal(found, wanted)


def test_only_the_rows_asked_for_are_read():
    lazy = Slices(STACK)
    source = ArraySource(lazy)
    assert lazy.read == 0
    source.read([9, 3, 3, 4], 8)
    assert lazy.read == 3


def test_a_row_that_cannot_be_read_is_named():
    class Broken(Slices):
        def __getitem__(self, rows):
            if rows.start <= 5 < rows.stop:
                raise OSError("bad chunk")
            return super().__getitem__(rows)

    source = ArraySource(Broken(STACK))
    with pytest.raises(ImageReadError, match=r"row 5: cannot be read \(bad chunk\)"):
        source.read([2, 5, 7], 8)
    images, problems = source.read_usable([4, 5, 6], 8)
    assert [problem.row for problem in problems] == [5]
    assert images[1].max() == 0
    np.testing.assert_array_equal(images[[0, 2]], ArraySource(STACK).read([4, 6], 8))


@pytest.mark.parametrize("value", [[[1, 2], [3, 4]], STACK, np.float32(3), "text", {}], ids=repr)
def test_what_is_in_memory_is_not_lazy(value):
    assert not is_lazy(value)
