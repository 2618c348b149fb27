"""What holds for every source of images, whatever it reads from."""

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest

from otcxr_sk.images import (
    ArraySource,
    DatasetSource,
    ImageReadError,
    PathSource,
    Selection,
    Unusable,
    leave_out,
    read_image,
)


def file_source(image, folder):
    np.save(folder / "image.npy", image)
    return PathSource([folder / "image.npy"])


SOURCES = {
    "array": lambda image, folder: ArraySource(image[None]),
    "file": file_source,
    "dataset": lambda image, folder: DatasetSource([image]),
}


@pytest.mark.parametrize("kind", SOURCES)
@pytest.mark.parametrize(
    ("dtype", "stored", "expected"),
    [
        (np.bool_, [0, 1, 1], [0, 1, 1]),
        (np.uint8, [0, 51, 255], [0, 0.2, 1]),
        (np.uint16, [0, 13107, 65535], [0, 0.2, 1]),
        (np.int8, [-127, 0, 127], [-1, 0, 1]),
        (np.int16, [-32768, 0, 32767], [-32768 / 32767, 0, 1]),
        (np.int32, [-70000, 0, 255], [-70000, 0, 255]),
        (np.int64, [-70000, 0, 255], [-70000, 0, 255]),
        (np.float32, [-3.5, 0.25, 1e6], [-3.5, 0.25, 1e6]),
        (np.float64, [-3.5, 0.25, 1e6], [-3.5, 0.25, 1e6]),
    ],
)
def test_narrow_integers_are_scaled_and_other_numbers_unchanged(
    tmp_path, kind, dtype, stored, expected
):
    image = np.array([stored] * 3, dtype=dtype)
    found = SOURCES[kind](image, tmp_path).read([0], 3)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[[expected] * 3]], rtol=1e-7, atol=0)


def test_files_and_an_array_of_the_same_images_give_the_same_rows(images, paths):
    for size in (8, 20, 50):
        np.testing.assert_array_equal(
            PathSource(paths).read(range(7), size), ArraySource(images).read(range(7), size)
        )


def test_real_files_and_their_array_give_the_same_rows(real_data):
    files = sorted((real_data / "raw_samples" / "nih_png").iterdir())[:3]
    stack = np.stack([read_image(file) for file in files])
    np.testing.assert_array_equal(
        PathSource(files).read([0, 1, 2], 64), ArraySource(stack).read([0, 1, 2], 64)
    )


def test_a_row_does_not_depend_on_the_others(images):
    source = ArraySource(images)
    together = source.read(range(7), 11)
    assert together.shape == (7, 1, 11, 11)
    assert together.dtype == np.float32
    for row in (6, 0, 3):
        np.testing.assert_array_equal(source.read([row], 11)[0], together[row])
    np.testing.assert_array_equal(source.read([5, 1, 5], 11), together[[5, 1, 5]])


def test_images_of_the_right_size_are_copied_unchanged():
    floats = np.random.default_rng(0).normal(1e6, 1, (3, 8, 8)).astype(np.float32)
    floats.flags.writeable = False
    rows = ArraySource(floats).read([0, 1, 2], 8)
    np.testing.assert_array_equal(rows[:, 0], floats)
    assert not np.shares_memory(rows, floats)


def test_an_unknown_way_to_resize_is_refused():
    with pytest.raises(ValueError, match="resize must be 'squash', 'pad' or 'crop', got 'fit'"):
        ArraySource(np.zeros((2, 3, 3)), resize="fit")


def test_sources_survive_pickle_and_deepcopy(images, paths):
    for source in (ArraySource(images), PathSource(paths)):
        for twin in (pickle.loads(pickle.dumps(source)), copy.deepcopy(source)):
            np.testing.assert_array_equal(twin.read([4, 2], 10), source.read([4, 2], 10))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_an_error_that_names_the_row(tmp_path, value):
    stack = np.random.default_rng(0).random((5, 4, 4))
    stack[3, 1, 2] = value
    with pytest.raises(ValueError, match=r"^row 3: .*NaN or infinity"):
        ArraySource(stack).read([1, 3, 4], 4)
    np.save(tmp_path / "a.npy", stack[3])
    with pytest.raises(ValueError, match=r"^row 0, file '.*a\.npy': .*NaN or infinity"):
        PathSource([tmp_path / "a.npy"]).read([0], 4)


def test_a_constant_image_is_refused_only_on_request():
    stack = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    stack[2] = 0.3
    source = ArraySource(stack)
    np.testing.assert_allclose(source.read([2], 9), np.full((1, 1, 9, 9), 0.3), atol=1e-6)
    with pytest.raises(ValueError, match=r"^row 2: the image is constant, every pixel is 0\.3;"):
        source.read([1, 2], 9, refuse_constant=True)


def test_a_selection_has_those_rows_under_their_original_names(images, paths):
    rows = np.array([5, 2, 2])
    for source in (ArraySource(images), PathSource(paths)):
        some = Selection(source, rows)
        assert len(some) == 3
        np.testing.assert_array_equal(some.read([2, 0], 9), source.read([2, 5], 9))
        assert some.describe(0) == source.describe(5)
        assert some.file(1) == source.file(2)


def test_a_source_without_problems_is_returned_unchanged(images):
    source = ArraySource(images)
    assert leave_out(source, []) is source


def test_images_that_cannot_be_used_are_left_out(images, paths):
    paths[1].unlink()
    paths[4].write_bytes(b"")
    source = PathSource(paths)
    _, problems = source.read_usable(range(7), 9)
    rest = leave_out(source, problems)
    expected = ArraySource(np.delete(images, [1, 4], axis=0)).read(range(5), 9)
    np.testing.assert_array_equal(rest.read(range(5), 9), expected)
    assert [rest.file(row) for row in range(5)] == [str(paths[row]) for row in (0, 2, 3, 5, 6)]


@pytest.mark.parametrize("n_usable", [0, 1])
def test_fewer_than_two_usable_images_are_an_error_that_lists_the_others(images, n_usable):
    problems = [Unusable(row, None, ImageReadError(f"bad {row}")) for row in range(n_usable, 7)]
    with pytest.raises(ValueError, match=rf"(?s)found {n_usable} sample.*cannot be used:.*bad 6"):
        leave_out(ArraySource(images), problems)


def test_importing_the_package_does_not_load_torch():
    code = "import sys, otcxr_sk.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
