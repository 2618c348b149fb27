"""When the values of images are unlike those of others, and when they only look different."""

import re
import warnings
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk.images import (
    FITTED,
    ArraySource,
    ImageRangeWarning,
    PathSource,
    Spreads,
    list_images,
    scan,
    spread,
)

MEAN, STD = 0.5, 0.25


def radiographs(n, size=32, seed=0):
    """Soft blobs with noise, in [0, 1], of about that mean and standard deviation."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
    at = rng.uniform(-0.5, 0.5, (2, n, 1, 1))
    bright = rng.uniform(0.7, 1, (n, 1, 1))
    blobs = bright * np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / 0.7)
    return (blobs + rng.normal(0, 0.02, blobs.shape)).clip(0, 1)


def told(images, mean=MEAN, std=STD):
    """What is said of images; "" for nothing."""
    images = np.asarray(images)
    seen = Spreads(len(images))
    seen.note(slice(None), spread(torch.from_numpy(images[:, None])))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        seen.warn(ArraySource(images), mean, std, FITTED)
    assert {warning.category for warning in caught} <= {ImageRangeWarning}
    return "".join(str(warning.message) for warning in caught)


OTHER_UNITS = {
    "bytes as floats": lambda x: 255 * x,
    "12 bits": lambda x: 4095 * x,
    "Hounsfield units": lambda x: 2000 * x - 1000,
    "shifted": lambda x: x + 10,
    "divided twice": lambda x: x / 255,
}
SEVERAL_ONLY = {
    "12 bits in 16": lambda x: x / 16,
    "Hounsfield units in 16 bits": lambda x: (2000 * x - 1000) / 32767,
}


@pytest.mark.parametrize("n", [1, 4, 16])
@pytest.mark.parametrize("unit", OTHER_UNITS)
def test_other_units_are_told_of(unit, n):
    images = OTHER_UNITS[unit](radiographs(n))
    message = told(images)
    assert message.startswith(f"{n} of {n} images have values unlike {FITTED}, such as row 0:")
    found = float(re.search("mean of their pixels is ([-.0-9]+) ", message)[1])
    assert found == pytest.approx(images.mean(), rel=0.1, abs=0.01)
    assert "mean_ is 0.5 and std_ 0.25" in message


@pytest.mark.parametrize("unit", SEVERAL_ONLY)
def test_a_narrow_range_is_told_of_where_several_images_have_it(unit):
    assert told(SEVERAL_ONLY[unit](radiographs(8)))
    # One could be dark.
    assert not told(SEVERAL_ONLY[unit](radiographs(7)))


@given(
    n=st.integers(1, 40),
    unit=st.sampled_from([1, 255, 65535]),
    seed=st.integers(0, 99),
)
def test_fitted_on_any_unit_the_others_are_told_of(n, unit, seed):
    images = radiographs(n, seed=seed)
    for other in (1, 255, 65535):
        assert bool(told(other * images, unit * MEAN, unit * STD)) == (unit != other)


LOOKS = {
    "dark": lambda x: 0.15 * x,
    "bright": lambda x: 0.85 + 0.15 * x,
    "two grays": lambda x: (x > 0.5).astype(float),
    "inverted": lambda x: 1 - x,
    "standardized": lambda x: (x - MEAN) / STD,
    "marker on black": lambda x: np.where(np.arange(x[0].size).reshape(x[0].shape) < 9, 1.0, 0 * x),
}


@pytest.mark.parametrize("n", [1, 3, 16])
@pytest.mark.parametrize("look", LOOKS)
def test_images_that_only_look_different_are_not(look, n):
    assert not told(LOOKS[look](radiographs(n)))


NEARLY_CONSTANT = {
    "gray": lambda x: 0.5 + 1e-3 * x,
    "noise of one gray level": lambda x: np.round(x) / 255 + 0.3,
    "white": lambda x: 1 - 1e-4 * x,
    "constant": lambda x: 0 * x,
    "constant at another place": lambda x: 0 * x + 100,
}


@pytest.mark.parametrize("kind", NEARLY_CONSTANT)
def test_some_images_may_be_nearly_constant(kind):
    images = radiographs(100)
    flat = NEARLY_CONSTANT[kind](images)
    assert not told(flat[:1])
    assert not told(np.concatenate([flat[:9], images[9:]]))


def test_empty_images_are_passed_over():
    images = radiographs(20)
    images[5:] = 0
    assert not told(images)
    assert told(255 * images).startswith("5 of 20 images")


@pytest.mark.parametrize("unit", [255, 1 / 255])
def test_a_mixture_is_told_of_and_a_stray_image_named(unit):
    images = radiographs(40)
    images[20:] *= unit
    assert told(images, images.mean(), images.std())
    stray = radiographs(400)
    stray[37] *= 255
    message = told(stray)
    assert message.startswith("1 of 400 images have values unlike")
    assert "such as row 37:" in message


def test_a_few_pixels_stand_for_an_image():
    images = radiographs(5, size=224)
    found = spread(torch.from_numpy(images[:, None]))
    np.testing.assert_allclose(found[0], images.mean((1, 2)), atol=0.02)
    np.testing.assert_allclose(found[1], images.std((1, 2)), atol=0.02)
    strips = torch.arange(6.0).reshape(2, 1, 1, 3)
    np.testing.assert_allclose(spread(strips), [[1, 4], [np.sqrt(2 / 3)] * 2])


def test_no_real_image_is_unlike_another_collection(real_data):
    names = ["kermany_dev", "nih89", "nih_adults", "effusion_adults"]
    sources = [ArraySource(np.load(real_data / f"{name}.npz")["images"][:100]) for name in names]
    raw = real_data / "raw_samples"
    sources += [
        PathSource(list_images(raw / folder))
        for folder in ("covid_mixed", "kermany_jpeg", "nih_png", "dicom", "dicom_derived")
    ]
    found = []
    for source in sources:
        seen = Spreads(len(source))
        scanned = scan(source, 32, note=seen.note)
        found.append((source, seen, scanned))
    for (source, seen, _), (*_, fitted) in product(found, found):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            seen.warn(source, fitted.mean, fitted.std, FITTED)
            for row in range(len(source)):
                one = Spreads(1)
                one.values[:] = seen.values[:, [row]]
                one.warn(source, fitted.mean, fitted.std, FITTED)
