import tracemalloc
from functools import partial

import h5py
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk.images import ArraySource, ImageReadError
from otcxr_sk.images.batches._loading import read_ahead
from otcxr_sk.images.sources._arrays import is_lazy

STACK = np.random.default_rng(0).integers(0, 256, (11, 6, 4), dtype=np.uint8)


class Slices:
    """The minimum that is needed: a shape, a dtype, slices of rows. Counts the rows read."""

    def __init__(self, stack):
        self.shape, self.dtype = stack.shape, stack.dtype
        self.stack, self.read = stack, 0

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        part = self.stack[rows]
        self.read += len(part)
        return part

    def __array__(self, *args, **kwargs):
        raise AssertionError("loaded as a whole")


def test_the_same_images_in_every_layout_read_the_same(images):
    expected = ArraySource(images).read(range(7), 16)
    color = np.stack([images] * 3, axis=-1)
    for source in (
        ArraySource(images.reshape(7, -1), image_shape=(20, 30)),
        ArraySource(images[:, None], layout="nchw"),
        ArraySource(images[..., None], layout="nhwc"),
        ArraySource(color, layout="nhwc"),
        ArraySource(np.moveaxis(color, -1, 1), layout="nchw"),
        ArraySource(np.asfortranarray(images)),
        ArraySource(images / np.float32(255)),
        ArraySource((images / 255).tolist()),
    ):
        np.testing.assert_allclose(source.read(range(7), 16), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((2, 3, 4, 5)), {}, "3 axes"),
        (np.zeros((2, 3, 4)), {"layout": "nchw"}, "4 axes"),
        (np.zeros((2, 5, 4, 5)), {"layout": "nchw"}, "1 or 3 channels"),
        (np.zeros((2, 5, 4, 5)), {"layout": "chw"}, "layout must be"),
        (np.zeros((2, 12)), {"image_shape": (3, 5)}, "rows of 15 values"),
        (np.zeros((2, 3, 4)), {"image_shape": (3, 4)}, "rows of 12 values"),
        (np.zeros((0, 3, 4)), {}, "no images"),
        (np.zeros((2, 3, 4), dtype=complex), {}, "real numbers"),
        (np.full((2, 3, 4), "a"), {}, "real numbers"),
    ],
)
def test_arrays_that_are_not_images_are_refused(array, options, message):
    with pytest.raises(ValueError, match=message):
        ArraySource(array, **options)


@pytest.mark.parametrize("flat", [False, True])
def test_a_memory_map_is_never_copied_as_a_whole(tmp_path, flat):
    shape = (400, 64 * 64) if flat else (400, 64, 64)
    stack = np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.float32, shape)
    stack[:] = np.arange(400, dtype=np.float32).reshape(400, *[1] * (len(shape) - 1))
    tracemalloc.start()
    try:
        source = ArraySource(stack, image_shape=(64, 64) if flat else None)
        rows = source.read([7, 399], 64)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert np.shares_memory(source._array, stack)
    assert peak < stack.nbytes / 20
    expected = np.full((2, 1, 64, 64), np.reshape([7, 399], (2, 1, 1, 1)))
    np.testing.assert_array_equal(rows, expected)


@pytest.fixture(scope="module", params=["memmap", "hdf5", "zarr", "slices"])
def lazily(request, tmp_path_factory):
    """Store a stack outside memory, so that its rows are read on demand."""
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
def test_any_rows_in_any_order_are_the_same_as_in_memory(lazy, rows):
    np.testing.assert_array_equal(ArraySource(lazy).read(rows, 8), ArraySource(STACK).read(rows, 8))


def test_other_layouts_and_flattened_rows_are_the_same_as_in_memory(lazily):
    color = np.stack([STACK] * 3, axis=1)
    expected = ArraySource(color, layout="nchw").read(range(11), 8)
    found = ArraySource(lazily(color), layout="nchw").read(range(11), 8)
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


def test_only_the_requested_rows_are_read():
    lazy = Slices(STACK)
    source = ArraySource(lazy)
    assert lazy.read == 0
    source.read([9, 3, 3, 4], 8)
    assert lazy.read == 3


def test_an_error_names_the_rows_that_cannot_be_read():
    class Broken(Slices):
        def __getitem__(self, rows):
            if rows.start <= 5 < rows.stop:
                raise OSError("bad chunk")
            return super().__getitem__(rows)

    source = ArraySource(Broken(STACK))
    with pytest.raises(ImageReadError, match="row 5: the array cannot be read there"):
        source.read([2, 5, 7], 8)
    with pytest.raises(ImageReadError, match="rows 4 to 6: the array cannot be read there"):
        source.read([4, 5, 6], 8)
    images, problems = source.read_usable([4, 5, 6], 8)
    assert [problem.row for problem in problems] == [5]
    assert not images[1].any()
    np.testing.assert_array_equal(images[[0, 2]], ArraySource(STACK).read([4, 6], 8))


@pytest.mark.parametrize("value", [[[1, 2], [3, 4]], STACK, np.float32(3), "text", {}], ids=repr)
def test_what_is_in_memory_is_not_lazy(value):
    assert not is_lazy(value)
