"""An encoder goes on from another, and leaves for timm and torch, without pickle."""

import os

import joblib
import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load, load_file
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.utils._param_validation import InvalidParameterError
from torch import nn

from otcxr_sk import OTCXRPretrainer, __version__


def state(estimator):
    return load(estimator.weights_.tobytes())


def backbone(estimator):
    prefix = "encoder.backbone."
    return {k.removeprefix(prefix): v for k, v in state(estimator).items() if k.startswith(prefix)}


def assert_equal(states, others):
    assert states.keys() == others.keys()
    assert all(value.equal(others[key]) for key, value in states.items())


class Patches(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 8, stride=8)

    def forward(self, images):
        return self.stem(images)


@pytest.mark.parametrize("encoder", ["test_resnet", "test_vit", Patches()], ids=str)
def test_a_start_from_another_pretrainer_is_that_one(encoder, tiny, X):
    first = tiny(encoder).fit(X)
    second = tiny(encoder, weights=first, epochs=0, random_state=1).fit(X)
    assert_equal(state(second), state(first))
    np.testing.assert_array_equal(second.transform(X), first.transform(X))
    assert second.score(X) == first.score(X)


def test_training_goes_on_from_where_another_ended(fitted, tiny, X):
    fresh, on = (tiny(match_stride=8, weights=start).fit(X) for start in (None, fitted))
    assert on.history_["loss"][0] < fresh.history_["loss"][0]
    assert on.weights_.tobytes() != fitted.weights_.tobytes()


def test_heads_are_taken_where_their_shapes_are_the_same(fitted, tiny, X):
    other = tiny(weights=fitted, match_stride=32, cv_sim_depth=1, epochs=0, random_state=1).fit(X)
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


@pytest.mark.parametrize("encoder", ["resnet10t", Patches(8)], ids=str)
def test_a_start_from_another_encoder_is_refused(encoder, fitted, tiny, X):
    start = fitted if isinstance(encoder, str) else tiny(Patches()).fit(X)
    with pytest.raises(ValueError, match=r"the weights in the fitted encoder do not fit"):
        tiny(encoder, weights=start).fit(X)


def test_a_start_must_be_fitted_and_stay_so_in_clones(fitted, tiny, X):
    with pytest.raises(NotFittedError, match=r"weights= is a OTCXRPretrainer that is not fitted"):
        tiny(weights=tiny()).fit(X)
    with pytest.raises(NotFittedError, match=r"FrozenEstimator.*save_encoder"):
        clone(tiny(weights=fitted)).fit(X)
    frozen = clone(tiny(weights=FrozenEstimator(fitted), match_stride=8, epochs=0)).fit(X)
    assert_equal(state(frozen), state(fitted))


@pytest.mark.parametrize("weights", [nn.Linear(1, 1), 3, {}])
def test_a_start_from_something_else_is_refused(weights, tiny, X):
    with pytest.raises(InvalidParameterError, match="'weights' parameter"):
        tiny(weights=weights).fit(X)


def test_an_estimator_is_saved_with_its_start(fitted, tiny, X, tmp_path):
    estimator = tiny(weights=fitted, epochs=0).fit(X)
    joblib.dump(estimator, tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    np.testing.assert_array_equal(loaded.transform(X), estimator.transform(X))
    assert_equal(state(loaded.weights), state(fitted))


@pytest.mark.parametrize("encoder", ["test_resnet", "test_vit", "test_convnext"])
def test_a_saved_encoder_is_a_timm_checkpoint(encoder, tiny, X, tmp_path):
    fitted = tiny(encoder, precision="float32").fit(X)
    file = tmp_path / "encoder.safetensors"
    fitted.save_encoder(file)
    size = {"img_size": 32} if encoder == "test_vit" else {}
    model = timm.create_model(
        encoder, in_chans=1, num_classes=0, checkpoint_path=str(file), **size
    ).eval()
    assert_equal(model.state_dict(), backbone(fitted))
    with safe_open(file, "pt") as stored:
        facts = stored.metadata()
    images = (torch.from_numpy(X.astype(np.float32)) - float(facts["mean"])) / float(facts["std"])
    with torch.inference_mode():
        last = model.forward_intermediates(images[:, None], norm=True, intermediates_only=True)[-1]
    got = last.mean((2, 3)).numpy()
    np.testing.assert_allclose(got, fitted.transform(X), rtol=1e-3, atol=1e-5)
    assert facts == {
        "format": "pt",
        "encoder": encoder,
        "image_size": "32",
        "resize": "squash",
        "mean": str(fitted.mean_),
        "std": str(fitted.std_),
        "otcxr_sk_version": __version__,
    }


def test_a_saved_encoder_is_where_another_starts(fitted, tiny, X, tmp_path):
    file = tmp_path / "encoder.safetensors"
    fitted.save_encoder(str(file))
    other = clone(tiny(weights=file, epochs=0)).fit(X)
    assert_equal(backbone(other), backbone(fitted))


def test_a_saved_module_is_its_state_dict(tiny, X, tmp_path):
    fitted = tiny(Patches()).fit(X)
    fitted.save_encoder(tmp_path / "patches.safetensors")
    module = Patches()
    module.load_state_dict(load_file(tmp_path / "patches.safetensors"), strict=True)
    assert_equal(module.state_dict(), backbone(fitted))


def test_a_file_is_replaced_whole_or_not_at_all(fitted, tmp_path, monkeypatch):
    file = tmp_path / "encoder.safetensors"
    file.write_bytes(b"before")

    def fail(*paths):
        raise OSError("no space left")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="no space left"):
            fitted.save_encoder(file)
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert file.read_bytes() == b"before"
    fitted.save_encoder(file)
    assert_equal(load_file(file), backbone(fitted))


def test_only_a_fitted_encoder_is_saved_and_only_as_safetensors(fitted, tmp_path):
    with pytest.raises(NotFittedError):
        OTCXRPretrainer().save_encoder(tmp_path / "encoder.safetensors")
    with pytest.raises(ValueError, match=r"\.safetensors file, got .*encoder\.pth"):
        fitted.save_encoder(tmp_path / "encoder.pth")
    assert list(tmp_path.iterdir()) == []


def test_an_estimator_cannot_start_from_itself(tiny, X):
    pretrainer = tiny(epochs=0).fit(X)
    with pytest.raises(ValueError, match="itself; to go on from there use warm_start"):
        pretrainer.set_params(weights=pretrainer).fit(X)
