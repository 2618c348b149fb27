"""Where a first fit starts: from a local file, or from another estimator."""

import joblib
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn

from otcxr_sk.estimators._state import part_of, unpack


def patches(width=16):
    return nn.Conv2d(1, width, 8, stride=8)


def state(estimator):
    return unpack(estimator.weights_)


def backbone(estimator):
    return part_of(state(estimator), "encoder.backbone")


def assert_equal(states, others):
    torch.testing.assert_close(dict(states), dict(others), rtol=0, atol=0)


def test_weights_start_from_a_local_file(tmp_path, tiny, X):
    saved = timm.create_model("test_resnet", in_chans=1, num_classes=0)
    with torch.random.fork_rng():
        for parameter in saved.parameters():
            nn.init.normal_(parameter, std=0.05)
    save_file(saved.state_dict(), tmp_path / "start.safetensors")
    started = tiny(weights=tmp_path / "start.safetensors", epochs=0).fit(X)
    assert_equal(backbone(started), saved.state_dict())
    for wrong in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ValueError, match=r"weights must be an existing \.safetensors file"):
            tiny(weights=wrong).fit(X)


@pytest.mark.parametrize("encoder", ["test_resnet", "test_vit", patches()], ids=str)
def test_an_estimator_can_start_as_a_copy_of_another(encoder, tiny, X):
    first = tiny(encoder).fit(X)
    second = tiny(encoder, weights=first, epochs=0, random_state=1).fit(X)
    assert_equal(state(second), state(first))
    np.testing.assert_array_equal(second.transform(X), first.transform(X))
    assert second.score(X) == first.score(X)


def test_training_continues_from_another_estimator(fitted, tiny, X):
    fresh, on = (tiny(match_stride=8, weights=start).fit(X) for start in (None, fitted))
    assert on.history_["loss"][0] < fresh.history_["loss"][0]
    assert on.weights_.tobytes() != fitted.weights_.tobytes()


def test_heads_are_taken_where_their_shapes_match(fitted, tiny, X):
    other = tiny(
        weights=fitted, match_stride=32, objective__cv_sim_depth=1, epochs=0, random_state=1
    ).fit(X)
    theirs, ours = state(fitted), state(other)
    assert theirs["dense_head.0.weight"].shape != ours["dense_head.0.weight"].shape
    for name, value in theirs.items():
        if name.startswith(("encoder.", "projector.")):
            assert value.equal(ours[name])


def test_an_encoder_of_another_image_size_is_resized(tiny, X):
    first = tiny("test_vit").fit(X)
    second = tiny("test_vit", weights=first, image_size=64, epochs=0).fit(X)
    before, after = backbone(first), backbone(second)
    assert after["pos_embed"].shape[1] > before["pos_embed"].shape[1]
    del before["pos_embed"], after["pos_embed"]
    assert_equal(after, before)


@pytest.mark.parametrize("encoder", ["resnet10t", patches(8)], ids=str)
def test_weights_of_another_encoder_are_refused(encoder, fitted, tiny, X):
    start = fitted if isinstance(encoder, str) else tiny(patches()).fit(X)
    with pytest.raises(ValueError, match=r"the weights in the fitted encoder do not fit"):
        tiny(encoder, weights=start).fit(X)


def test_weights_must_be_fitted_and_stay_fitted_in_clones(fitted, tiny, X):
    with pytest.raises(NotFittedError, match=r"weights= is a OTCXRPretrainer that is not fitted"):
        tiny(weights=tiny()).fit(X)
    with pytest.raises(NotFittedError, match=r"FrozenEstimator.*save_encoder"):
        clone(tiny(weights=fitted)).fit(X)
    frozen = clone(tiny(weights=FrozenEstimator(fitted), match_stride=8, epochs=0)).fit(X)
    assert_equal(state(frozen), state(fitted))


@pytest.mark.parametrize("weights", [nn.Linear(1, 1), 3, {}])
def test_weights_of_another_type_are_refused(weights, tiny, X):
    with pytest.raises(InvalidParameterError, match="'weights' parameter"):
        tiny(weights=weights).fit(X)


def test_an_estimator_is_saved_with_what_it_started_from(fitted, tiny, X, tmp_path):
    estimator = tiny(weights=fitted, epochs=0).fit(X)
    joblib.dump(estimator, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(loaded.transform(X), estimator.transform(X))
    assert_equal(state(loaded.weights), state(fitted))


def test_an_estimator_can_start_from_a_saved_encoder(fitted, tiny, X, tmp_path):
    file = tmp_path / "encoder.safetensors"
    fitted.save_encoder(str(file))
    other = clone(tiny(weights=file, epochs=0)).fit(X)
    assert_equal(backbone(other), backbone(fitted))


def test_an_estimator_cannot_start_from_itself(tiny, X):
    pretrainer = tiny(epochs=0).fit(X)
    with pytest.raises(ValueError, match="itself; use warm_start to continue from it"):
        pretrainer.set_params(weights=pretrainer).fit(X)
