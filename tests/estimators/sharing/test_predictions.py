"""A classifier or a segmenter in a folder: what is told is the same, and nothing else gets in."""

import copy
import json
import pickle
import time

import numpy as np
import pytest
from folders import FILES, config_of, mutated, set_config, sign
from safetensors.torch import load_file, save_file
from sklearn.exceptions import NotFittedError

from otcxr_sk import OTCXRClassifier, OTCXRPretrainer, OTCXRSegmenter, Views
from otcxr_sk.estimators.sharing import _folder

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")

KINDS = [OTCXRClassifier, OTCXRSegmenter]


@pytest.fixture(scope="module")
def models(classifier, segmenter, X, y, masks, patients):
    """One of each kind, trained for an epoch."""
    parameters = {"epochs": 1, "views": Views(blur=1.5), "validation_fraction": 0.25}
    three = np.array(["effusion", "none", "other"])[np.arange(24) % 3]
    weights = {"effusion": 2.0, "none": 1.0, "other": 1.0}
    return {
        OTCXRClassifier: classifier(class_weight=weights, **parameters).fit(
            X, three, groups=patients
        ),
        OTCXRSegmenter: segmenter(**parameters).fit(X, masks, groups=patients),
    }


@pytest.fixture(params=KINDS)
def model(request, models):
    return copy.copy(models[request.param])


@pytest.fixture
def place(model, tmp_path):
    model.save_pretrained(tmp_path / "model", data="24 blobs.")
    return tmp_path / "model"


def load(model, place):
    return type(model).from_pretrained(place)


def test_a_loaded_model_tells_the_same(model, place, X):
    loaded = load(model, place)
    np.testing.assert_array_equal(loaded.predict_proba(X), model.predict_proba(X))
    np.testing.assert_array_equal(loaded.predict(X), model.predict(X))
    np.testing.assert_array_equal(loaded.pretrainer_.weights_, model.pretrainer_.weights_)
    for name in ("history_", "n_images_", "n_patients_"):
        assert getattr(loaded, name) == getattr(model, name)
    assert (loaded.skipped_, loaded.patients_) == ([], None)
    assert {file.name for file in place.iterdir()} == {*FILES, "head.safetensors"}


def test_its_parameters_are_those_of_before_and_its_pretrainer_is_not_fitted(model, place):
    loaded = load(model, place)
    given, expected = loaded.get_params(deep=False), model.get_params(deep=False)
    pretrainer, before = given.pop("pretrainer"), expected.pop("pretrainer")
    assert pretrainer.get_params() == before.get_params()
    assert not hasattr(pretrainer, "weights_")
    assert given.pop("views").get_params() == expected.pop("views").get_params()
    assert given == expected


def test_a_loaded_model_can_be_pickled_and_saved_again(model, place, tmp_path):
    loaded = pickle.loads(pickle.dumps(load(model, place)))
    loaded.save_pretrained(tmp_path / "again", data="24 blobs.")
    for name in ("config.json", "README.md"):
        assert (tmp_path / "again" / name).read_bytes() == (place / name).read_bytes()


def test_float16_rounds_what_is_told(model, X, tmp_path):
    model.save_pretrained(tmp_path / "model", "float16")
    loaded = load(model, tmp_path / "model")
    np.testing.assert_allclose(loaded.predict_proba(X), model.predict_proba(X), atol=0.05)


CLASSES = [
    np.array([0, 1]),
    np.array([-3, 0, 2**40]),
    np.array([7, 9], np.uint8),
    np.array([0.0, 1.0, 2.5], np.float32),
    np.array([False, True]),
    np.array(["", "b", "ü"]),
    np.array(["a", "bcd"], "U9"),
    np.array(["a", "b"], object),
    np.array([1, 2], ">i4"),
]


@pytest.mark.parametrize("classes", CLASSES, ids=repr)
def test_classes_come_back_with_their_dtype(models, classes, tmp_path):
    model = copy.copy(models[OTCXRClassifier])
    n = len(classes) if len(classes) > 2 else 1
    model.classes_, model.class_weight = classes, dict.fromkeys(classes.tolist(), 2.0)
    model.coef_, model.intercept_ = model.coef_[:n], model.intercept_[:n]
    model.save_pretrained(tmp_path / "model")
    loaded = load(model, tmp_path / "model")
    np.testing.assert_array_equal(loaded.classes_, classes, strict=True)
    assert loaded.class_weight == model.class_weight
    assert [type(one) for one in loaded.class_weight] == [type(one) for one in classes.tolist()]


@pytest.mark.parametrize(
    "classes",
    [
        np.array([b"a", b"b"]),
        np.array(["2020-01-01", "2021-01-01"], "M8[D]"),
        np.array([1, "b"], object),
        np.array(["a", "b" * 201]),
        np.array(["a", "b\n"]),
        np.array([0, 2**60]),
        np.array([1, 0]),
        np.array([0j, 1]),
    ],
    ids=repr,
)
def test_other_classes_are_not_shared_and_nothing_is_written(models, classes, tmp_path):
    model = copy.copy(models[OTCXRClassifier])
    model.classes_, model.coef_, model.intercept_ = classes, model.coef_[:1], model.intercept_[:1]
    with pytest.raises(ValueError, match=r"'classes'|'classes_dtype'"):
        model.save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_several_labels_and_several_structures_are_told_alike(
    classifier, segmenter, tiny, X, several, masks, tmp_path
):
    X, several, masks = X[:8], several[:8], masks[:8]
    start = tiny(epochs=0).fit(X)
    found = classifier(start, frozen=True).fit(X, several)
    found.save_pretrained(tmp_path / "labels")
    loaded = load(found, tmp_path / "labels")
    np.testing.assert_array_equal(loaded.predict_proba(X), found.predict_proba(X))
    assert "each of 2 findings" in (tmp_path / "labels" / "README.md").read_text()
    wide = np.stack([masks, ~masks], 1).repeat(2, 3)
    found = segmenter(start, frozen=True, epochs=1).fit(X, wide)
    found.save_pretrained(tmp_path / "masks")
    loaded = load(found, tmp_path / "masks")
    np.testing.assert_array_equal(loaded.predict_proba(X), found.predict_proba(X))
    assert loaded.predict(X).shape == wide.shape


def test_the_card_says_what_it_tells_and_what_it_was_trained_on(model, place):
    card = (place / "README.md").read_text()
    assert f"{type(model).__name__}.from_pretrained" in card
    assert "Trained without labels on 24 images of an unknown number of patients." in card
    assert "Trained with labels on 18 images of 9 patients." in card
    assert "24 blobs." in card
    told = "`effusion`, `none`, `other`" if isinstance(model, OTCXRClassifier) else "32 x 32 pixels"
    assert told in card
    name, text = {
        OTCXRClassifier: ("validation_auc", "mean AUC"),
        OTCXRSegmenter: ("validation_dice", "mean Dice coefficient"),
    }[type(model)]
    assert f"{text} of images held out | {model.history_[name][-1]:.6g}" in card


def test_what_belongs_to_a_machine_or_names_patients_is_not_in_it(classifier, tiny, X, y, tmp_path):
    start = tiny(epochs=0, on_error="nan", cache=tmp_path / "PLANTED")
    bad = X.copy()
    bad[3] = np.nan
    found = classifier(
        start, frozen=True, checkpoint=tmp_path / "PLANTED", random_state=np.random.RandomState(0)
    ).fit(bad, y, groups=[f"PLANTED-{row}" for row in range(24)])
    assert len(found.skipped_) == 1
    found.save_pretrained(tmp_path / "model")
    for file in (tmp_path / "model").iterdir():
        assert b"PLANTED" not in file.read_bytes()
        assert str(tmp_path).encode() not in file.read_bytes()


def test_only_what_is_fitted_is_saved(tmp_path):
    for kind in KINDS:
        with pytest.raises(NotFittedError):
            kind().save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_read_by_its_own_class_only(model, place, folder):
    others = {OTCXRPretrainer, *KINDS} - {type(model)}
    for kind in others:
        with pytest.raises(ValueError, match=f"'{type(model).__name__}', not {kind.__name__}"):
            kind.from_pretrained(place)
    with pytest.raises(ValueError, match="'OTCXRPretrainer', not"):
        type(model).from_pretrained(folder)


HOSTILE_VALUES = [
    ("", None, "fine_tuning"),
    ("", [1], "fine_tuning"),
    ("__learned", None, "learned"),
    ("__learned__shell", "rm", "has 'shell'"),
    ("__parameters__pretrainer", "/etc/passwd", "has 'pretrainer'"),
    ("__parameters__checkpoint", "/tmp", "has 'checkpoint'"),
    ("__parameters__epochs", -1, "epochs"),
    ("__parameters__epochs", True, "epochs"),
    ("__parameters__frozen", "yes", "frozen"),
    ("__parameters__optimizer", "evil", "optimizer"),
    ("__parameters__views", {"erase": 2}, "erase"),
    ("__history", {"loss": ["1"]}, "loss"),
    ("__n_images", -1, "n_images"),
    ("__n_patients", "12", "n_patients"),
    ("__n_features_in", 0, "n_features_in"),
]
OF_CLASSIFIERS = [
    ("__learned__classes", [], "classes"),
    ("__learned__classes", None, "classes"),
    ("__learned__classes", ["a", "b"], "head.safetensors has 'coef'"),
    ("__learned__classes", ["a", "b", "a"], "classes"),
    ("__learned__classes", ["a", "b", 3], "classes"),
    ("__learned__classes", [str(n) for n in range(10**5)], "classes"),
    ("__learned__classes", ["a", "b", "c" * 300], "classes"),
    ("__learned__classes_dtype", "<U1", "classes"),
    ("__learned__classes_dtype", "<U999999999", "classes_dtype"),
    ("__learned__classes_dtype", "<i8,<i8", "classes_dtype"),
    ("__learned__classes_dtype", "object", "classes_dtype"),
    ("__learned__classes_dtype", ["<U8"], "classes_dtype"),
    ("__learned__several", 1, "several"),
    ("__learned__several", True, "classes"),
    ("__parameters__class_weight", "heavy", "class_weight"),
    ("__parameters__class_weight", [[[], 1]], "class_weight"),
    ("__parameters__class_weight", [["a"]], "class_weight"),
    ("__parameters__class_weight", {"a": "b"}, "class_weight"),
]
OF_SEGMENTERS = [
    ("__learned__mask_shape", [32], "mask_shape"),
    ("__learned__mask_shape", [32, None], "mask_shape"),
    ("__learned__mask_shape", [32, 10**6], "mask_shape"),
    ("__learned__mask_shape", "32", "mask_shape"),
    ("__learned__n_structures", 0, "n_structures"),
    ("__learned__n_structures", 10**9, "n_structures"),
    ("__learned__n_structures", 2, "head.safetensors has 'head"),
]


@pytest.fixture(scope="module")
def places(models, tmp_path_factory):
    found = {kind: tmp_path_factory.mktemp("shared") / "model" for kind in KINDS}
    for kind, place in found.items():
        models[kind].save_pretrained(place)
    return found


@pytest.mark.parametrize(
    ("kind", "path", "value", "named"),
    [
        *[(kind, *one) for kind in KINDS for one in HOSTILE_VALUES],
        *[(OTCXRClassifier, *one) for one in OF_CLASSIFIERS],
        *[(OTCXRSegmenter, *one) for one in OF_SEGMENTERS],
    ],
    ids=lambda value: f"{getattr(value, '__name__', value)!s:.30}",
)
def test_a_value_that_was_not_written_is_refused(places, kind, path, value, named):
    config = (places[kind] / "config.json").read_text()
    try:
        set_config(places[kind], **{f"fine_tuning{path}": value})
        with pytest.raises(ValueError, match=named) as caught:
            kind.from_pretrained(places[kind])
    finally:
        (places[kind] / "config.json").write_text(config)
    assert "no model is loaded from" in str(caught.value)
    assert len(str(caught.value)) < 2000


def test_weights_of_another_head_are_refused(model, place):
    file = place / "head.safetensors"
    state = load_file(file)
    name = min(state)
    changes = {
        "surplus": {"extra": state[name].clone()},
        "shape": {name: state[name][None].clone()},
        "dtype": {name: state[name].half()},
        "nan": {name: state[name] * float("nan")},
    }
    for change in changes.values():
        save_file({**state, **change}, file)
        sign(place)
        with pytest.raises(ValueError, match=r"head\.safetensors has"):
            load(model, place)


def test_a_missing_head_is_named(model, place):
    (place / "head.safetensors").unlink()
    with pytest.raises(ValueError, match=r"no file head\.safetensors"):
        load(model, place)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:this model was saved by")
def test_a_signed_configuration_is_refused_or_makes_a_model(model, place, X):
    rng = np.random.default_rng(0)
    original = config_of(place)
    loaded = 0
    for _ in range(300):
        changed = {**original, "fine_tuning": mutated(original["fine_tuning"], rng)}
        (place / "config.json").write_text(json.dumps(changed))
        sign(place)
        began = time.monotonic()
        try:
            found = load(model, place)
        except _folder.RefusedError:
            continue
        finally:
            assert time.monotonic() - began < 10
        loaded += 1
        np.testing.assert_array_equal(found.pretrainer_.weights_, model.pretrainer_.weights_)
        assert np.isfinite(found.predict_proba(X[:2])).all()
    assert loaded > 20
