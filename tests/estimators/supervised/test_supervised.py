"""What classifiers and segmenters have in common: seeds, runs, pretrainers and patients."""

import pickle
from copy import copy

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from otcxr_sk.datasets import check_leakage
from otcxr_sk.estimators._parameters import Settings
from otcxr_sk.estimators.supervised._training import count_epochs

NEW = np.array([77, 78])


@pytest.fixture(scope="module", params=["classifier", "segmenter"])
def make(request):
    return request.getfixturevalue(request.param)


@pytest.fixture(scope="module")
def labels(make, request, several, masks):
    return several if make is request.getfixturevalue("classifier") else masks


@pytest.fixture(scope="module")
def tuned(make, X, labels):
    return make().fit(X, labels)


def test_the_same_seed_tells_the_same_and_so_do_pickles(make, tuned, X, labels):
    told = tuned.predict_proba(X)
    np.testing.assert_array_equal(make().fit(X, labels).predict_proba(X), told)
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(tuned)).predict_proba(X), told)


@pytest.mark.parametrize(("n", "expected"), [(1, 300), (32, 300), (33, 150), (3200, 10)])
def test_few_images_are_shown_more_often(n, expected):
    settings = Settings(epochs="auto", batch_size=32, validation_fraction=0.0)
    assert count_epochs(settings, n) == expected
    halved = Settings(epochs="auto", batch_size=32, validation_fraction=0.5)
    assert count_epochs(halved, 2 * n) == expected


def test_a_run_has_the_epochs_that_its_images_need(make, X, labels, monkeypatch):
    monkeypatch.setattr("otcxr_sk.estimators.supervised._training.STEPS", 12)
    monkeypatch.setattr("otcxr_sk.estimators.supervised._training.LEAST_EPOCHS", 1)
    few = make(epochs="auto", batch_size=len(X) // 2).fit(X, labels)
    assert len(few.history_["loss"]) == 6
    assert few.epochs == "auto"


def test_images_none_of_which_can_be_used_are_told(make, tiny, X, labels):
    found = make(tiny(on_error="nan", epochs=0).fit(X), epochs="auto")
    with pytest.raises(ValueError, match=r"no image that has a label can be used; row 0.*NaN"):
        found.fit(np.full_like(X, np.nan), labels)


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(
    make, tuned, X, labels, stop, tmp_path
):
    with pytest.raises(KeyboardInterrupt):
        make(checkpoint=tmp_path, callbacks=[stop]).fit(X, labels)
    assert list(tmp_path.glob("checkpoint-*"))
    resumed = make(checkpoint=tmp_path).fit(X, labels)
    np.testing.assert_array_equal(resumed.predict_proba(X), tuned.predict_proba(X))
    with pytest.raises(ValueError, match="holds another run: labels is"):
        make(checkpoint=tmp_path).fit(X, labels[::-1])


def test_a_run_from_another_start_is_another_run(make, tuned, fitted, X, labels, tmp_path):
    make(checkpoint=tmp_path).fit(X, labels)
    others = {name: copy(fitted) for name in ("precision", "mean", "resize")}
    others["precision"].set_params(precision="bfloat16")
    others["mean"].mean_ += 1.0
    others["resize"]._architecture = {**fitted._architecture, "resize": "pad"}
    for name, other in others.items():
        with pytest.raises(ValueError, match=f"holds another run: {name} is .* there and .* here"):
            make(other, checkpoint=tmp_path).fit(X, labels)
    again = make(copy(fitted), checkpoint=tmp_path).fit(X, labels)
    np.testing.assert_array_equal(again.predict_proba(X), tuned.predict_proba(X))


def test_one_image_is_too_few_to_train_on(make, tiny, X, several, masks, request):
    start, images, labels = tiny(on_error="nan", epochs=0).fit(X), X.copy(), masks
    if make is request.getfixturevalue("classifier"):
        labels = np.where(np.arange(24)[:, None] == 7, several, np.nan)
    else:
        images[1:] = np.nan
    with pytest.raises(ValueError, match="a single image that has a label can be used"):
        make(start).fit(images, labels)


def test_a_shared_pretrainer_is_named_by_its_folder(make, folder, X, labels, tuned):
    found = clone(make(folder)).fit(X, labels)
    np.testing.assert_array_equal(found.predict_proba(X), tuned.predict_proba(X))
    assert found.get_params()["pretrainer"] == folder
    assert clone(make(str(folder))).pretrainer == str(folder)


def test_a_folder_that_holds_no_pretrainer_is_named_before_anything_is_read(make, tmp_path):
    with pytest.raises(ValueError, match=r"no model is loaded from .*nowhere"):
        make(tmp_path / "nowhere").fit(["no image"], None)
    with pytest.raises(ValueError, match="pretrainer"):
        make(7).fit(["no image"], None)


@pytest.fixture(scope="module")
def of_some(tiny, X, patients):
    """A pretrainer that knows the patients of the first eight images."""
    return tiny().fit(X[:8], groups=patients[:8])


def test_patients_of_both_trainings_are_known(make, of_some, X, labels, patients):
    found = make(of_some, epochs=1, validation_fraction=0.25)
    found.fit(X[8:], labels[8:], groups=patients[8:])
    assert found.seen(patients, held_out=True).all()
    trained = found.seen(patients)
    assert trained.tolist()[:8] == [True] * 8
    assert found.n_images_ == trained[8:].sum() == 12
    assert found.n_patients_ == 6
    assert not found.seen(NEW, held_out=True).any()
    np.testing.assert_array_equal(found.pretrainer_.seen(patients), trained)
    assert not of_some.seen(patients[8:], held_out=True).any()
    with pytest.warns(UserWarning, match="10 patients of .*test"):
        check_leakage(patients, np.where(patients < 0, "train", "test"), seen=trained)
    told = found.predict_proba(X)
    lean = pickle.loads(pickle.dumps(found)).forget_patients()
    for one in (lean, lean.pretrainer_):
        with pytest.raises(ValueError, match="knows no patients"):
            one.seen(patients)
    np.testing.assert_array_equal(lean.predict_proba(X), told)


def test_patients_are_counted_as_they_are_known(make, tiny, X, labels):
    ids = ["7", "007"] * 12
    found = make(tiny(epochs=0), frozen=True, epochs=1).fit(X, labels, groups=ids)
    assert found.n_patients_ == 1


@pytest.mark.parametrize("kept", [lambda one: one, FrozenEstimator])
def test_who_forgets_passes_on_nobody_of_what_it_started_from(
    make, of_some, tiny, X, labels, patients, kept
):
    base = kept(tiny(epochs=0, weights=of_some).fit(X, groups=patients))
    lean = make(base, frozen=True, epochs=1).fit(X, labels, groups=patients).forget_patients()
    dumped = pickle.dumps(lean)
    assert of_some.patients_["salt"].encode() not in dumped
    assert base.seen(patients).sum() == 8
    assert isinstance(pickle.loads(dumped).pretrainer, type(base))


def test_an_encoder_that_stays_as_it_is_has_seen_nobody_else(make, of_some, X, labels, patients):
    found = make(of_some, frozen=True, epochs=1).fit(X, labels, groups=patients)
    assert found.seen(patients).all()
    assert found.pretrainer_.seen(patients).sum() == 8


def test_training_without_groups_is_told(make, tuned, of_some, X, labels, patients):
    assert tuned.patients_ is None
    assert tuned.n_patients_ is None
    found = make(of_some, frozen=True, epochs=1).fit(X, labels)
    with pytest.warns(UserWarning, match="without groups"):
        assert found.seen(patients).sum() == 8
    assert (found.n_images_, found.n_patients_) == (24, None)


def test_patients_whose_labels_are_unknown_were_not_seen(classifier, tiny, X, several, patients):
    unknown = several.copy()
    unknown[:4] = np.nan
    found = classifier(tiny(epochs=0), frozen=True).fit(X, unknown, groups=patients)
    assert found.seen(patients).tolist() == [False] * 4 + [True] * 20
    assert (found.n_images_, found.n_patients_) == (20, 10)
