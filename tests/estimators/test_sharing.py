"""A model in a folder: the same bits for whoever gets it, and no harm from anybody's."""

import copy
import hashlib
import json
import os
import pickle
import re
import shutil
import subprocess
import time

import numpy as np
import pytest
import skops.io
import timm
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from otcxr_sk import Cache, Objective, Optimizer, OTCXRPretrainer, Views, __version__
from otcxr_sk.estimators import _model_folder, _sharing

FILES = {"README.md", "SHA256SUMS", "config.json", "encoder.safetensors", "heads.safetensors"}
WEIGHTS = ["encoder.safetensors", "heads.safetensors"]


blanks = {}


@pytest.fixture(autouse=True)
def _equal_networks_are_measured_once(monkeypatch):
    """Save the tests, most of which read one network, the time that its shapes take."""

    def blank(architecture, usual=_sharing._blank):
        key = json.dumps(architecture, sort_keys=True)
        if key not in blanks:
            blanks[key] = usual(architecture)
        return blanks[key]

    monkeypatch.setattr(_sharing, "_blank", blank)


@pytest.fixture(scope="module")
def fitted(tiny, X):
    return tiny(match_stride=8).fit(X)


@pytest.fixture(scope="module")
def folder(fitted, tmp_path_factory):
    folder = tmp_path_factory.mktemp("shared") / "model"
    fitted.save_pretrained(folder, data="24 blobs.", licence="CC0")
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def load(folder):
    return OTCXRPretrainer.from_pretrained(folder)


def sign(folder):
    """Write the checksums of what is there now, as an attacker would."""
    (folder / "SHA256SUMS").write_text(
        "".join(
            f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n"
            for name in sorted(FILES - {"SHA256SUMS"})
        )
    )


def config_of(folder):
    return json.loads((folder / "config.json").read_text())


def set_config(folder, **changes):
    """Change values of a configuration, with ``__`` between the levels, and sign it."""
    config = config_of(folder)
    for path, value in changes.items():
        *outer, last = path.split("__")
        place = config
        for name in outer:
            place = place[name]
        place[last] = value
    (folder / "config.json").write_text(json.dumps(config))
    sign(folder)


def assert_same(loaded, fitted, X):
    np.testing.assert_array_equal(loaded.weights_, fitted.weights_)
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))
    np.testing.assert_array_equal(loaded.transform_dense(X), fitted.transform_dense(X))
    assert loaded.score(X) == fitted.score(X)
    plans = (model.match(X[:3], random_state=0).plan for model in (loaded, fitted))
    np.testing.assert_array_equal(*plans)


def test_a_loaded_model_gives_the_same_bits(fitted, folder, X):
    loaded = load(folder)
    assert_same(loaded, fitted, X)
    assert loaded.get_params() == fitted.get_params()
    assert loaded.history_ == fitted.history_
    for name in ("mean_", "std_", "n_epochs_", "embedding_dim_", "encoder_name_"):
        assert getattr(loaded, name) == getattr(fitted, name)


def test_a_loaded_model_learns_on_like_a_pickled_one(fitted, folder, X):
    pickled = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(
        load(folder).partial_fit(X).weights_, pickled.partial_fit(X).weights_
    )


def test_a_loaded_model_can_be_pickled_and_saved_again(folder, X, tmp_path):
    loaded = load(folder)
    assert_same(pickle.loads(pickle.dumps(loaded)), loaded, X)
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
    assert_same(loaded, fitted, X)
    for name in ("views", "objective", "optimizer"):
        assert getattr(loaded, name).get_params() == getattr(fitted, name).get_params()
    np.testing.assert_array_equal(loaded.fit(X[:8]).weights_, fitted.fit(X[:8]).weights_)


def test_the_network_is_the_one_that_was_trained_whatever_parameters_say_now(tiny, X, tmp_path):
    fitted = tiny(epochs=0).fit(X)
    fitted.set_params(encoder="resnet18", image_size=64, views=Views(erase=0))
    fitted.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))
    assert loaded.get_params()["image_size"] == 64


def test_flattened_rows_are_remembered(tiny, X, tmp_path):
    rows = X.reshape(len(X), -1)
    fitted = tiny(epochs=0, image_shape=(32, 32)).fit(rows)
    fitted.save_pretrained(tmp_path / "model")
    loaded = load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.transform(rows), fitted.transform(rows))
    assert loaded.image_shape == (32, 32)
    with pytest.raises(ValueError, match="1024"):
        loaded.transform(rows[:, :900])


def test_numbers_that_are_missing_in_the_history_come_back_as_nan(tiny, X, tmp_path):
    fitted = tiny(epochs=0).fit(X)
    fitted.history_ = {"loss": [1.0, 2.0], "probe": [np.nan, np.float32(0.5)]}
    fitted.save_pretrained(tmp_path / "model")
    found = load(tmp_path / "model").history_
    np.testing.assert_equal(found, {"loss": [1.0, 2.0], "probe": [np.nan, 0.5]})


def test_the_folder_takes_no_more_space_than_the_weights(fitted, folder):
    assert {file.name for file in folder.iterdir()} == FILES
    size = sum(file.stat().st_size for file in folder.iterdir())
    assert size <= 1.05 * len(fitted.weights_)


def test_float16_takes_half_the_space_and_rounds(fitted, X, tmp_path):
    fitted.save_pretrained(tmp_path / "model", dtype="float16")
    size = sum((tmp_path / "model" / name).stat().st_size for name in WEIGHTS)
    assert size <= 0.53 * len(fitted.weights_)
    loaded = load(tmp_path / "model")
    assert len(loaded.weights_) == len(fitted.weights_)
    wanted = fitted.transform(X)
    np.testing.assert_allclose(loaded.transform(X), wanted, atol=0.01 * np.abs(wanted).max())


def test_a_weight_that_float16_cannot_hold_is_an_error(tiny, X, tmp_path):
    fitted = tiny(epochs=0).fit(X)
    state = _sharing.unpack(fitted.weights_)
    state["projector.0.bias"][0] = 1e5
    fitted.weights_ = _sharing._packed(state)
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
    back = tiny(epochs=0, weights=file).fit(X).to_torch().backbone.state_dict()
    for name, value in back.items():
        assert value.equal(ours[name]), name


def test_the_usual_tool_finds_the_checksums_right(folder):
    done = subprocess.run(
        ["sha256sum", "-c", "SHA256SUMS"], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0
    assert done.stdout.count(": OK") == len(FILES) - 1


def test_the_card_says_what_is_known_and_what_is_not(fitted, folder, tiny, X, tmp_path):
    card = (folder / "README.md").read_text()
    assert "24 blobs." in card
    assert "CC0" in card
    assert f"{fitted.history_['matching_accuracy'][-1]:.6g}" in card
    assert f"{fitted.history_['matching_chance'][-1]:.6g}" in card
    assert f"torch {torch.__version__.split('+')[0]}" in card
    tiny(epochs=0).fit(X).save_pretrained(tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.count("Not stated") == 2
    assert "Not trained here" in card


def test_what_belongs_to_a_machine_or_names_patients_is_not_in_it(tiny, X, tmp_path):
    images = tmp_path / "PLANTED-FOLDER"
    images.mkdir()
    for row, image in enumerate(X[:8]):
        Image.fromarray(np.uint8(255 * image.clip(0, 1))).save(images / f"PLANTED-{row}.png")
    (images / "PLANTED-broken.png").write_bytes(b"\x89PNG")
    tiny(epochs=0).fit(X).save_encoder(tmp_path / "PLANTED.safetensors")
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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_what_is_written_is_for_this_user_alone(folder):
    assert {path.stat().st_mode & 0o077 for path in [folder, *folder.iterdir()]} == {0}


class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 8, stride=8)

    def forward(self, images):
        return self.stem(images)


def test_a_module_cannot_be_shared_by_name_and_nothing_is_written(tiny, X, tmp_path):
    with pytest.raises(ValueError, match=r"Patches.*joblib.dump.*save_encoder.*export_onnx"):
        tiny(Patches(), epochs=0).fit(X).save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_only_a_fitted_estimator_is_saved(tiny, tmp_path):
    with pytest.raises(NotFittedError):
        tiny().save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_another_dtype_or_a_missing_folder_is_an_error(fitted, tmp_path):
    for dtype in ("bfloat16", None, ["float32"]):
        with pytest.raises(ValueError, match="dtype must be"):
            fitted.save_pretrained(tmp_path / "model", dtype)
    with pytest.raises(ValueError, match="create it first"):
        fitted.save_pretrained(tmp_path / "no" / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_read_is_not_written(fitted, tmp_path):
    broken = copy.deepcopy(fitted).set_params(batch_size=-1)
    with pytest.raises(ValueError, match=r"cannot be shared.*batch_size"):
        broken.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"README.md would have"):
        fitted.save_pretrained(tmp_path / "model", data="x" * 2**21)
    assert list(tmp_path.iterdir()) == []


class Renamed(OTCXRPretrainer):
    """A subclass with the same parameters."""


def test_a_subclass_is_read_as_the_class_that_reads_it(folder, fitted, X):
    loaded = Renamed.from_pretrained(folder)
    assert type(loaded) is Renamed
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))


def test_a_model_is_replaced_only_when_that_is_asked_for(fitted, tiny, X, copied):
    other = tiny(epochs=0, random_state=1).fit(X)
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    with pytest.raises(FileExistsError, match="overwrite=True"):
        other.save_pretrained(copied)
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before
    other.save_pretrained(copied, overwrite=True)
    np.testing.assert_array_equal(load(copied).weights_, other.weights_)
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]


def an_empty_folder(place, folder):
    place.mkdir()


def a_folder_of_others(place, folder):
    place.mkdir()
    (place / "thesis.tex").write_text("years of work")


def a_model_of_others(place, folder):
    place.mkdir()
    (place / "config.json").write_text('{"model_type": "bert"}')
    (place / "README.md").write_text("years of work")


def a_model_with_notes(place, folder):
    shutil.copytree(folder, place)
    (place / "notes.txt").write_text("years of work")


def a_file(place, folder):
    place.write_text("years of work")


def a_link_to_a_model(place, folder):
    place.symlink_to(shutil.copytree(folder, place.parent / "model"))


def a_dangling_link(place, folder):
    place.symlink_to("nowhere")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "what",
    [
        an_empty_folder,
        a_folder_of_others,
        a_model_of_others,
        a_model_with_notes,
        a_file,
        a_link_to_a_model,
        a_dangling_link,
    ],
)
def test_what_is_no_model_of_ours_is_never_replaced(fitted, folder, what, overwrite, tmp_path):
    what(tmp_path / "place", folder)
    before = sorted(os.walk(tmp_path))
    with pytest.raises(FileExistsError, match="choose another"):
        fitted.save_pretrained(tmp_path / "place", overwrite=overwrite)
    assert sorted(os.walk(tmp_path)) == before


@pytest.mark.parametrize("broken", ["write", "add_checksums", "load_model"])
def test_a_failure_leaves_what_was_there(fitted, copied, monkeypatch, broken):
    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_sharing, broken, fail)
    for place, overwrite in [(copied, True), (copied.parent / "new", False)]:
        with pytest.raises(OSError, match="No space"):
            fitted.save_pretrained(place, overwrite=overwrite)
    monkeypatch.undo()
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]
    load(copied)


def test_a_model_stays_if_the_new_one_cannot_take_its_place(fitted, copied, monkeypatch):
    moved, rename = [], os.rename

    def fail_once(source, target):
        moved.append(target)
        if len(moved) == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(_model_folder.os, "rename", fail_once)
    with pytest.raises(OSError, match="Input/output"):
        fitted.save_pretrained(copied, overwrite=True)
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]
    load(copied)


def test_of_several_who_save_at_once_the_first_one_wins(fitted, tmp_path, monkeypatch):
    def save_first(folder, usual=_sharing.add_checksums):
        monkeypatch.setattr(_sharing, "add_checksums", usual)
        fitted.save_pretrained(tmp_path / "model", data="The first.")
        usual(folder)

    monkeypatch.setattr(_sharing, "add_checksums", save_first)
    with pytest.raises(FileExistsError, match="meanwhile"):
        fitted.save_pretrained(tmp_path / "model")
    assert "The first." in (tmp_path / "model" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_refusal_can_be_pickled(tmp_path):
    with pytest.raises(ValueError, match=r"no file config\.json") as caught:
        load(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_what_a_killed_process_left_is_removed_a_day_later(fitted, folder, tmp_path):
    left = tmp_path / f".otcxr-{'0' * 32}.part"
    whole = shutil.copytree(folder, tmp_path / f".otcxr-{'1' * 32}.part")
    recent = tmp_path / f".otcxr-{'2' * 32}.part"
    for place in (left, recent):
        place.mkdir()
        (place / "config.json").write_text("{}")
    for place in (left, whole):
        os.utime(place, (time.time() - 90_000,) * 2)
    fitted.save_pretrained(tmp_path / "model")
    assert not left.exists()
    assert recent.exists()
    assert whole.exists()


def test_the_user_may_name_a_folder_by_a_link(folder, fitted, tmp_path):
    (tmp_path / "latest").symlink_to(folder)
    np.testing.assert_array_equal(load(tmp_path / "latest").weights_, fitted.weights_)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"nothing.*no such folder"):
        load(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"no file config.json"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("found", "named"),
    [(2, "format 2"), ("1", "format '1'"), (True, "format True"), (None, "format None")],
)
def test_another_format_says_which_version_reads_it(copied, found, named):
    set_config(copied, format=found, versions__otcxr_sk="7.8.9")
    with pytest.raises(ValueError, match=rf"{named}.*'7\.8\.9'.*needed"):
        load(copied)


def test_a_model_of_another_version_is_loaded_with_a_warning(copied, fitted):
    set_config(copied, versions__otcxr_sk="0.1.9")
    with pytest.warns(UserWarning, match=rf"'0\.1\.9'.*{re.escape(__version__)}"):
        loaded = load(copied)
    np.testing.assert_array_equal(loaded.weights_, fitted.weights_)


def test_another_estimator_is_named(copied):
    set_config(copied, estimator="OTCXRClassifier")
    with pytest.raises(ValueError, match=r"'OTCXRClassifier', not OTCXRPretrainer"):
        load(copied)


def test_parameters_that_a_later_version_adds_take_their_default(copied):
    config = config_of(copied)
    del config["parameters"]["accumulate"]
    (copied / "config.json").write_text(json.dumps(config))
    sign(copied)
    assert load(copied).accumulate == 1


HOSTILE_VALUES = [
    ("library", "transformers", "not one that"),
    ("architecture__image_size", "32", "image_size"),
    ("architecture__image_size", True, "image_size"),
    ("architecture__image_size", 0, "image_size"),
    ("architecture__image_size", 32.5, "image_size"),
    ("architecture__image_size", 10**6, "above 4096"),
    ("architecture__image_size", 10**30, "image_size"),
    ("architecture__encoder", "test_resne", "no model named"),
    ("architecture__encoder", "resnet18", "encoder.safetensors (has|lacks)"),
    ("architecture__encoder", "hf-hub:evil/model", "no model named"),
    ("architecture__encoder", "../../etc/passwd", "no model named"),
    ("architecture__encoder", "x" * 10**6, "encoder"),
    ("architecture__encoder", "\x1b[31m", "encoder"),
    ("architecture__encoder", None, "encoder"),
    ("architecture__encoder", ["test_resnet"], "encoder"),
    ("architecture__resize", "stretch", "resize"),
    ("architecture__match_stride", 0, "match_stride"),
    ("architecture__match_stride", 1e999, "match_stride"),
    ("architecture__pooling", "max", "pooling"),
    ("architecture__pooling", "token", "class token"),
    ("architecture__views", None, "views"),
    ("architecture__views", {}, "lacks"),
    ("architecture__views__erase", 2, "erase"),
    ("architecture__views__shell", "rm", "has 'shell'"),
    ("architecture__views__crop_scale", [0.5, 2], "crop_scale"),
    ("architecture__views__crop_scale", ["a", "b"], "crop_scale"),
    ("architecture__objective__epsilon", 0, "epsilon"),
    ("architecture__objective__epsilon", float("nan"), "epsilon"),
    ("architecture__objective__cv_sim_depth", 10**9, "cv_sim_depth"),
    ("architecture__objective__cv_sim_depth", 2, "heads.safetensors lacks"),
    ("architecture__hooks", ["os.system"], "has 'hooks'"),
    ("architecture", [], "must be an object"),
    ("parameters__weights", "/etc/passwd", "has 'weights'"),
    ("parameters__cache", "/tmp", "has 'cache'"),
    ("parameters__batch_size", -1, "batch_size"),
    ("parameters__batch_size", float("inf"), "batch_size"),
    ("parameters__optimizer", {"name": "adamw", "lr": 1}, "has 'lr'"),
    ("parameters__optimizer", {"name": "evil"}, "name"),
    ("parameters__optimizer", "evil", "optimizer"),
    ("parameters__views", "os.system", "views"),
    ("parameters__image_shape", [32], "image_shape"),
    ("parameters__image_shape", [32, "32"], "image_shape"),
    ("parameters__random_state", -1, "random_state"),
    ("parameters__warm_start", "yes", "warm_start"),
    ("parameters", None, "must be an object"),
    ("dtype", "float64", "dtype"),
    ("dtype", ["float32"], "dtype"),
    ("mean", None, "mean"),
    ("mean", "0", "mean"),
    ("mean", float("nan"), "mean"),
    ("std", 0, "std"),
    ("std", -1.0, "std"),
    ("std", float("inf"), "std"),
    ("std", True, "std"),
    ("n_features_in", 0, "n_features_in"),
    ("n_features_in", "1024", "n_features_in"),
    ("versions", {}, "versions"),
    ("versions", "0.2.0", "must be an object"),
    ("history", [1.0], "must be an object"),
    ("history__loss", 1.0, "loss"),
    ("history__loss", ["1.0"], "loss"),
    ("history__loss", [1.0, 2.0], "different lengths"),
    ("surplus", 1, "has 'surplus'"),
]


@pytest.mark.parametrize(
    ("path", "value", "named"), HOSTILE_VALUES, ids=[f"{p}={v!r:.20}" for p, v, _ in HOSTILE_VALUES]
)
def test_a_value_that_the_estimator_does_not_take_is_refused(copied, path, value, named):
    set_config(copied, **{path: value})
    with pytest.raises(ValueError, match=named) as caught:
        load(copied)
    assert "no model is loaded from" in str(caught.value)
    assert len(str(caught.value)) < 2000
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "\x00", '{"a":' * 10**5, "[" * 10**6, '{"library": "otcxr_sk"}', "{,}"],
    ids=range(9),
)
def test_a_configuration_that_is_none_is_refused(copied, text):
    (copied / "config.json").write_text(text)
    sign(copied)
    with pytest.raises(ValueError, match=r"no model is loaded from .*config.json|has the format"):
        load(copied)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_file_is_named(copied, name):
    (copied / name).unlink()
    with pytest.raises(ValueError, match=f"no file {name}"):
        load(copied)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_changed_byte_is_found(copied, name):
    content = bytearray((copied / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copied / name).write_bytes(content)
    with pytest.raises(ValueError, match=r"no model is loaded from"):
        load(copied)


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_what_is_no_file_is_refused(copied, name, what, tmp_path):
    (copied / name).rename(tmp_path / "moved")
    if what == "link":
        (copied / name).symlink_to(tmp_path / "moved")
    elif what == "pipe":
        os.mkfifo(copied / name)
    else:
        (copied / name).mkdir()
    with pytest.raises(ValueError, match=name):
        load(copied)


@pytest.mark.parametrize("name", ["model.py", ".hidden", "head.safetensors", "\x1b[31m", "sub"])
def test_a_surplus_file_is_refused(copied, name):
    (copied / name).write_text("import os")
    with pytest.raises(ValueError, match="none of its own; remove it") as caught:
        load(copied)
    assert "\x1b" not in str(caught.value)


def test_a_folder_of_very_many_files_is_refused_at_once(copied, monkeypatch):
    for number in range(2000):
        (copied / f"{number}").touch()
    with pytest.raises(ValueError, match="none of its own"):
        load(copied)
    assert len(_model_folder._names(copied)) <= 7


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("config.json", "../copy/config.json"),
        lambda text: text.replace("config.json", "/etc/passwd"),
        lambda text: text.replace("  ", " *"),
        lambda text: text + text,
        lambda text: text + f"{'0' * 64}  model.py\n",
        lambda text: "".join(text.splitlines(keepends=True)[1:]),
        lambda text: text.upper(),
        lambda text: "",
        lambda text: text + " " * 5000,
        lambda text: text.replace("config", "c\u00f6nfig"),
    ],
    ids=range(10),
)
def test_checksums_of_other_files_are_refused(copied, change):
    (copied / "SHA256SUMS").write_text(change((copied / "SHA256SUMS").read_text()))
    with pytest.raises(ValueError, match="SHA256SUMS"):
        load(copied)


@pytest.mark.parametrize(("name", "most"), [("README.md", 2**20), ("config.json", 2**24)])
def test_a_text_that_is_too_long_is_refused(copied, name, most):
    with (copied / name).open("a") as file:
        file.write(" " * most)
    sign(copied)
    with pytest.raises(ValueError, match=rf"{name} cannot be read: it has more than"):
        load(copied)


def cut(state, name):
    state[name] = state[name][..., :1].clone()


HOSTILE_WEIGHTS = {
    "surplus": lambda state, name: state.update(extra=torch.zeros(1)),
    "missing": lambda state, name: state.pop(name),
    "shape": cut,
    "float64": lambda state, name: state.update({name: state[name].double()}),
    "float16": lambda state, name: state.update({name: state[name].half()}),
    "bfloat16": lambda state, name: state.update({name: state[name].bfloat16()}),
    "integers": lambda state, name: state.update({name: state[name].int()}),
    "nan": lambda state, name: state[name].fill_(torch.nan),
    "infinity": lambda state, name: state[name].fill_(torch.inf),
    "vast": lambda state, name: state.update({name: torch.zeros(10**6)}),
    "empty": lambda state, name: state.update({name: torch.zeros(0)}),
}


@pytest.mark.parametrize("file", [WEIGHTS[0], pytest.param(WEIGHTS[1], marks=pytest.mark.slow)])
@pytest.mark.parametrize("change", HOSTILE_WEIGHTS)
def test_weights_of_another_network_are_refused(copied, file, change):
    state = load_file(copied / file)
    HOSTILE_WEIGHTS[change](state, next(name for name in state if name.endswith("weight")))
    save_file(state, copied / file)
    sign(copied)
    with pytest.raises(ValueError, match=rf"{file} has|{file} lacks"):
        load(copied)


@pytest.mark.parametrize("file", WEIGHTS)
@pytest.mark.parametrize(
    "change",
    [
        lambda content: b"",
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: (2**62).to_bytes(8, "little") + content[8:],
        lambda content: b"PK\3\4" + content[4:],
        lambda content: b"\x80\x04cposix\nsystem\n.",
    ],
    ids=range(6),
)
def test_weights_that_are_none_are_refused(copied, file, change):
    (copied / file).write_bytes(change((copied / file).read_bytes()))
    sign(copied)
    with pytest.raises(ValueError, match=f"{file} is damaged"):
        load(copied)


def test_a_giant_that_a_small_folder_names_is_not_built(copied, monkeypatch):
    """Its network alone has 4 GB; its shapes cost next to nothing."""
    set_config(copied, architecture__encoder="vit_giant_patch14_224", architecture__image_size=224)
    made = []

    def empty(*args, usual=torch.empty, **options):
        made.append(usual(*args, **options))
        return made[-1]

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(ValueError, match=r"encoder.safetensors (has|lacks)"):
        load(copied)
    assert {one.device.type for one in made} == {"meta"}


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
    model = make_pipeline(tiny(), StandardScaler(), LogisticRegression(max_iter=1000))
    data = skops.io.dumps(model.fit(X, labels))
    untrusted = skops.io.get_untrusted_types(data=data)
    assert untrusted == ["otcxr_sk.estimators._pretrainer.OTCXRPretrainer"]
    loaded = skops.io.loads(data, trusted=untrusted)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(loaded[:-1].transform(X), model[:-1].transform(X))


def mutated(value, rng):
    """Return a JSON value with one part of it changed, removed or put elsewhere."""
    odd = [None, True, -1, 0, 10**9, 1e308, -0.5, "", "x", "resnet18", [], [1], {}, {"a": 1}]
    if not isinstance(value, dict | list) or not value or rng.random() < 0.1:
        return odd[rng.integers(len(odd))]
    inner = list(value) if isinstance(value, dict) else range(len(value))
    key = inner[rng.integers(len(inner))]
    copy = value.copy()
    if rng.random() < 0.15:
        del copy[key]
    elif rng.random() < 0.1 and isinstance(copy, dict):
        copy[f"{key}_"] = copy.pop(key)
    else:
        copy[key] = mutated(copy[key], rng)
    return copy


def outcome(folder):
    """Load a model, or return None if it is refused as a model."""
    try:
        return load(folder)
    except _model_folder.RefusedError:
        return None


@pytest.mark.slow
def test_no_flipped_byte_goes_unnoticed(folder, copied):
    rng = np.random.default_rng(0)
    for _ in range(200):
        name = sorted(FILES)[rng.integers(len(FILES))]
        content = bytearray((folder / name).read_bytes())
        # Half of them in the headers, where they do most.
        end = min(len(content), 2000) if rng.random() < 0.5 else len(content)
        for place in rng.integers(end, size=rng.integers(1, 4)):
            content[place] ^= 1 << rng.integers(8)
        changed = bytes(content) != (folder / name).read_bytes()
        (copied / name).write_bytes(content)
        assert (outcome(copied) is None) == changed
        shutil.copyfile(folder / name, copied / name)


@pytest.mark.slow
def test_signed_bytes_are_refused_or_make_a_model(folder, copied, X):
    rng = np.random.default_rng(1)
    loaded = 0
    for _ in range(200):
        name = sorted(FILES - {"SHA256SUMS"})[rng.integers(len(FILES) - 1)]
        content = bytearray((folder / name).read_bytes())
        for place in rng.integers(min(len(content), 5000), size=rng.integers(1, 4)):
            content[place] = rng.integers(256)
        (copied / name).write_bytes(content)
        sign(copied)
        began = time.monotonic()
        loaded += outcome(copied) is not None
        assert time.monotonic() - began < 10
        shutil.copyfile(folder / name, copied / name)
    assert loaded


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this model was saved by")
def test_a_signed_configuration_is_refused_or_makes_a_model(folder, copied, fitted, X):
    rng = np.random.default_rng(2)
    same = ("architecture", "mean", "std", "dtype")
    original = config_of(folder)
    loaded = 0
    for _ in range(400):
        config = mutated(original, rng)
        (copied / "config.json").write_text(json.dumps(config))
        sign(copied)
        began = time.monotonic()
        found = outcome(copied)
        assert time.monotonic() - began < 10
        if found is None:
            continue
        loaded += 1
        found.set_params(precision="float32")
        np.testing.assert_array_equal(found.weights_, fitted.weights_)
        if all(config[name] == original[name] for name in same):
            np.testing.assert_array_equal(found.transform(X[:2]), fitted.transform(X[:2]))
    assert loaded > 20
