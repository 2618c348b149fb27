"""The fitted estimator: its attributes, `score` and `match`."""

import copy
import pickle

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from otcxr_sk import estimators, images, training


def test_learnt_attributes(fitted, X):
    assert fitted.mean_ == pytest.approx(X.mean(), abs=1e-5)
    assert fitted.std_ == pytest.approx(X.std(), abs=1e-5)
    assert fitted.encoder_name_ == "test_resnet"
    assert fitted.embedding_dim_ == fitted.transform(X).shape[1] == 96
    assert fitted.get_feature_names_out()[-1] == "otcxrpretrainer95"


def test_score_is_reproducible_and_negative(fitted, X):
    assert fitted.score(X) == fitted.score(X) < 0


def test_match_returns_views_and_the_plan_between_them(fitted, X):
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


def test_score_and_match_use_the_views_and_the_loss_of_fit(fitted, X):
    changed = copy.deepcopy(fitted).set_params(views__crop_scale=(0.1, 0.2), objective__alpha=9.0)
    assert changed.score(X) == fitted.score(X)
    affine, other = (each.match(X[:2], random_state=0).affine for each in (fitted, changed))
    np.testing.assert_array_equal(affine, other)


@pytest.mark.parametrize(
    "method", ["transform", "transform_dense", "score", "match", "save_encoder"]
)
def test_no_method_works_before_fit(method, tiny, X):
    with pytest.raises(NotFittedError, match="not fitted"):
        getattr(tiny(), method)(X)
    with pytest.raises(NotFittedError, match="not fitted"):
        tiny().to_torch()


@pytest.mark.parametrize("loaded", [False, True], ids=["fitted", "loaded"])
@pytest.mark.parametrize(
    "method", ["transform", "transform_dense", "score", "match", "to_torch", "save_encoder"]
)
def test_using_an_estimator_changes_none_of_its_attributes(method, loaded, fitted, X, tmp_path):
    estimator = pickle.loads(pickle.dumps(fitted)) if loaded else fitted
    before, state = dict(vars(estimator)), pickle.dumps(estimator)
    given = {"to_torch": (), "save_encoder": (tmp_path / "encoder.safetensors",)}
    getattr(estimator, method)(*given.get(method, (X,)))
    assert vars(estimator).keys() == before.keys()
    assert all(vars(estimator)[name] is value for name, value in before.items())
    assert pickle.dumps(estimator) == state


def test_all_that_fit_raises_and_warns_of_is_public():
    assert issubclass(estimators.NonFiniteLossError, FloatingPointError)
    assert issubclass(estimators.TrainingInterrupted, KeyboardInterrupt)
    for name in ("NonFiniteLossError", "TrainingInterrupted", "CheckpointWarning"):
        assert getattr(estimators, name) is getattr(training, name)
    assert estimators.CollapseWarning is training.CollapseWarning
    assert estimators.UnusableImageWarning is images.UnusableImageWarning
    for name in ("CheckpointWarning", "CollapseWarning", "UnusableImageWarning"):
        assert issubclass(getattr(estimators, name), UserWarning)
        assert name in estimators.__all__


def test_tokens_of_two_whole_images_all_give_and_receive_the_same_mass(fitted, X):
    found = fitted.match_pairs(X[:3], X[3:6])
    tokens = found.grid[0] * found.grid[1]
    assert found.views.shape == (3, 2, 32, 32)
    np.testing.assert_allclose(found.plan.sum(1), 1 / tokens, rtol=1e-4)
    # Sinkhorn ends after fifty iterations: the other marginal is met nearly.
    np.testing.assert_allclose(found.plan.sum(2), 1 / tokens, rtol=0.05)


def test_an_image_and_itself_exchange_each_token_with_itself(fitted, X):
    (plan,) = fitted.match_pairs(X[:1], X[:1]).plan
    assert (plan.argmax(1) == np.arange(len(plan))).all()
    np.testing.assert_allclose(plan, plan.T, atol=1e-3)


def test_pairs_are_matched_row_by_row(fitted, X):
    both = fitted.match_pairs(X[:2], X[2:4])
    alone = fitted.match_pairs(X[1:2], X[3:4])
    np.testing.assert_array_equal(both.views[1], alone.views[0])
    np.testing.assert_allclose(both.plan[1], alone.plan[0], atol=1e-3)
    with pytest.raises(ValueError, match="X has 2 images and Y has 1"):
        fitted.match_pairs(X[:2], X[:1])
