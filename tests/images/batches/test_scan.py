from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from otcxr_sk.images import ArraySource, ImageReadError, ImageReadWarning, PathSource, scan


@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 9),
    batch_size=st.integers(1, 10),
    offset=st.sampled_from([0, -30, 1e6]),
)
def test_all_pixels_are_measured_whatever_the_batch_size(seed, n, batch_size, offset):
    stack = np.random.default_rng(seed).normal(offset, 10, (n, 4, 4)).astype(np.float32)
    mean, std, _ = scan(ArraySource(stack), 4, batch_size=batch_size)
    np.testing.assert_allclose(mean, stack.mean(dtype=np.float64), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(std, stack.std(dtype=np.float64), rtol=1e-9)


def test_equal_pixels_have_a_standard_deviation_of_one():
    assert scan(ArraySource(np.full((5, 1, 1), 0.1)), 8)[:2] == (pytest.approx(0.1), 1.0)


def test_a_constant_image_cannot_be_used():
    stack = np.random.default_rng(0).random((4, 5, 6)).astype(np.float32)
    stack[2] = 0.3
    with pytest.raises(ValueError, match=r"1 of 4 images cannot be used:\n  row 2: .*constant"):
        scan(ArraySource(stack), 9)


def test_the_error_names_every_file_that_cannot_be_used(paths):
    paths[1].write_bytes(paths[1].read_bytes()[:200])
    paths[4].unlink()
    Image.new("L", (9, 9), 3).save(paths[5])
    with pytest.raises(ImageReadError) as caught:
        scan(PathSource(paths), 8, batch_size=3)
    lines = str(caught.value).splitlines()
    assert lines[0] == "3 of 7 images cannot be used:"
    for row, line in zip((1, 4, 5), lines[1:], strict=True):
        assert str(paths[row]) in line


def test_the_error_counts_what_it_does_not_name():
    with pytest.raises(ImageReadError) as caught:
        scan(PathSource([f"{row}.png" for row in range(25)]), 8)
    lines = str(caught.value).splitlines()
    assert lines[0] == "25 of 25 images cannot be used:"
    assert len(lines) == 22
    assert lines[-1] == "  and 5 more"


@pytest.mark.parametrize("num_workers", [0, 2])
def test_what_cannot_be_used_is_returned_on_request(paths, images, num_workers):
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
def test_images_held_out_are_checked_but_not_measured(num_workers):
    images = np.random.default_rng(0).random((9, 8, 8))
    held_out = np.array([0, 3, 4, 8])
    measured = scan(ArraySource(np.delete(images, held_out, axis=0)), 8, batch_size=2)
    options = {"batch_size": 2, "num_workers": num_workers, "refuse_unusable": False}
    assert scan(ArraySource(images), 8, held_out=held_out, **options) == measured
    images[3] = np.nan
    found = scan(ArraySource(images), 8, held_out=held_out, **options)
    assert [problem.row for problem in found.unusable] == [3]
    assert found[:2] == measured[:2]


def test_without_usable_images_mean_is_zero_and_std_one():
    found = scan(ArraySource(np.zeros((3, 4, 4))), 8, refuse_unusable=False)
    assert [problem.row for problem in found.unusable] == [0, 1, 2]
    assert found[:2] == (0.0, 1.0)


def test_progress_is_shown_only_on_request(images, capsys):
    scan(ArraySource(images), 8)
    assert capsys.readouterr().err == ""
    scan(ArraySource(images), 8, progress=True)
    assert "7/7" in capsys.readouterr().err


def test_files_that_are_nearly_white_are_told_of(tmp_path):
    paths = [tmp_path / f"{number}.tiff" for number in range(2)]
    values = np.random.default_rng(0).integers(0, 2**12, (16, 16)).astype(np.uint16)
    for path, white in zip(paths, [0, 1], strict=True):
        Image.fromarray(values << 4 * white).save(path, tiffinfo={262: 0})
    with pytest.warns(ImageReadWarning, match=r"1 of 2 .* or white \('.*0\.tiff'\)"):
        scan(PathSource(paths), 16)


def test_files_that_are_nearly_black_are_told_of(tmp_path):
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    bits = [16, 16, 12, 14, 10, 16]
    for path, depth in zip(paths, bits, strict=True):
        values = random.integers(0, 2**depth, (16, 16))
        Image.fromarray(values.astype(np.uint16)).save(path)
    with pytest.warns(ImageReadWarning, match="3 of 6 images are nearly black") as caught:
        scan(PathSource(paths), 16)
    message = str(caught[0].message)
    assert [str(path) in message for path in paths] == [depth < 16 for depth in bits]
    scan(PathSource([path for path, depth in zip(paths, bits, strict=True) if depth == 16]), 16)
    # Other floats have no black and white.
    np.save(tmp_path / "floats.npy", random.normal(size=(16, 16)))
    scan(PathSource([*paths, tmp_path / "floats.npy"]), 16)
    scan(ArraySource(random.random((3, 16, 16)) / 100), 16)
