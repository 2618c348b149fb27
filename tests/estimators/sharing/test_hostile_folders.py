"""A folder from anybody does no harm: what is not a model is refused by name, soon and small."""

import json
import os
import pickle
import shutil
import time

import numpy as np
import pytest
import torch
from folders import FILES, WEIGHTS, config_of, mutated, set_config, sign
from safetensors.torch import load_file, save_file

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.estimators.sharing import _folder

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")


def load(folder):
    return OTCXRPretrainer.from_pretrained(folder)


def test_a_refusal_can_be_pickled(tmp_path):
    with pytest.raises(ValueError, match=r"no file config\.json") as caught:
        load(tmp_path)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


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


def test_another_estimator_is_named(copied):
    set_config(copied, estimator="OTCXRClassifier")
    with pytest.raises(ValueError, match=r"'OTCXRClassifier', not OTCXRPretrainer"):
        load(copied)


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
    for number in range(300):
        (copied / f"{number}").touch()
    with pytest.raises(ValueError, match="none of its own"):
        load(copied)
    assert len(_folder._names(copied)) <= 7


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


@pytest.mark.parametrize(
    "giant", ["vgg11", pytest.param("vit_giant_patch14_224", marks=pytest.mark.slow)]
)
def test_a_giant_that_a_small_folder_names_is_not_built(copied, giant, monkeypatch):
    """Their networks have 0.5 and 4 GB; their shapes cost next to nothing."""
    set_config(copied, architecture__encoder=giant, architecture__image_size=224)
    made = []

    def empty(*args, usual=torch.empty, **options):
        made.append(usual(*args, **options))
        return made[-1]

    monkeypatch.setattr(torch, "empty", empty)
    with pytest.raises(ValueError, match=r"encoder.safetensors (has|lacks)"):
        load(copied)
    assert {one.device.type for one in made} == {"meta"}


def outcome(folder):
    """Load a model, or return None if it is refused as a model."""
    try:
        return load(folder)
    except _folder.RefusedError:
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
