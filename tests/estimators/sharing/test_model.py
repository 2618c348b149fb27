"""A model in a folder: the same bits for whoever gets it."""

import copy
import json
import pickle
import re
import subprocess

import numpy as np
import pytest
import skops.io
import timm
import torch
from folders import FILES, WEIGHTS, config_of, set_config, sign
from PIL import Image
from safetensors import safe_open
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from otcxr_sk import Cache, Objective, Optimizer, OTCXRPretrainer, Views, __version__
from otcxr_sk.estimators._state import pack, unpack

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")


def load(folder):
    return OTCXRPretrainer.from_pretrained(folder)


@pytest.fixture(scope="module")
def untrained(tiny, X):
    return tiny(epochs=0).fit(X[:8])


def assert_same(loaded, fitted, X):
    np.testing.assert_array_equal(loaded.weights_, fitted.weights_)
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))


def test_a_loaded_model_gives_the_same_bits(fitted, folder, X):
    loaded = load(folder)
    assert_same(loaded, fitted, X)
    np.testing.assert_array_equal(loaded.transform_dense(X), fitted.transform_dense(X))
    assert loaded.score(X) == fitted.score(X)
    plans = (model.match(X[:3], random_state=0).plan for model in (loaded, fitted))
    np.testing.assert_array_equal(*plans)
    assert loaded.get_params() == fitted.get_params()
    assert loaded.history_ == fitted.history_
    for name in ("mean_", "std_", "n_epochs_", "embedding_dim_", "encoder_name_", "n_images_"):
        assert getattr(loaded, name) == getattr(fitted, name)


def test_a_loaded_model_learns_on_like_a_pickled_one(fitted, folder, X):
    models = pickle.loads(pickle.dumps(fitted)), load(folder)
    np.testing.assert_array_equal(*(model.partial_fit(X[:8]).weights_ for model in models))
    assert [model.n_images_ for model in models] == [len(X) + 8] * 2


def test_a_loaded_model_can_be_pickled_and_saved_again(folder, X, tmp_path):
    loaded = load(folder)
    assert_same(pickle.loads(pickle.dumps(loaded)), loaded, X[:4])
    loaded.save_pretrained(tmp_path / "again", data="24 blobs.", licence="CC0")
    for name in ("config.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes()
    np.testing.assert_array_equal(load(tmp_path / "again").weights_, loaded.weights_)


def test_every_parameter_of_the_network_and_the_loss_is_kept(tiny, X, tmp_path):
    fitted = tiny(
        resize="pad",
        views=Views(erase=0.1, crop_scale=(0.6, 0.9)),
        objective=Objective(cv_sim_depth=1, transport="direct"),
        optimizer=Optimizer("lars", ema=0.9),
        match_stride=8,
    ).fit(X[:8])
    fitted.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert_same(loaded, fitted, X[:4])
    for name in ("views", "objective", "optimizer"):
        assert getattr(loaded, name).get_params() == getattr(fitted, name).get_params()
    np.testing.assert_array_equal(loaded.fit(X[:8]).weights_, fitted.fit(X[:8]).weights_)


def test_the_network_is_the_one_that_was_trained_whatever_parameters_say_now(
    untrained, X, tmp_path
):
    fitted = copy.deepcopy(untrained)
    fitted.set_params(encoder="resnet18", image_size=64, views=Views(erase=0))
    fitted.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    assert_same(loaded, untrained, X[:4])
    assert loaded.get_params()["image_size"] == 64


def test_flattened_rows_are_remembered(tiny, X, tmp_path):
    rows = X[:4].reshape(4, -1)
    fitted = tiny(epochs=0, image_shape=(32, 32)).fit(rows)
    fitted.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(rows), fitted.transform(rows))
    assert loaded.image_shape == (32, 32)
    with pytest.raises(ValueError, match="1024"):
        loaded.transform(rows[:, :900])


def test_numbers_that_are_missing_in_the_history_come_back_as_nan(untrained, tmp_path):
    fitted = copy.deepcopy(untrained)
    fitted.history_ = {"loss": [1.0, 2.0], "probe": [np.nan, np.float32(0.5)]}
    fitted.save_pretrained(tmp_path / "model")
    found = load(tmp_path / "model").history_
    np.testing.assert_equal(found, {"loss": [1.0, 2.0], "probe": [np.nan, 0.5]})


def test_the_folder_takes_no_more_space_than_the_weights(fitted, folder):
    assert {file.name for file in folder.iterdir()} == FILES
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size <= 1.05 * len(fitted.weights_)


def test_float16_takes_half_the_space_and_rounds(fitted, X, tmp_path):
    # Where bfloat16 is fast, its rounding would hide that of float16.
    exact = copy.deepcopy(fitted).set_params(precision="float32")
    exact.save_pretrained(tmp_path / "model", dtype="float16")
    size = sum((tmp_path / "model" / name).stat().st_size for name in WEIGHTS)
    assert size <= 0.53 * len(exact.weights_)
    loaded = load(tmp_path / "model")
    assert len(loaded.weights_) == len(exact.weights_)
    wanted = exact.transform(X)
    np.testing.assert_allclose(loaded.transform(X), wanted, atol=0.01 * np.abs(wanted).max())


def test_a_weight_that_float16_cannot_hold_is_an_error(untrained, tmp_path):
    fitted = copy.deepcopy(untrained)
    state = unpack(fitted.weights_)
    state["projector.0.bias"][0] = 1e5
    fitted.weights_ = pack(state)
    with pytest.raises(ValueError, match=r"'projector.0.bias' is not finite.*float16"):
        fitted.save_pretrained(tmp_path / "model", "float16")
    fitted.save_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(load(tmp_path / "model").weights_, fitted.weights_)


def test_the_encoder_in_it_is_what_save_encoder_writes(fitted, folder, tmp_path):
    fitted.save_encoder(tmp_path / "encoder.safetensors")
    ours, theirs = (safe_open(place / "encoder.safetensors", "np") for place in (folder, tmp_path))
    with ours, theirs:
        assert ours.metadata() == theirs.metadata()
        assert ours.keys() == theirs.keys()
        names = ours.keys()
        for name in names:
            np.testing.assert_array_equal(ours.get_tensor(name), theirs.get_tensor(name))


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_timm_loads_the_encoder_unchanged_and_it_comes_back(fitted, tiny, X, dtype, tmp_path):
    fitted.save_pretrained(tmp_path / "model", dtype)
    file = tmp_path / "model" / "encoder.safetensors"
    plain = timm.create_model("test_resnet", in_chans=1, num_classes=0, checkpoint_path=str(file))
    ours = load(tmp_path / "model").to_torch().backbone.state_dict()
    for name, value in plain.state_dict().items():
        assert value.equal(ours[name]), name
    back = tiny(epochs=0, weights=file).fit(X[:2]).to_torch().backbone.state_dict()
    for name, value in back.items():
        assert value.equal(ours[name]), name


def test_the_usual_tool_finds_the_checksums_right(folder):
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.count(": OK") == len(FILES) - 1


def test_the_card_says_what_is_known_and_what_is_not(fitted, folder, untrained, tmp_path):
    card = (folder / "README.md").read_text()
    assert "24 blobs." in card
    assert "CC0" in card
    assert f"{fitted.history_['matching_accuracy'][-1]:.6g}" in card
    assert f"{fitted.history_['matching_chance'][-1]:.6g}" in card
    assert f"torch {torch.__version__.split('+')[0]}" in card
    assert "Trained without labels on 24 images of an unknown number of patients." in card
    untrained.save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.count("Not stated") == 2
    assert "on no image since the weights that it started from" in card
    assert "was not pre-trained further by" in " ".join(card.split())
    assert "Not trained here" in card


def test_what_belongs_to_a_machine_or_names_patients_is_not_in_it(tiny, X, tmp_path):
    images = tmp_path / "PLANTED-FOLDER"
    images.mkdir()
    for row, image in enumerate(X[:8]):
        Image.fromarray(np.uint8(255 * image.clip(0, 1))).save(images / f"PLANTED-{row}.png")
    (images / "PLANTED-broken.png").write_bytes(b"\x89PNG")
    tiny(epochs=0).fit(X[:2]).save_encoder(tmp_path / "PLANTED.safetensors")
    fitted = tiny(
        weights=tmp_path / "PLANTED.safetensors",
        cache=Cache(tmp_path / "PLANTED-cache"),
        checkpoint=tmp_path / "PLANTED-run",
        on_error="nan",
        device="cpu",
        random_state=np.random.RandomState(0),
    ).fit(images, groups=[f"PLANTED-{row}" for row in range(9)])
    assert "PLANTED" in str(fitted.skipped_)
    fitted.save_pretrained(tmp_path / "model")
    for file in (tmp_path / "model").iterdir():
        assert b"PLANTED" not in file.read_bytes()
        assert str(tmp_path).encode() not in file.read_bytes()
    loaded = load(tmp_path / "model")
    assert loaded.skipped_ == []
    for name in ("weights", "cache", "checkpoint", "random_state"):
        assert getattr(loaded, name) is None
    assert loaded.device == "auto"


class Renamed(OTCXRPretrainer):
    """A subclass with the same parameters."""


def test_a_subclass_is_read_as_the_class_that_reads_it(folder, fitted, X):
    loaded = Renamed.from_pretrained(folder)
    assert type(loaded) is Renamed
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))


def test_the_user_may_name_a_folder_by_a_link(folder, fitted, tmp_path):
    (tmp_path / "latest").symlink_to(folder)
    np.testing.assert_array_equal(load(tmp_path / "latest").weights_, fitted.weights_)


def test_a_model_of_another_version_is_loaded_with_a_warning(copied, fitted):
    set_config(copied, versions__otcxr_sk="0.1.9")
    with pytest.warns(UserWarning, match=rf"'0\.1\.9'.*{re.escape(__version__)}"):
        loaded = load(copied)
    np.testing.assert_array_equal(loaded.weights_, fitted.weights_)


def test_parameters_that_a_later_version_adds_take_their_default(copied):
    config = config_of(copied)
    del config["parameters"]["accumulate"]
    (copied / "config.json").write_text(json.dumps(config))
    sign(copied)
    assert load(copied).accumulate == 1


def test_global_random_numbers_are_left_alone(fitted, folder, tmp_path, monkeypatch):
    monkeypatch.undo()
    before = torch.get_rng_state()
    fitted.save_pretrained(tmp_path / "model")
    load(folder)
    assert before.equal(torch.get_rng_state())


def test_the_defaults_of_torch_do_not_matter(folder, fitted, tmp_path, monkeypatch):
    monkeypatch.undo()
    torch.set_default_dtype(torch.float64)
    try:
        loaded = load(folder)
        fitted.save_pretrained(tmp_path / "model")
    finally:
        torch.set_default_dtype(torch.float32)
    np.testing.assert_array_equal(loaded.weights_, fitted.weights_)
    np.testing.assert_array_equal(load(tmp_path / "model").weights_, fitted.weights_)


def test_skops_saves_a_pipeline_with_a_scaler_without_pickle(tiny, X):
    labels = np.arange(len(X)) % 3
    model = make_pipeline(tiny(epochs=0), StandardScaler(), LogisticRegression(max_iter=1000))
    data = skops.io.dumps(model.fit(X, labels))
    untrusted = skops.io.get_untrusted_types(data=data)
    assert untrusted == ["otcxr_sk.estimators._pretrainer.OTCXRPretrainer"]
    loaded = skops.io.loads(data, trusted=untrusted)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
