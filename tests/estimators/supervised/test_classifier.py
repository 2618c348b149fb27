"""OTCXRClassifier: a linear probe, and the whole network trained on from there."""

from copy import copy

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.frozen import FrozenEstimator

from otcxr_sk import OTCXRClassifier, Views
from otcxr_sk.estimators.supervised._linear import (
    ClassifyingNetwork,
    Labels,
    Linear,
    mean_auc,
    weigh,
)
from otcxr_sk.estimators.supervised._training import calibrated
from otcxr_sk.evaluation import make_probe
from otcxr_sk.images import as_source
from otcxr_sk.method import build_encoder
from otcxr_sk.training import Callback, EarlyStopping


@pytest.mark.parametrize("classes", [2, 3])
def test_with_a_frozen_encoder_it_is_the_linear_probe_of_the_embedding(
    classes, classifier, fitted, X
):
    labels = np.array(["a", "b", "c"])[np.arange(24) % classes]
    found = classifier(frozen=True).fit(X, labels)
    embedding = fitted.transform(X)
    reference = make_probe().fit(embedding, labels)
    np.testing.assert_allclose(
        found.decision_function(X), reference.decision_function(embedding), atol=1e-4
    )
    np.testing.assert_allclose(
        found.predict_proba(X), reference.predict_proba(embedding), atol=1e-4
    )
    np.testing.assert_array_equal(found.predict(X), reference.predict(embedding))
    np.testing.assert_array_equal(found.pretrainer_.weights_, fitted.weights_)


def test_of_several_labels_each_is_probed_where_it_is_known(classifier, fitted, X, several):
    found = classifier(frozen=True).fit(X, several)
    known = ~np.isnan(several[:, 1])
    embedding = fitted.transform(X)
    scaler = make_probe()[0].fit(embedding)
    alone = make_probe()[1].fit(scaler.transform(embedding)[known], several[known, 1])
    expected = alone.predict_proba(scaler.transform(embedding))[:, 1]
    np.testing.assert_allclose(found.predict_proba(X)[:, 1], expected, atol=1e-4)


def test_a_label_may_be_unknown_in_any_way(classifier, X, several):
    expected = classifier(frozen=True).fit(X, several).predict_proba(X)
    for unknown in (None, pd.NA):
        labels = np.where(np.isnan(several), unknown, several)
        found = classifier(frozen=True).fit(X, labels).predict_proba(X)
        np.testing.assert_array_equal(found, expected)


def test_fine_tuning_learns_more_than_the_probe_and_changes_no_pretrainer(classifier, fitted, X, y):
    before = fitted.weights_.copy()
    tuned = classifier(epochs=5, learning_rate=1e-2).fit(X, y)
    frozen = classifier(frozen=True).fit(X, y)
    assert tuned.history_["cross_entropy"][-1] < tuned.history_["cross_entropy"][0]
    signs = 2 * y - 1
    assert (signs * tuned.decision_function(X)).mean() > (
        signs * frozen.decision_function(X)
    ).mean()
    np.testing.assert_array_equal(fitted.weights_, before)
    assert not np.array_equal(tuned.pretrainer_.weights_, before)
    scores = tuned.pretrainer_.transform(X) @ tuned.coef_[0] + tuned.intercept_[0]
    np.testing.assert_allclose(tuned.decision_function(X), scores)


def test_the_automatic_learning_rate_is_that_of_the_pretrainer(classifier, fitted, X, y):
    encoder = copy(fitted).set_params(learning_rate=0.003)
    auto, given = (
        classifier(pretrainer=encoder, learning_rate=rate).fit(X, y) for rate in ("auto", 0.003)
    )
    assert auto.history_ == given.history_


def test_a_pretrainer_that_is_not_fitted_is_fitted_first(classifier, tiny, X, y):
    X, y = X[:12], y[:12]
    alone = tiny().fit(X)
    found = classifier(tiny(), frozen=True).fit(X, y)
    np.testing.assert_array_equal(found.pretrainer_.weights_, alone.weights_)
    assert not hasattr(found.pretrainer, "weights_")


def test_a_clone_keeps_what_a_frozen_pretrainer_has_learned(classifier, fitted, X, y):
    found = clone(classifier(FrozenEstimator(fitted), frozen=True)).fit(X, y)
    np.testing.assert_array_equal(found.pretrainer_.weights_, fitted.weights_)


@pytest.mark.parametrize("bad", [[], [3, 20]])
def test_batch_norms_of_a_random_start_get_the_statistics_of_the_images(bad, tiny, X):
    start = tiny(epochs=0).fit(X)
    spoilt = X.copy()
    spoilt[bad] = np.nan
    source = as_source(spoilt)
    model = calibrated(start._encoder(), source, 0).load()
    norm = next(m for m in model.encoder.modules() if isinstance(m, torch.nn.BatchNorm2d))
    seen = []
    norm.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    images = torch.from_numpy(source.read(np.delete(np.arange(len(X)), bad), 32))
    with torch.inference_mode():
        model.encoder((images - start.mean_) / start.std_)
    torch.testing.assert_close(norm.running_mean, seen[0].mean((0, 2, 3)), atol=1e-5, rtol=1e-3)
    trained = tiny().fit(X[:8])._encoder()
    assert calibrated(trained, source, 0) is trained


def test_the_weights_of_the_best_epoch_are_kept(classifier, X, y, patients):
    stopping = EarlyStopping("validation_auc", patience=2)
    parameters = {"epochs": 4, "learning_rate": 0.02, "validation_fraction": 0.4}
    found = classifier(callbacks=[stopping], **parameters).fit(X, y, groups=patients)
    best = stopping.best_epoch(found.history_)
    assert len(found.history_["validation_auc"]) <= 4
    until = [len(found.history_["loss"])]

    class Last(Callback):
        def on_epoch_end(self, state):
            if state.epoch == best:
                until.append(state.estimator().coef_)

    classifier(callbacks=[Last()], **parameters).fit(X, y, groups=patients)
    np.testing.assert_array_equal(found.coef_, until[1])


@given(
    values=st.lists(st.integers(0, 2), min_size=3, max_size=12),
    heavy=st.integers(0, 2),
)
def test_a_class_of_twice_the_weight_counts_as_its_images_twice(values, heavy):
    values = np.array([0, 1, 2, *values])
    weights = np.where(np.arange(3) == heavy, 2.0, 1.0)
    classify = object.__new__(ClassifyingNetwork)
    torch.nn.Module.__init__(classify)
    classify.softmax, classify.weights = True, torch.from_numpy(weights)
    scores = torch.randn(len(values), 3, generator=torch.Generator().manual_seed(0))
    (weighted,) = classify.losses(scores, torch.from_numpy(values))
    twice = np.repeat(np.arange(len(values)), weights[values].astype(int))
    plain = torch.nn.functional.cross_entropy(scores[twice], torch.from_numpy(values[twice]))
    torch.testing.assert_close(weighted.float(), plain)


def test_balanced_weights_are_inverse_to_the_frequency_of_each_label():
    y = np.array([[1, 0], [0, 0], [0, np.nan], [0, 1]])
    np.testing.assert_allclose(weigh(y, 2, "balanced"), [[2 / 3, 2], [0.75, 1.5]])


@given(known=st.lists(st.booleans(), min_size=4, max_size=9).filter(any))
def test_unknown_labels_count_nothing(known):
    known = torch.tensor(known)
    classify = object.__new__(ClassifyingNetwork)
    torch.nn.Module.__init__(classify)
    classify.softmax, classify.weights = False, torch.ones(1, 2)
    scores = torch.randn(len(known), 1, generator=torch.Generator().manual_seed(0))
    labels = torch.where(known, 1.0, torch.nan)[:, None]
    (loss,), (alone,) = (classify.losses(scores[rows], labels[rows]) for rows in (..., known))
    torch.testing.assert_close(loss, alone)


def rates_of(encoder, width):
    """Return the rates of a network with a linear classifier, by group of parameters."""
    linear = Linear(np.zeros(width), np.ones(width), np.zeros((1, width)), np.zeros(1))
    labels = Labels(np.array([0, 1]), 2, np.ones(2))
    network = ClassifyingNetwork(encoder, linear, labels, layer_decay=0.5)
    return [group.get("lr_scale", 1.0) for group in network.parameter_groups(1.0)]


def test_layers_further_down_learn_more_slowly(fitted):
    rates = rates_of(fitted.to_torch(), fitted.embedding_dim_)
    assert rates == sorted(rates)
    assert rates[0] < rates[-1] == 1.0


@pytest.mark.parametrize("module", [torch.nn.Conv2d(1, 4, 8, stride=8), torch.nn.AvgPool2d(8)])
def test_an_encoder_that_is_a_module_learns_as_a_whole(module, caplog):
    encoder = build_encoder(module, size=32, match_stride=8)
    assert set(rates_of(encoder, encoder.last_shape[0])) == {1.0}
    assert not caplog.records


def test_the_mean_auc_is_that_of_each_class_against_the_others():
    scores = torch.tensor([[2.0, 1, 0], [0, 2, 1], [0, 1, 2], [1, 0, 2]])
    assert mean_auc(scores, torch.tensor([0, 1, 2, 2])) == 1.0
    assert np.isnan(mean_auc(scores[:, :1], torch.tensor([1, 1, 1, 1])))
    unknown = torch.tensor([[1.0], [torch.nan], [0.0], [0.0]])
    assert mean_auc(torch.tensor([[1.0], [9.0], [0.0], [2.0]]), unknown) == 0.5


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda y: y[:-1], r"\[24, 23\], images and labels"),
        (lambda y: 0 * y, "y has only one class, 0; at least two are needed"),
        (lambda y: None, "requires y to be passed"),
        (lambda y: np.column_stack([y, 2 * y]), "0, 1 or NaN in every column"),
        (lambda y: [*([0, 1] for _ in y[1:]), [0, "ill"]], "row 23 of column 1 is ill"),
        (lambda y: np.column_stack([y, np.full(24, np.nan)]), "column 1 of y is NaN for every"),
        (lambda y: np.where(y, 0.5, 0.7), "Unknown label type"),
        (lambda y: ["ill", pd.NA, *y[2:].astype(str)], "y has no class in row 1; leave out"),
        (lambda y: ["ill", None, *y[2:].astype(str)], "y has no class in row 1; leave out"),
    ],
)
def test_labels_that_cannot_be_used_are_named_before_any_training(wrong, message, tiny, X, y):
    classifier = OTCXRClassifier(tiny(epochs=10**6))
    with pytest.raises(ValueError, match=message):
        classifier.fit(X, wrong(y))


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"class_weight": {7: 1.0}}, "class_weight names 7, which is no class of y"),
        ({"layer_decay": 0.0}, "layer_decay"),
        ({"views__crop_scale": (1.0, 0.5)}, "crop_scale must be"),
        ({"callbacks": [EarlyStopping("validation_auc")]}, "no images are held out"),
        ({"validation_fraction": 0.95}, "lack a class|leaves|none to train"),
    ],
)
def test_parameters_that_cannot_be_used_are_named(parameters, message, classifier, X, y, patients):
    found = classifier()
    if any("views" in name for name in parameters):
        found.set_params(views=Views())
    with pytest.raises(ValueError, match=message):
        found.set_params(**parameters).fit(X, y, groups=patients)


def test_an_image_that_cannot_be_used_has_no_class_and_unknown_probabilities(
    classifier, tiny, X, y
):
    X = X.copy()
    found = classifier(tiny(on_error="nan", epochs=0), frozen=True).fit(X, y)
    X[3] = np.nan
    assert np.isnan(found.predict_proba(X)[3]).all()
    assert np.isfinite(np.delete(found.predict_proba(X), 3, 0)).all()
    with pytest.raises(ValueError, match="the first in row 3"):
        found.predict(X)
    again = classifier(tiny(on_error="nan", epochs=0), frozen=True).fit(X, y)
    assert [problem["row"] for problem in again.skipped_] == [3]
