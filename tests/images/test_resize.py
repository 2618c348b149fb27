import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms.v2 import functional as tv

from otcxr_sk.images._pixels import RESIZES, to_squares

SIDES = st.integers(2, 40)


def stack_of(height, width, seed=0, n=3):
    return np.random.default_rng(seed).random((n, height, width), dtype=np.float32)


def torchvisions(stack, size):
    return tv.resize(torch.from_numpy(stack)[:, None], list(size), antialias=True)[:, 0].numpy()


def box(squares):
    """Return rows and columns of the bounding box of all that is not black."""
    rows, columns = np.nonzero(squares.max(axis=0) > 0)
    return rows.min(), rows.max() + 1, columns.min(), columns.max() + 1


@given(side=SIDES, size=SIDES)
def test_square_images_are_resized_the_same_by_all(side, size):
    stack = stack_of(side, side)
    for how in RESIZES:
        np.testing.assert_allclose(
            to_squares(stack, size, how), torchvisions(stack, (size, size)), atol=1e-6
        )


@given(height=SIDES, width=SIDES, size=SIDES)
def test_squashing_is_resizing_to_a_square(height, width, size):
    stack = stack_of(height, width)
    np.testing.assert_allclose(
        to_squares(stack, size, "squash"), torchvisions(stack, (size, size)), atol=1e-6
    )


@given(height=SIDES, width=SIDES, size=SIDES)
def test_cropping_is_resizing_the_central_square(height, width, size):
    stack = stack_of(height, width)
    side, excess = min(height, width), abs(height - width)
    found = to_squares(stack, size, "crop")
    # With an odd excess, the center lies between two pixels, and either square will do.
    starts = [excess // 2, (excess + 1) // 2]
    central = [
        stack[:, start : start + side] if height > width else stack[..., start : start + side]
        for start in starts
    ]
    assert any(
        np.allclose(found, torchvisions(square, (size, size)), atol=1e-6) for square in central
    )


@given(height=SIDES, width=SIDES, size=st.integers(8, 40))
def test_padding_centers_the_whole_image_in_its_proportions(height, width, size):
    # Only the padding is black.
    stack = 0.5 + stack_of(height, width) / 2
    stack[:, 0, 0] = 0.25
    squares = to_squares(stack, size, "pad") - 0.25
    longest = max(height, width)
    shape = [max(1, round(side * size / longest)) for side in (height, width)]
    top, bottom, left, right = box(squares)
    assert abs((bottom - top) - shape[0]) <= 1
    assert abs((right - left) - shape[1]) <= 1
    assert abs(top - (size - bottom)) <= 2
    assert abs(left - (size - right)) <= 2
    inside = torchvisions(stack, shape) - 0.25
    top, left = (size - shape[0]) // 2, (size - shape[1]) // 2
    np.testing.assert_allclose(
        squares[:, top : top + shape[0], left : left + shape[1]], inside, atol=1e-6
    )


@given(scale=st.floats(0.1, 1000), offset=st.floats(-1000, 1000), how=st.sampled_from(RESIZES))
def test_the_range_of_numbers_does_not_matter(scale, offset, how):
    stack = stack_of(9, 14)
    moved = to_squares((scale * stack + offset).astype(np.float32), 10, how)
    expected = scale * to_squares(stack, 10, how) + offset
    np.testing.assert_allclose(moved, expected, rtol=1e-5, atol=1e-5 * (scale + abs(offset)))


@pytest.mark.parametrize("how", RESIZES)
def test_a_disk_stays_round_unless_squashed(how):
    y, x = np.mgrid[-1:1:100j, -1.6:1.6:160j]
    disk = (y**2 + x**2 < 0.5).astype(np.float32)[None]
    top, bottom, left, right = box(to_squares(disk, 64, how) > 0.5)
    ratio = (bottom - top) / (right - left)
    assert ratio == pytest.approx(1.6 if how == "squash" else 1, rel=0.1)


@pytest.mark.parametrize("how", RESIZES)
def test_a_row_of_a_table_is_kept_whole(how):
    row = np.arange(6, dtype=np.float32).reshape(1, 1, 6)
    np.testing.assert_array_equal(to_squares(row, 6, how)[0, 3], row[0, 0])
