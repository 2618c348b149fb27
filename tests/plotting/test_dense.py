import numpy as np
import pytest

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.plotting import DenseDisplay

RANDOM = np.random.default_rng(0)
IMAGES = RANDOM.uniform(size=(3, 16, 16))


def colors(dense, images=IMAGES):
    figure = DenseDisplay(images, dense).plot().figure_
    half = len(figure.axes) // 2
    return np.stack([ax.images[1].get_array() for ax in figure.axes[half:]])


def test_equal_vectors_have_equal_colors_in_all_images():
    kinds = RANDOM.normal(size=(4, 6))
    which = RANDOM.integers(0, 4, size=(3, 5, 5))
    found = colors(kinds[which])
    for kind in range(4):
        assert len(np.unique(found[which == kind].round(6), axis=0)) == 1
    assert len(np.unique(found.reshape(-1, 3).round(6), axis=0)) == 4


def test_colors_fill_their_range():
    found = colors(RANDOM.normal(size=(3, 6, 6, 8)))
    assert found.min() == 0
    assert found.max() == 1


@pytest.mark.parametrize("dense", [np.ones((3, 4, 4, 8)), np.ones((3, 1, 1, 2))])
def test_a_map_that_does_not_vary_is_gray(dense):
    np.testing.assert_array_equal(colors(dense), 0.5)


def test_one_image_of_one_region_is_drawn():
    assert colors(np.ones((1, 1, 1, 5)), IMAGES[:1]).shape == (1, 1, 1, 3)


def test_from_estimator_draws_the_dense_maps_of_its_images():
    X = RANDOM.uniform(size=(6, 48, 64))
    encoder = OTCXRPretrainer("test_resnet", image_size=64, epochs=0, resize="crop").fit(X)
    display = DenseDisplay.from_estimator(encoder, X[:2])
    np.testing.assert_allclose(display.dense, encoder.transform_dense(X[:2]), atol=1e-4)
    assert display.images.shape == (2, 64, 64)
