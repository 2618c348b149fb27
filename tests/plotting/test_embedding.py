import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from sklearn.decomposition import PCA
from sklearn.preprocessing import StandardScaler

from otcxr_sk.plotting import EmbeddingDisplay

RANDOM = np.random.default_rng(0)
Z = RANDOM.normal(size=(30, 5))
IMAGES = RANDOM.uniform(size=(30, 16, 16))


def points(ax):
    return np.concatenate([line.get_xydata() for line in ax.lines])


def corners(ax):
    return np.array([image.get_extent()[::2] for image in ax.images])


def test_points_are_principal_components():
    ax = EmbeddingDisplay.from_features(Z).ax_
    np.testing.assert_allclose(points(ax), PCA(2, random_state=0).fit_transform(Z))
    assert "of the variance" in ax.get_xlabel()


def test_another_transformer_is_fitted_as_a_copy():
    scaler = StandardScaler()
    ax = EmbeddingDisplay.from_features(Z[:, :2], transformer=scaler).ax_
    np.testing.assert_allclose(points(ax), StandardScaler().fit_transform(Z[:, :2]))
    assert not hasattr(scaler, "mean_")
    assert ax.get_ylabel() == "StandardScaler, dimension 2"


@settings(max_examples=15)
@given(arrays(float, (20, 2), elements=st.floats(-10, 10)))
def test_images_do_not_overlap_and_are_at_their_points(places):
    from matplotlib.figure import Figure

    from otcxr_sk.images import as_source

    display = EmbeddingDisplay(places, as_source(IMAGES[:20])).plot(Figure().add_subplot())
    left_bottom, side = corners(display.ax_), display.ax_.patches[0].get_width()
    assert left_bottom[0] == pytest.approx(places[0] - side / 2)
    apart = np.abs(left_bottom[:, None] - left_bottom).max(2)
    assert (apart + np.eye(len(apart)) * side >= side).all()


def test_an_image_stands_upright():
    image = np.zeros((2, 8, 8))
    image[:, 0] = 1
    ax = EmbeddingDisplay.from_features(Z[:2], image).ax_
    left, right, bottom, top = ax.images[0].get_extent()
    assert left < right
    assert bottom < top
    assert ax.images[0].origin == "upper"


def test_a_label_has_one_color_for_points_and_frames():
    y = np.array(["b", "a", None], dtype=object)[np.arange(30) % 3]
    ax = EmbeddingDisplay.from_features(Z, IMAGES, y).ax_
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b", "unknown"]
    a, b, unknown = (line.get_color() for line in ax.lines)
    assert len({a, b, unknown}) == 3
    from matplotlib.colors import to_rgba

    assert ax.patches[0].get_edgecolor() == to_rgba(b)


def test_rows_of_nan_are_left_out_with_a_warning():
    broken = Z.copy()
    broken[[0, 4]] = np.nan
    with pytest.warns(UserWarning, match="2 of 30 rows of Z are not finite") as caught:
        display = EmbeddingDisplay.from_features(broken, IMAGES)
    assert caught[0].filename == __file__
    expected = PCA(2).fit_transform(np.delete(Z, [0, 4], axis=0))
    np.testing.assert_allclose(np.delete(display.places, [0, 4], axis=0), expected)
    assert len(display.ax_.images) > 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"X": IMAGES[:3]}, "Z has 30 rows for 3 images"),
        ({"y": np.arange(30)}, "y has 30 classes, but no more than 7"),
        ({"y": [0, 1]}, r"each of 30 rows, got the shape \(2,\)"),
        ({"transformer": PCA(3)}, r"two columns .* shape \(30, 3\)"),
    ],
)
def test_bad_input_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        EmbeddingDisplay.from_features(Z, **options)


def test_one_row_is_not_enough():
    with pytest.raises(ValueError, match="1 finite rows"):
        EmbeddingDisplay.from_features(Z[:1])


def test_equal_embeddings_are_one_point():
    ax = EmbeddingDisplay.from_features(np.ones((3, 4)), IMAGES[:3]).ax_
    np.testing.assert_allclose(points(ax), 0, atol=1e-12)
    assert len(ax.images) == 1
    assert "0% of the variance" in ax.get_xlabel()
