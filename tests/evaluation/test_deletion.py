"""Regions taken out of images, for an encoder of which the truth is known."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.evaluation import deletion_curves, explain


class Brightness(nn.Module):
    """The mean of each of 4 x 4 regions, and that of its squares."""

    def forward(self, images):
        return nn.functional.avg_pool2d(torch.cat([images, images.square()], 1), 16)


@pytest.fixture(scope="module")
def images():
    """Noise, with two bright spots in every second image."""
    random = np.random.default_rng(0)
    drawn = random.uniform(0.2, 0.4, (12, 4, 16, 4, 16)).astype(np.float32)
    for image in drawn[::2]:
        for spot in random.choice(16, 2, replace=False):
            image[spot // 4, :, spot % 4] += 0.5
    return drawn.reshape(12, 64, 64)


@pytest.fixture(scope="module")
def model(images):
    encoder = OTCXRPretrainer(Brightness(), image_size=64, epochs=0, match_stride=16)
    return make_pipeline(encoder, LogisticRegression(C=10)).fit(images, np.arange(12) % 2 == 0)


def test_without_the_spots_nothing_is_left_of_the_score(model, images):
    curves = deletion_curves(model, images[::2], fill="mean", n_steps=8, random_state=0)
    np.testing.assert_allclose(curves.removed, np.linspace(0, 1, 9))
    # Two of 16 regions are spots, and a step is two regions.
    dark = model.decision_function(images[1::2]).mean()
    assert (curves.most[0] > 0).all()
    assert abs(curves.most[1].mean() - dark) < 0.3 * (curves.most[0].mean() - dark)
    assert curves.random[1].mean() > curves.most[1].mean() + 0.3 * (curves.most[0].mean() - dark)


@pytest.mark.parametrize("fill", ["blur", "mean"])
def test_the_score_falls_first_where_contributions_are_largest(model, images, fill):
    curves = deletion_curves(model, images, fill=fill, random_state=0)
    most, least, random = (curves[name].mean() for name in ("most", "least", "random"))
    assert most < random < least


def test_all_curves_begin_with_the_image_and_end_without_it(model, images):
    curves = deletion_curves(model, images, n_steps=3)
    whole = explain(model, images).score
    for name in ("most", "least", "random"):
        np.testing.assert_allclose(curves[name][0], whole, rtol=1e-6)
        np.testing.assert_allclose(curves[name][-1], curves.most[-1], rtol=1e-6)


def test_a_step_is_at_least_one_region(model, images):
    assert len(deletion_curves(model, images[:1], n_steps=100).removed) == 17


def test_of_several_classes_the_highest_is_followed(model, images):
    several = make_pipeline(model[0], LogisticRegression())
    several[-1].fit(model[0].transform(images), np.arange(12) % 3)
    curves = deletion_curves(several, images, n_steps=1)
    np.testing.assert_allclose(curves.most[0], several.decision_function(images).max(1), rtol=1e-5)


def test_the_same_seed_gives_the_same_curves(model, images):
    one, other = (deletion_curves(model, images[:3], random_state=3) for _ in range(2))
    np.testing.assert_array_equal(one.random, other.random)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"fill": "black"}, "'blur' or 'mean'"), ({"n_steps": 0}, "n_steps")]
)
def test_bad_parameters_are_refused(model, images, wrong, message):
    with pytest.raises(ValueError, match=message):
        deletion_curves(model, images, **wrong)
