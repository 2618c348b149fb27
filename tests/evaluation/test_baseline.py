import numpy as np
import pytest
from PIL import Image

from otcxr_sk.evaluation import pixel_features
from otcxr_sk.images import ArraySource, UnusableImageWarning


def images():
    return np.random.default_rng(0).integers(256, size=(3, 32, 48), dtype=np.uint8)


def test_features_are_the_pixels_of_the_resized_images():
    features = pixel_features(images(), size=8)
    expected = ArraySource(images()).read([0, 1, 2], 8)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features, expected.reshape(3, 64))


def test_an_image_of_the_size_asked_for_is_only_flattened():
    square = images()[:, :16, :16]
    np.testing.assert_allclose(pixel_features(square), square.reshape(3, 256) / 255, rtol=1e-6)


def test_arrays_files_and_sources_give_the_same_features(tmp_path):
    paths = [tmp_path / f"{row}.png" for row in range(3)]
    for path, image in zip(paths, images(), strict=True):
        Image.fromarray(image).save(path)
    expected = pixel_features(images())
    for X in (paths, ArraySource(images())):
        np.testing.assert_array_equal(pixel_features(X), expected)


def test_an_image_that_cannot_be_read_costs_its_own_row(tmp_path):
    paths = [tmp_path / f"{row}.png" for row in range(3)]
    for path, image in zip(paths, images(), strict=True):
        Image.fromarray(image).save(path)
    paths[1].write_bytes(b"\x89PNG broken")
    with pytest.warns(UnusableImageWarning, match=r"1 of 3 images cannot be used.*\n.*1\.png"):
        features = pixel_features(paths)
    assert np.isnan(features[1]).all()
    np.testing.assert_array_equal(features[[0, 2]], pixel_features(images())[[0, 2]])
    with pytest.raises(ValueError, match="1 of 1 images cannot be used"):
        pixel_features(paths[1:2])


def test_features_have_at_least_one_pixel():
    assert pixel_features(images(), size=1).shape == (3, 1)
    with pytest.raises(ValueError, match="size == 0, must be >= 1"):
        pixel_features(images(), size=0)
