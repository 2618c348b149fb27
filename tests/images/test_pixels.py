import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from otcxr_sk.images._pixels import luma, to_float

GRAY = hnp.arrays(np.float32, (3, 4), elements=st.floats(-1e6, 1e6, width=32))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int8, np.int16])
def test_narrow_integers_are_divided_by_their_largest_value(dtype):
    limits = np.iinfo(dtype)
    values = np.array([0, limits.max // 2, limits.max, limits.min], dtype=dtype)
    np.testing.assert_allclose(to_float(values), values.astype(float) / limits.max, rtol=1e-6)
    assert to_float(values)[2] == 1


@pytest.mark.parametrize(
    "dtype", [np.int32, np.uint32, np.int64, np.uint64, np.float16, np.float64]
)
def test_wide_integers_and_floats_are_unchanged(dtype):
    values = np.array([0, 1, 7, 100], dtype=dtype)
    np.testing.assert_array_equal(to_float(values), [0, 1, 7, 100])


def test_booleans_are_black_and_white():
    np.testing.assert_array_equal(to_float(np.array([False, True])), [0, 1])


@given(hnp.arrays(np.uint8, 5))
def test_8_and_16_bits_of_one_image_agree(pixels):
    np.testing.assert_allclose(
        to_float(pixels), to_float(pixels.astype(np.uint16) * 257), atol=1e-6
    )


def test_values_beyond_float32_become_infinite_without_a_warning():
    assert np.isinf(to_float(np.array([1e300])))


@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_the_result_is_new_memory(dtype):
    values = np.zeros(3, dtype=dtype)
    assert not np.shares_memory(to_float(values), values)


@given(GRAY)
def test_the_luma_of_gray_is_exactly_that_gray(gray):
    np.testing.assert_array_equal(luma(np.stack([gray] * 3, axis=-1), axis=-1), gray)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_luma_weights_channels_as_bt601_does(axis):
    primaries = np.moveaxis(np.eye(3, dtype=np.float32)[:, :, None, None], 0, axis)
    expected = np.moveaxis(np.eye(3)[:, :, None, None], 0, axis)
    expected = np.tensordot([0.299, 0.587, 0.114], expected, axes=(0, axis))
    np.testing.assert_allclose(luma(primaries, axis), expected, atol=1e-6)
