"""pooling="token": transformers embed images as their authors do."""

import pickle
from functools import partial

import numpy as np
import pytest
import timm
import torch
from safetensors import safe_open
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from timm.models import _registry
from torch import nn

from otcxr_sk import OTCXRClassifier, OTCXRPretrainer
from otcxr_sk.estimators import export_onnx
from otcxr_sk.evaluation import deletion_curves, explain, make_probe

SHAPE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
SIDE = 70


@pytest.fixture(scope="module")
def by_token(tiny, X):
    return tiny("test_vit", pooling="token", precision="float32").fit(X)


@pytest.fixture(scope="module")
def y(X):
    return np.arange(len(X)) % 2


def test_the_default_is_the_mean(tiny, by_token, X):
    assert OTCXRPretrainer().pooling == "mean"
    by_mean = tiny("test_vit", weights=by_token, epochs=0, precision="float32").fit(X)
    dense = by_mean.transform_dense(X)
    np.testing.assert_array_equal(dense, by_token.transform_dense(X))
    np.testing.assert_allclose(by_mean.transform(X), dense.mean((1, 2)), rtol=1e-5, atol=1e-6)
    assert np.abs(by_mean.transform(X) - by_token.transform(X)).max() > 0.1


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("vit_base_patch16_224", "ViT", {"patch_size": 10, "intermediate_size": 192}),
        ("vit_base_patch14_dinov2", "Dinov2", {}),
        ("vit_base_patch14_reg4_dinov2", "Dinov2WithRegisters", {"num_register_tokens": 4}),
    ],
)
def test_a_transformer_of_hugging_face_embeds_as_transformers_does(
    name, kind, options, tmp_path, monkeypatch
):
    import transformers

    options = {"patch_size": 14} | options
    small = partial(
        timm.model_entrypoint(name),
        embed_dim=48,
        depth=2,
        num_heads=2,
        patch_size=options["patch_size"],
    )
    monkeypatch.setitem(_registry._model_entrypoints, name, small)
    config = getattr(transformers, f"{kind}Config")(**SHAPE, image_size=SIDE, **options)
    theirs = getattr(transformers, f"{kind}Model")(config).eval()
    generator = torch.Generator().manual_seed(0)
    for parameter in theirs.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator)
    theirs.save_pretrained(tmp_path)
    images = np.random.default_rng(0).random((5, SIDE, SIDE), np.float32)
    encoder = OTCXRPretrainer(
        name, weights=tmp_path, image_size=SIDE, epochs=0, pooling="token", precision="float32"
    ).fit(images)
    # As their processor states them, whatever the images that were fitted.
    encoder.mean_, encoder.std_ = 0.5307, 0.2583
    standard = torch.from_numpy((images[:, None] - 0.5307) / 0.2583).expand(-1, 3, -1, -1)
    with torch.inference_mode():
        expected = theirs(standard).last_hidden_state[:, 0]
    np.testing.assert_allclose(encoder.transform(images), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("encoder", ["test_resnet", nn.Conv2d(1, 4, 8, stride=8)], ids=str)
def test_an_encoder_without_a_class_token_is_refused_before_images_are_read(
    encoder, tiny, X, monkeypatch
):
    monkeypatch.setattr("otcxr_sk.estimators._fit.scan", None)
    with pytest.raises(ValueError, match=r"pooling='token' takes the class token, and .* has none"):
        tiny(encoder, pooling="token").fit(X)


def test_the_token_is_trained_and_watched(tiny, X):
    start = tiny("test_vit", pooling="token", epochs=0).fit(X)
    fitted = tiny("test_vit", pooling="token", epochs=2, weights=start).fit(X)
    assert all(np.isfinite(fitted.history_["effective_rank"]))
    before, after = start.transform(X), fitted.transform(X)
    assert np.abs(after - before).max() > 0.01
    assert np.abs(fitted.partial_fit(X).transform(X) - after).max() > 1e-3


def test_the_fitted_encoder_keeps_it_whatever_is_set_afterwards(by_token, X):
    changed = pickle.loads(pickle.dumps(by_token)).set_params(pooling="mean")
    np.testing.assert_array_equal(changed.transform(X), by_token.transform(X))


def test_a_file_and_a_folder_carry_it(by_token, X, tmp_path):
    by_token.save_encoder(tmp_path / "encoder.safetensors")
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        assert file.metadata()["pooling"] == "token"
    by_token.save_pretrained(tmp_path / "model")
    loaded = OTCXRPretrainer.from_pretrained(tmp_path / "model")
    assert loaded.pooling == "token"
    np.testing.assert_array_equal(
        loaded.set_params(pooling="mean").transform(X), by_token.transform(X)
    )
    assert "| pooling | token |" in (tmp_path / "model" / "README.md").read_text()


def test_what_was_saved_before_there_was_a_choice_has_the_mean(tiny, X):
    by_mean = tiny("test_vit").fit(X)
    state = by_mean.__getstate__()
    del state["pooling"]
    state["_architecture"] = {k: v for k, v in state["_architecture"].items() if k != "pooling"}
    loaded = OTCXRPretrainer.__new__(OTCXRPretrainer)
    loaded.__setstate__(state)
    assert loaded.get_params()["pooling"] == "mean"
    np.testing.assert_array_equal(loaded.transform(X), by_mean.transform(X))


def test_the_module_returns_the_token(by_token, X):
    standard = torch.from_numpy((X[:, None] - by_token.mean_) / by_token.std_).float()
    with torch.inference_mode():
        *_, embedding = by_token.to_torch()(standard)
    np.testing.assert_allclose(embedding, by_token.transform(X), rtol=1e-4, atol=1e-5)


def test_a_classifier_starts_as_the_probe_of_the_token(by_token, X, y):
    found = OTCXRClassifier(by_token, frozen=True, random_state=0).fit(X, y)
    embedding = by_token.transform(X)
    expected = make_probe().fit(embedding, y).decision_function(embedding)
    np.testing.assert_allclose(found.decision_function(X), expected, atol=1e-4)


@pytest.mark.parametrize("judge", [explain, deletion_curves])
@pytest.mark.parametrize("wrap", [FrozenEstimator, lambda encoder: encoder], ids=["frozen", "bare"])
def test_a_token_is_no_sum_over_regions_to_be_explained(judge, wrap, by_token, X, y):
    classifier = LogisticRegression().fit(by_token.transform(X), y)
    model = make_pipeline(wrap(by_token), classifier)
    with pytest.raises(ValueError, match=r"class token, which is not a sum over regions; only"):
        judge(model, ["no-such-file.png"])


@pytest.mark.slow
def test_the_graph_gives_the_token(by_token, X, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    export_onnx(by_token, tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"]
    )
    (embedding,) = session.run(None, {"images": X[:, None].astype(np.float32)})
    np.testing.assert_allclose(embedding, by_token.transform(X), rtol=1e-4, atol=1e-4)
