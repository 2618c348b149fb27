import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.utils import Bunch

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.evaluation import explain, make_probe
from otcxr_sk.plotting import ExplanationDisplay

IMAGES = np.random.default_rng(0).uniform(size=(2, 16, 16))
TWO = Bunch(
    contributions=np.array([[[1.0, -2.0], [0.0, 0.5]], [[0.1, 0.2], [0.3, 0.4]]]),
    intercept=1.0,
    score=np.array([0.5, 2.0]),
    classes=np.array(["well", "$ick"]),
)


def test_colors_are_symmetric_about_zero_and_the_same_for_all_images():
    figure = ExplanationDisplay(TWO, IMAGES).plot().figure_
    for index, values in enumerate(TWO.contributions):
        drawn = figure.axes[2 * index + 1].images[1]
        np.testing.assert_array_equal(drawn.get_array(), values)
        assert drawn.get_clim() == (-2, 2)


def test_what_contributes_nothing_lets_the_x_ray_shine_through():
    drawn = ExplanationDisplay(TWO, IMAGES).plot().figure_.axes[1].images[1]
    np.testing.assert_allclose(drawn.get_alpha(), [[0.4, 0.8], [0, 0.2]])


def test_of_two_classes_the_second_is_named_with_its_score():
    figure = ExplanationDisplay(TWO, IMAGES).plot().figure_
    assert figure.axes[1].get_title() == "$ick: score +0.50"
    figure.draw_without_rendering()


def test_of_several_classes_each_has_a_column():
    several = Bunch(
        contributions=np.zeros((2, 3, 3, 4)), score=np.ones((2, 4)), classes=np.arange(4)
    )
    figure = ExplanationDisplay(several, IMAGES).plot().figure_
    assert [ax.get_title() for ax in figure.axes[:5]] == [
        "",
        *(f"{name}: score +1.00" for name in range(4)),
    ]


def test_from_estimator_explains_a_pipeline():
    X = np.random.default_rng(0).uniform(size=(12, 48, 64))
    encoder = OTCXRPretrainer("test_resnet", image_size=64, epochs=0, random_state=0).fit(X)
    model = make_pipeline(encoder, make_probe().fit(encoder.transform(X), np.arange(12) % 2))
    display = ExplanationDisplay.from_estimator(model, X[:2])
    expected = explain(model, X[:2]).contributions
    np.testing.assert_allclose(display.explanation.contributions, expected, atol=1e-5)
    with pytest.raises(TypeError, match="must be a Pipeline"):
        ExplanationDisplay.from_estimator(LogisticRegression(), X)
