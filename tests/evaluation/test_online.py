import copy
import warnings

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, StratifiedGroupKFold

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.evaluation import KNNProbe, knn_probe


class State:
    """A run at the end of an epoch, with an encoder that returns its input."""

    def __init__(self, epoch, epochs=10, is_main_process=True):
        self.epoch, self.epochs, self.history = epoch, epochs, {}
        self.is_main_process = is_main_process

    def estimator(self):
        return self

    def transform(self, X):
        return X

    def record(self, name, number):
        self.history[name] = number


@pytest.mark.parametrize("labels", ["classes", "labels"])
def test_the_recorded_auc_is_the_mean_of_a_cross_validation_by_patient(labels, study):
    y = getattr(study, labels)
    splitter = StratifiedGroupKFold(5) if labels == "classes" else GroupKFold(5)
    parts = list(splitter.split(study.Z, y, study.patients))
    for train, test in parts:
        assert not set(study.patients[train]) & set(study.patients[test])
    expected = [
        knn_probe(study.Z, y, study.patients, train=train, test=test) for train, test in parts
    ]
    state = State(1)
    KNNProbe(study.Z, y, study.patients, name="mine").on_epoch_end(state)
    assert state.history == {"mine": pytest.approx(np.mean(expected))}


def test_unknown_labels_are_left_out(study):
    y = study.labels[:, 0].copy()
    y[::7] = np.nan
    state = State(1)
    KNNProbe(study.Z, y, study.patients).on_epoch_end(state)
    assert 0.5 < state.history["knn_probe"] < 1


def test_without_groups_every_image_is_its_own_patient(study):
    state = State(1)
    # Without groups, two equal images of a patient can fall on both sides of a fold.
    twins = np.repeat(np.random.default_rng(0).normal(size=(100, 6)), 2, axis=0)
    y = np.repeat(np.arange(100) % 2, 2)
    KNNProbe(twins, y).on_epoch_end(state)
    by_patient = State(1)
    KNNProbe(twins, y, study.patients).on_epoch_end(by_patient)
    assert state.history["knn_probe"] > by_patient.history["knn_probe"] + 0.2


def test_the_probe_runs_every_few_epochs_and_after_the_last(study):
    probe = KNNProbe(study.Z, study.classes, every=4)
    states = [State(epoch) for epoch in range(1, 11)]
    for state in states:
        probe.on_epoch_end(state)
    assert [state.epoch for state in states if state.history] == [4, 8, 10]


def test_a_copy_does_not_copy_the_images(study):
    probe = KNNProbe(study.Z, study.classes)
    assert copy.deepcopy([probe])[0].X is study.Z
    assert repr(probe) == "KNNProbe(every=1, name='knn_probe')"


def test_the_probe_sees_the_current_encoder_and_does_not_change_training(study):
    X = np.random.default_rng(0).random((40, 32, 32), np.float32)
    y = np.arange(40) % 2
    probe = KNNProbe(X, y)
    settings = {"image_size": 32, "epochs": 2, "batch_size": 8, "random_state": 0}
    fitted = OTCXRPretrainer("test_resnet", callbacks=[probe], **settings).fit(X)
    last = State(1)
    KNNProbe(fitted.transform(X), y).on_epoch_end(last)
    assert fitted.history_["knn_probe"][-1] == last.history["knn_probe"]
    plain = OTCXRPretrainer("test_resnet", **settings).fit(X)
    np.testing.assert_array_equal(fitted.weights_, plain.weights_)


def test_an_image_that_cannot_be_used_is_left_out(study):
    """With the estimator's on_error="nan", its row of the embedding is NaN."""
    Z = study.Z.copy()
    Z[[0, 77]] = np.nan
    state, expected = State(1), []
    KNNProbe(Z, study.classes, study.patients).on_epoch_end(state)
    folds = StratifiedGroupKFold(5).split(study.Z, study.classes, study.patients)
    for parts in folds:
        train, test = (np.setdiff1d(rows, [0, 77]) for rows in parts)
        expected.append(knn_probe(study.Z, study.classes, study.patients, train=train, test=test))
    assert state.history == {"knn_probe": pytest.approx(np.mean(expected))}
    Z[study.classes != 1] = np.nan
    with pytest.warns(UserWarning, match="knn_probe is NaN after epoch 1: y must have the same"):
        KNNProbe(Z, study.classes, study.patients).on_epoch_end(state)
    assert np.isnan(state.history["knn_probe"])
    other = State(1, is_main_process=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        KNNProbe(Z, study.classes, study.patients).on_epoch_end(other)
    assert np.isnan(other.history["knn_probe"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((np.zeros((9, 2)), np.arange(10) % 2), "KNNProbe got 9 images but labels of 10"),
        (
            (np.zeros((10, 2)), np.zeros(10)),
            "KNNProbe cannot run a 5-fold cross-validation.*two or more classes",
        ),
        (
            (np.zeros((10, 2)), np.arange(10) % 2, np.arange(10) % 3),
            "by patient: there must be at least 5 patients, got 3",
        ),
        (
            (np.zeros((4, 2)), np.arange(4) % 2),
            "cannot run a 5-fold .*: there must be at least 5 patients, got 4",
        ),
        ((np.zeros((9, 2)), ["a"] * 5 + ["b"] * 4), "by patient: class b has only 4 images"),
        ((np.zeros((10, 2)), np.arange(10) % 2, None, 0), "every must be at least 1 epoch"),
    ],
)
def test_invalid_arguments_are_refused_when_the_probe_is_made(arguments, words):
    with pytest.raises(ValueError, match=words):
        KNNProbe(*arguments)
