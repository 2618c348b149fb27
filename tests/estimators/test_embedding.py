"""What a fitted encoder does: embeds, scores, matches."""

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from torch import nn


def test_learnt_attributes(fitted, X):
    assert fitted.mean_ == pytest.approx(X.mean(), abs=1e-5)
    assert fitted.std_ == pytest.approx(X.std(), abs=1e-5)
    assert fitted.encoder_name_ == "test_resnet"
    assert fitted.embedding_dim_ == fitted.transform(X).shape[1] == 96
    assert fitted.get_feature_names_out()[-1] == "otcxrpretrainer95"


def test_a_dense_map_has_places(fitted, tiny):
    images = np.random.default_rng(0).random((3, 64, 64), dtype=np.float32)
    larger = tiny(image_size=64).fit(images)
    dense = larger.transform_dense(images)
    assert dense.shape == (3, 2, 2, 96)
    assert dense.dtype == np.float32
    np.testing.assert_allclose(dense.mean((1, 2)), larger.transform(images), rtol=1e-5, atol=1e-6)


def test_a_dense_map_follows_the_picture(tiny, blobs):
    # Where a patch is all that a place sees, a picture put aside moves its map aside.
    images = blobs(8).astype(np.float32)
    estimator = tiny(nn.Conv2d(1, 16, 8, stride=8)).fit(images)
    dense = estimator.transform_dense(images)
    moved = estimator.transform_dense(np.roll(images, 8, axis=2))
    np.testing.assert_allclose(np.roll(dense, 1, axis=2), moved, rtol=1e-4, atol=1e-5)


def test_score_is_reproducible_and_negative(fitted, X):
    assert fitted.score(X) == fitted.score(X) < 0


def test_match_shows_what_went_where(fitted, X):
    matching = fitted.match(X[:5], random_state=0)
    tokens = matching.grid[0] * matching.grid[1]
    assert matching.views.shape == (5, 2, 32, 32)
    assert matching.affine.shape == (5, 2, 2, 3)
    assert matching.plan.shape == (5, tokens, tokens)
    np.testing.assert_allclose(matching.plan.sum((1, 2)), 1, rtol=1e-3)
    assert 0 <= matching.chance <= 1
    assert 0 <= matching.accuracy <= 1
    again = fitted.match(X[:5], random_state=0)
    np.testing.assert_array_equal(matching.plan, again.plan)
    assert not np.array_equal(matching.affine, fitted.match(X[:5], random_state=1).affine)


def test_match_of_one_image(fitted, X):
    assert len(fitted.match(X[:1], random_state=0).plan) == 1


@pytest.mark.parametrize("method", ["transform", "transform_dense", "score", "match"])
def test_before_fit(method, tiny, X):
    with pytest.raises(NotFittedError, match="not fitted"):
        getattr(tiny(), method)(X)


def test_an_image_is_read_once(fitted, X, monkeypatch):
    from otcxr_sk.images import ArraySource

    rows = []
    read = ArraySource.read
    monkeypatch.setattr(
        ArraySource,
        "read",
        lambda self, indices, size: rows.extend(indices) or read(self, indices, size),
    )
    fitted.transform(X[:11])
    assert sorted(rows) == list(range(11))
