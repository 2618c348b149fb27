"""A fitted encoder as a value, as a torch module and as a file for timm."""

import copy
import os
import pickle
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from sklearn.base import BaseEstimator
from torch import nn

from otcxr_sk import __version__
from otcxr_sk.estimators._encoder import Embedder, FittedEncoder, come
from otcxr_sk.estimators._state import part_of, unpack
from otcxr_sk.method import DenseEncoder


def patches():
    return nn.Conv2d(1, 16, 8, stride=8)


@pytest.fixture(scope="module")
def exact(tiny, X):
    """An estimator that computes in float32 on every machine."""
    return tiny(precision="float32").fit(X)


@pytest.fixture
def value(exact):
    return exact._encoder()


def backbone(estimator):
    return part_of(unpack(estimator.weights_), "encoder.backbone")


def assert_equal(states, others):
    torch.testing.assert_close(dict(states), dict(others), rtol=0, atol=0)


def standardized(X, estimator):
    images = torch.from_numpy(X.astype(np.float32))[:, None]
    return (images - estimator.mean_) / estimator.std_


def test_a_copy_of_the_value_embeds_the_same(value, exact, X):
    images = torch.from_numpy(X[:8].astype(np.float32))[:, None]
    for each in (value, pickle.loads(pickle.dumps(value)), copy.deepcopy(value)):
        embedded, _ = come(Embedder(each, each.load())(images, dense=False), 0, [])
        np.testing.assert_array_equal(embedded, exact.transform(X[:8]))


def test_the_value_holds_plain_data_and_cannot_be_changed(value):
    assert isinstance(value, FittedEncoder)
    for field in vars(value).values():
        assert not isinstance(field, BaseEstimator | nn.Module)
    with pytest.raises(FrozenInstanceError):
        value.mean = 0.0


def test_every_load_gives_a_new_module_with_the_same_weights(value):
    first, second = value.load(), value.load()
    assert first is not second
    assert_equal(first.state_dict(), second.state_dict())
    with torch.no_grad():
        next(first.parameters()).zero_()
    assert_equal(second.state_dict(), value.load().state_dict())


def test_loading_draws_no_random_numbers(value):
    before = torch.get_rng_state()
    value.load()
    assert torch.get_rng_state().equal(before)


@pytest.mark.parametrize("encoder", ["test_resnet", "test_vit", patches()], ids=str)
def test_the_module_returns_the_maps_and_the_mean_of_the_last_as_the_embedding(encoder, tiny, X):
    fitted = tiny(encoder, precision="float32").fit(X)
    module = fitted.to_torch()
    assert isinstance(module, DenseEncoder)
    assert not module.training
    assert {value.device.type for value in module.state_dict().values()} == {"cpu"}
    with torch.inference_mode():
        matched, last, embedding = module(standardized(X, fitted))
    assert matched.shape[1:] == module.match_shape
    assert embedding.equal(last.mean((2, 3)))
    np.testing.assert_allclose(embedding, fitted.transform(X), rtol=1e-4, atol=1e-5)
    dense = last.permute(0, 2, 3, 1)
    np.testing.assert_allclose(dense, fitted.transform_dense(X), rtol=1e-4, atol=1e-5)


def test_the_module_is_a_copy(exact, X):
    before = exact.transform(X), exact.weights_.copy()
    module = exact.to_torch()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    module.train()
    np.testing.assert_array_equal(exact.transform(X), before[0])
    np.testing.assert_array_equal(exact.weights_, before[1])
    assert_equal(exact.to_torch().backbone.state_dict(), backbone(exact))


def test_the_module_can_be_trained(exact, X):
    module = exact.to_torch().train()
    module(standardized(X, exact))[1].square().mean().backward()
    assert any(parameter.grad.abs().sum() > 0 for parameter in module.parameters())


def test_the_backbone_is_a_timm_model_or_a_copy_of_the_users_module(exact, tiny, X):
    model = timm.create_model("test_resnet", in_chans=1, num_classes=0)
    assert type(exact.to_torch().backbone) is type(model)
    model.load_state_dict(exact.to_torch().backbone.state_dict(), strict=True)
    given = patches()
    own = tiny(given).fit(X).to_torch().backbone
    assert type(own) is type(given)
    assert own is not given


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
        "pooling": "mean",
        "mean": str(fitted.mean_),
        "std": str(fitted.std_),
        "otcxr_sk_version": __version__,
    }


def test_a_saved_module_is_its_state_dict(tiny, X, tmp_path):
    fitted = tiny(patches()).fit(X)
    fitted.save_encoder(tmp_path / "patches.safetensors")
    module = patches()
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


def test_an_encoder_is_saved_only_as_safetensors(fitted, tmp_path):
    with pytest.raises(ValueError, match=r"\.safetensors file, got .*encoder\.pth"):
        fitted.save_encoder(tmp_path / "encoder.pth")
    with pytest.raises(ValueError, match=r"there is no folder .*nowhere'; create it first"):
        fitted.save_encoder(tmp_path / "nowhere" / "encoder.safetensors")
    assert list(tmp_path.iterdir()) == []
