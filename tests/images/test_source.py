import copy
import pickle
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from otcxr_sk.images import ArraySource, ImageReadError, PathSource, read_image, scan
from otcxr_sk.images._source import Selection


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 20, 30), dtype=np.uint8)


@pytest.fixture
def paths(images, tmp_path):
    files = [tmp_path / f"{row}.png" for row in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    return files


def test_every_layout_of_the_same_pictures_reads_the_same(images):
    expected = ArraySource(images).read(range(7), 16)
    colour = np.stack([images] * 3, axis=-1)
    for source in (
        ArraySource(images.reshape(7, -1), image_shape=(20, 30)),
        ArraySource(images[:, None], layout="nchw"),
        ArraySource(images[..., None], layout="nhwc"),
        ArraySource(colour, layout="nhwc"),
        ArraySource(np.moveaxis(colour, -1, 1), layout="nchw"),
        ArraySource(np.asfortranarray(images)),
        ArraySource(images / np.float32(255)),
        ArraySource(images.tolist()),
    ):
        scale = 1 / 255 if source._array.dtype == np.int64 else 1
        np.testing.assert_allclose(source.read(range(7), 16) * scale, expected, atol=1e-6)


def test_files_and_an_array_of_the_same_pictures_give_the_same_rows(images, paths):
    for size in (8, 20, 50):
        np.testing.assert_array_equal(
            PathSource(paths).read(range(7), size), ArraySource(images).read(range(7), size)
        )


def test_a_row_does_not_depend_on_its_company(images):
    source = ArraySource(images)
    together = source.read(range(7), 11)
    assert together.shape == (7, 1, 11, 11)
    assert together.dtype == np.float32
    for row in (6, 0, 3):
        np.testing.assert_array_equal(source.read([row], 11)[0], together[row])
    np.testing.assert_array_equal(source.read([5, 1, 5], 11), together[[5, 1, 5]])


def test_resizing_is_torchvisions(images):
    tensor = torch.from_numpy(images).float() / 255
    expected = tv.resize(tensor[:, None], [9, 9], antialias=True)
    np.testing.assert_allclose(ArraySource(images).read(range(7), 9), expected, atol=1e-6)


def test_the_right_size_is_left_alone_in_new_memory():
    floats = np.random.default_rng(0).normal(1e6, 1, (3, 8, 8)).astype(np.float32)
    floats.flags.writeable = False
    rows = ArraySource(floats).read([0, 1, 2], 8)
    np.testing.assert_array_equal(rows[:, 0], floats)
    assert not np.shares_memory(rows, floats)


@pytest.mark.parametrize("flat", [False, True])
def test_a_memmap_is_never_copied_whole(tmp_path, flat):
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
    np.testing.assert_array_equal(rows[:, 0, 0, 0], [7, 399])


@pytest.mark.parametrize(
    "column",
    [
        list, tuple, np.array,
        lambda names: np.array(names, dtype=object),
        lambda names: [Path(name) for name in names],
        pd.Series,
        lambda names: pd.Series(names, index=range(90, 97), dtype="string"),
        pl.Series,
        pytest.param(
            lambda names: np.array(names, dtype=np.dtypes.StringDType()),
            marks=pytest.mark.skipif(not hasattr(np.dtypes, "StringDType"), reason="NumPy 1"),
        ),
    ],
)  # fmt: skip
def test_any_sequence_of_paths_will_do(paths, column):
    source = PathSource(column([str(path) for path in paths]))
    assert len(source) == 7
    assert source.describe(3) == f"row 3, file {str(paths[3])!r}"
    np.testing.assert_array_equal(source.read([3], 20)[0, 0].shape, (20, 20))


def test_paths_need_no_python_strings(tmp_path):
    odd = tmp_path / "Röntgen 肺\udcff.png"
    Image.new("L", (4, 4), 255).save(odd)
    source = PathSource([odd, "b.png"])
    assert {type(value) for value in vars(source).values()} <= {str, bytes, np.ndarray, type(None)}
    assert source.read([0], 2).min() == 1


def test_a_part_keeps_names_and_numbers(tmp_path):
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


def test_sizes_of_files_may_differ(tmp_path):
    for name, size in {"a.png": (9, 5), "b.png": (30, 40)}.items():
        Image.new("L", size, 51).save(tmp_path / name)
    rows = PathSource([tmp_path / "a.png", tmp_path / "b.png"]).read([0, 1], 6)
    np.testing.assert_allclose(rows, np.full((2, 1, 6, 6), 0.2), atol=1e-6)


def test_sources_survive_pickle_and_deepcopy(images, paths):
    for source in (ArraySource(images), PathSource(paths)):
        for twin in (pickle.loads(pickle.dumps(source)), copy.deepcopy(source)):
            np.testing.assert_array_equal(twin.read([4, 2], 10), source.read([4, 2], 10))


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_name_their_row(tmp_path, value):
    stack = np.random.default_rng(0).random((5, 4, 4))
    stack[3, 1, 2] = value
    with pytest.raises(ValueError, match=r"^row 3: .*NaN or infinity"):
        ArraySource(stack).read([1, 3, 4], 4)
    np.save(tmp_path / "a.npy", stack[3])
    with pytest.raises(ValueError, match=r"^row 0, file '.*a\.npy': .*NaN or infinity"):
        PathSource([tmp_path / "a.npy"]).read([0], 4)


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
def test_arrays_that_are_no_images_are_refused(array, options, message):
    with pytest.raises(ValueError, match=message):
        ArraySource(array, **options)


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ("a.png", "a sequence of paths"),
        (Path("a.png"), "a sequence of paths"),
        ([], "no paths"),
        (["a.png", None], "row 1 is None"),
        (pd.Series(["a.png", np.nan]), "row 1 is nan"),
        (np.array([["a.png"]]), "one dimension"),
    ],
)
def test_what_is_no_sequence_of_paths_is_refused(paths, message):
    with pytest.raises(ValueError, match=message):
        PathSource(paths)


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 9),
    batch_size=st.integers(1, 10),
    offset=st.sampled_from([0, -30, 1e6]),
)
def test_scan_measures_all_pixels_whatever_the_batch(seed, n, batch_size, offset):
    stack = np.random.default_rng(seed).normal(offset, 10, (n, 4, 4)).astype(np.float32)
    mean, std, _ = scan(ArraySource(stack), 4, batch_size=batch_size)
    np.testing.assert_allclose(mean, stack.mean(dtype=np.float64), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(std, stack.std(dtype=np.float64), rtol=1e-9)


def test_single_pixels_may_be_alike():
    assert scan(ArraySource(np.full((5, 1, 1), 0.1)), 8)[:2] == (pytest.approx(0.1), 1.0)


def test_a_constant_image_is_refused_in_training_alone():
    stack = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    stack[2] = 0.3
    source = ArraySource(stack)
    assert np.ptp(source.read([2], 9)) < 1e-6
    with pytest.raises(ValueError, match=r"1 of 4 images cannot be used:\n  row 2: .*constant"):
        scan(source, 9)


def test_scan_names_every_unusable_file(paths):
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    paths[4].unlink()
    Image.new("L", (9, 9), 3).save(paths[5])
    with pytest.raises(ImageReadError) as caught:
        scan(PathSource(paths), 8, batch_size=3)
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 of 7 images cannot be used:"
    for row, line in zip((1, 4, 5), lines[1:], strict=True):
        assert str(paths[row]) in line


def test_scan_counts_what_it_does_not_name():
    with pytest.raises(ImageReadError) as caught:
        scan(PathSource([f"{row}.png" for row in range(25)]), 8)
    lines = str(caught.value).splitlines()
    assert lines[0] == "25 of 25 images cannot be used:"
    assert len(lines) == 22
    assert lines[-1] == "  and 5 more"


def test_progress_is_shown_on_request_only(images, capsys):
    scan(ArraySource(images), 8)
    assert capsys.readouterr().err == ""
    scan(ArraySource(images), 8, progress=True)
    assert "7/7" in capsys.readouterr().err


def test_importing_loads_no_torch():
    code = "import sys, otcxr_sk.images; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_real_files_and_their_array_give_the_same_rows(real_data):
    files = sorted((real_data / "raw_samples" / "nih_png").iterdir())[:3]
    stack = np.stack([read_image(file) for file in files])
    np.testing.assert_array_equal(
        PathSource(files).read([0, 1, 2], 64), ArraySource(stack).read([0, 1, 2], 64)
    )


def test_a_source_of_many_paths_is_small():
    paths = [f"/a/folder/of/a/hospital/patient{row}/image.dcm" for row in range(100_000)]
    # One that is long must not make all as long.
    paths[7] = "/" + 4000 * "x"
    tracemalloc.start()
    try:
        source = PathSource(paths)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2**20
    assert [source.file(row) for row in (0, 7, 99_999)] == [paths[0], paths[7], paths[-1]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_scan_can_leave_out_what_cannot_be_used(paths, images, num_workers):
    paths[1].unlink()
    np.save(paths[4], np.full((3, 3), np.nan))
    Path(f"{paths[4]}.npy").rename(paths[4])
    found = scan(PathSource(paths), 8, batch_size=2, num_workers=num_workers, refuse_unusable=False)
    assert [(problem.row, problem.file) for problem in found.unusable] == [
        (row, str(paths[row])) for row in (1, 4)
    ]
    assert isinstance(found.unusable[0].error, ImageReadError)
    usable = scan(ArraySource(np.delete(images, [1, 4], axis=0)), 8)
    assert found[:2] == pytest.approx(usable[:2], rel=1e-9)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_images_held_out_are_looked_at_but_not_measured(num_workers):
    images = np.random.default_rng(0).random((9, 8, 8))
    held_out = np.array([0, 3, 4, 8])
    measured = scan(ArraySource(np.delete(images, held_out, axis=0)), 8, batch_size=2)
    options = {"batch_size": 2, "num_workers": num_workers, "refuse_unusable": False}
    assert scan(ArraySource(images), 8, held_out=held_out, **options) == measured
    images[3] = np.nan
    found = scan(ArraySource(images), 8, held_out=held_out, **options)
    assert [problem.row for problem in found.unusable] == [3]
    assert found[:2] == measured[:2]


def test_scan_of_nothing_usable_says_so():
    found = scan(ArraySource(np.zeros((3, 4, 4))), 8, refuse_unusable=False)
    assert [problem.row for problem in found.unusable] == [0, 1, 2]
    assert found[:2] == (0.0, 1.0)


def test_a_selection_is_those_rows_by_their_own_names(images, paths):
    rows = np.array([5, 2, 2])
    for source in (ArraySource(images), PathSource(paths)):
        some = Selection(source, rows)
        assert len(some) == 3
        np.testing.assert_array_equal(some.read([2, 0], 9), source.read([2, 5], 9))
        assert some.describe(0) == source.describe(5)
        assert some.file(1) == source.file(2)
