import numpy as np
import pytest
from sklearn.utils import Bunch

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.plotting import TransportDisplay

IDENTITY = np.array([[1.0, 0, 0], [0, 1.0, 0]])
RIGHT_HALF = np.array([[0.5, 0, 0.5], [0, 1.0, 0]])


def matching(plan, affine=(IDENTITY, IDENTITY)):
    """Two images with 2 x 2 tokens."""
    views = np.random.default_rng(0).normal(size=(1, 2, 8, 8))
    return Bunch(views=views, affine=np.array(affine)[None], plan=plan[None], grid=(2, 2))


def heat(display):
    return np.asarray(display.figure_.axes[1].images[1].get_array())


def arrows(display):
    """Start, end and width of each arrow."""
    patches = display.figure_.axes[1].patches
    return [(*map(tuple, patch._posA_posB), patch.get_linewidth()) for patch in patches]


def test_the_heat_map_is_the_share_of_the_regions_mass():
    plan = np.array([[1, 0, 0, 3], [2, 0, 0, 0], [0, 1, 1, 0], [0, 0, 0, 2]]) / 10
    display = TransportDisplay(matching(plan), region=0).plot()
    np.testing.assert_allclose(heat(display), [[0.25, 0], [0, 0.75]])
    (box,) = display.figure_.axes[0].patches
    assert (*box.get_xy(), box.get_width(), box.get_height()) == (0, 0, 0.5, 0.5)


@pytest.mark.parametrize(
    ("box", "expected"),
    [
        ((0, 0, 1, 1), [[0.25, 0.25], [0.25, 0.25]]),
        ((0, 0.5, 1, 1), [[0, 0], [0.5, 0.5]]),
        ((0.25, 0, 1, 0.1), [[1 / 3, 2 / 3], [0, 0]]),
    ],
)
def test_a_token_gives_the_part_of_its_mass_that_is_in_the_box(box, expected):
    np.testing.assert_allclose(
        heat(TransportDisplay(matching(np.eye(4) / 4), box).plot()), expected
    )


def test_a_box_around_a_token_is_that_token():
    plan = np.random.default_rng(0).dirichlet(np.ones(16)).reshape(4, 4)
    by_number, by_box = (
        heat(TransportDisplay(matching(plan), region).plot()) for region in (1, (0.5, 0, 1, 0.5))
    )
    np.testing.assert_allclose(by_number, by_box)


def test_arrows_go_to_the_middle_of_the_mass():
    plan = np.array([[0, 0, 0, 1.0], [1, 0, 0, 0], [1, 1, 1, 1], [1, 0, 1, 0]]) / 8
    found = arrows(TransportDisplay(matching(plan)).plot())
    starts, ends, widths = zip(*found, strict=True)
    assert starts == ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))
    np.testing.assert_allclose(ends, [(0.75, 0.75), (0.25, 0.25), (0.5, 0.5), (0.25, 0.5)])
    assert widths[0] == widths[1] > widths[3] > widths[2]


def test_arrows_begin_at_the_true_place_and_only_where_it_is_seen():
    display = TransportDisplay(matching(np.eye(4) / 4, (IDENTITY, RIGHT_HALF))).plot()
    assert [start for start, _, _ in arrows(display)] == [(0.5, 0.25), (0.5, 0.75)]


@pytest.fixture(scope="module")
def encoder():
    X = np.random.default_rng(0).uniform(size=(8, 32, 32))
    encoder = OTCXRPretrainer("test_resnet", image_size=32, epochs=0, match_stride=8)
    return encoder.fit(X), X


def test_from_estimator_draws_two_views_or_two_images(encoder):
    encoder, X = encoder
    views = TransportDisplay.from_estimator(encoder, X[:2], region=3, random_state=0)
    assert [ax.get_title() for ax in views.figure_.axes[:2]] == [
        "first view: the region",
        "second view: where transport sends it",
    ]
    pair = TransportDisplay.from_estimator(encoder, X[:1], X[1:2])
    assert pair.figure_.axes[0].get_title() == "first image"
    np.testing.assert_array_equal(pair.matching.views, encoder.match_pairs(X[:1], X[1:2]).views)


@pytest.mark.parametrize(
    "region",
    [(0, 0, 0, 1), (0.5, 0, 0.2, 1), (0, 0, 1, 2), (0, 0, 1), "left", True, 0.5, (0, 0, 1, np.nan)],
)
def test_what_is_no_region_is_an_error_before_anything_is_computed(region):
    with pytest.raises(ValueError, match="region must be None, the number of a token"):
        TransportDisplay.from_estimator(None, None, region=region)


@pytest.mark.parametrize("token", [-1, 4])
def test_a_token_that_is_not_there_is_an_error(token):
    with pytest.raises(ValueError, match=f"region is {token}, but the tokens are 0 to 3"):
        TransportDisplay(matching(np.eye(4)), token).plot()
