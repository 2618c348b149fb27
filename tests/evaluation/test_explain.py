"""Contributions of regions: exact sums, checked against the classifier's own score."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.decomposition import PCA, KernelPCA
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import (
    MinMaxScaler,
    Normalizer,
    PowerTransformer,
    QuantileTransformer,
    StandardScaler,
)
from sklearn.svm import SVC

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.evaluation import explain, make_probe

RANDOM = np.random.default_rng(0)
X = RANDOM.uniform(size=(18, 32, 48)).astype(np.float32)
Y = np.arange(18) % 3


@pytest.fixture(scope="module")
def encoder():
    made = OTCXRPretrainer("test_resnet", image_size=64, epochs=0, random_state=0, on_error="nan")
    return made.fit(X)


@pytest.fixture(scope="module")
def fit(encoder):
    """Fit a classifier on embeddings and join it to their encoder."""
    Z = encoder.transform(X)

    def joined(classifier, y):
        return make_pipeline(encoder, clone(classifier).fit(Z, y))

    return joined


@pytest.mark.parametrize("y", [Y % 2, Y], ids=["two classes", "three classes"])
@pytest.mark.parametrize(
    "classifier",
    [
        LogisticRegression(),
        RidgeClassifier(),
        make_probe(),
        make_pipeline(StandardScaler(), "passthrough", PCA(4, whiten=True), LogisticRegression()),
        make_pipeline(
            ColumnTransformer([("a", StandardScaler(), [0, 1]), ("b", MinMaxScaler(), [5])]),
            LogisticRegression(),
        ),
        OneVsRestClassifier(LogisticRegression()),
    ],
    ids=["logistic", "ridge", "probe", "whitened", "columns", "one against the rest"],
)
def test_contributions_and_intercept_sum_to_the_score(fit, classifier, y):
    model = fit(classifier, y)
    found = explain(model, X)
    assert found.contributions.shape[:3] == (18, 2, 2)
    total = found.contributions.sum((1, 2)) + found.intercept
    np.testing.assert_allclose(total, model.decision_function(X), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(found.score, total)


def test_a_pipeline_that_was_fitted_as_one_is_explained_as_it_is(encoder):
    model = make_pipeline(clone(encoder), StandardScaler(), LogisticRegression()).fit(X, Y)
    found = explain(model, X)
    np.testing.assert_allclose(found.score, model.decision_function(X), rtol=0, atol=1e-4)
    assert found.classes.tolist() == [0, 1, 2]


def test_permuted_classes_have_permuted_contributions(fit):
    names = np.array(["c", "a", "b"])
    numbers, letters = (explain(fit(RidgeClassifier(), y), X) for y in (Y, names[Y]))
    order = names.argsort()
    np.testing.assert_allclose(
        letters.contributions, numbers.contributions[..., order], rtol=1e-5, atol=1e-9
    )
    np.testing.assert_allclose(letters.intercept, numbers.intercept[order])


def test_the_other_of_two_classes_has_the_opposite_contributions(fit):
    one, other = (explain(fit(RidgeClassifier(), y), X) for y in (Y % 2, 1 - Y % 2))
    np.testing.assert_allclose(one.contributions, -other.contributions, rtol=1e-5, atol=1e-9)


def test_a_place_contributes_its_vector_times_the_weights(fit, encoder):
    model = fit(LogisticRegression(), Y % 2)
    expected = encoder.transform_dense(X) @ model[-1].coef_[0] / 4
    found = explain(model, X)
    np.testing.assert_allclose(found.contributions, expected, rtol=1e-4, atol=1e-7)
    np.testing.assert_allclose(found.intercept, model[-1].intercept_[0])


def test_an_image_that_cannot_be_used_has_no_contributions(fit):
    broken = X.copy()
    broken[1, 0, 0] = np.nan
    found = explain(fit(LogisticRegression(), Y), broken)
    assert np.isnan(found.contributions[1]).all()
    assert np.isfinite(found.contributions[[0, 2]]).all()
    assert np.isnan(explain(fit(LogisticRegression(), Y), broken[1:2]).score).all()


def test_a_step_fitted_on_data_frames_is_explained_without_a_warning(encoder):
    model = make_pipeline(clone(encoder), StandardScaler(), LogisticRegression())
    model = model.set_output(transform="pandas").fit(X, Y)
    found = explain(model, X)
    np.testing.assert_allclose(found.score, model.decision_function(X), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("classifier", "name"),
    [
        (make_pipeline(Normalizer(), LogisticRegression()), "Normalizer"),
        (
            make_pipeline(StandardScaler(), MinMaxScaler(clip=True), RidgeClassifier()),
            "MinMaxScaler",
        ),
        (
            make_pipeline(QuantileTransformer(n_quantiles=10), RidgeClassifier()),
            "QuantileTransformer",
        ),
        (make_pipeline(KernelPCA(4, kernel="cosine"), RidgeClassifier()), "KernelPCA"),
        (make_pipeline(PowerTransformer(), RidgeClassifier()), "PowerTransformer"),
    ],
)
def test_a_step_that_is_not_affine_is_refused_by_name_before_images_are_read(fit, classifier, name):
    model = fit(classifier, Y % 2)
    with pytest.raises(ValueError, match=rf"the step '{name.lower()}' \({name}\) is not affine"):
        explain(model, ["no-such-file.png"])


def test_a_kernel_is_refused_by_its_values_near_the_images(fit):
    for classifier in (SVC(), make_pipeline(KernelPCA(4, kernel="rbf"), RidgeClassifier())):
        with pytest.raises(ValueError, match=r"\((SVC|KernelPCA)\) is not affine"):
            explain(fit(classifier, Y % 2), X)
    linear = fit(SVC(kernel="linear"), Y % 2)
    np.testing.assert_allclose(explain(linear, X).score, linear.decision_function(X), atol=1e-4)


def test_what_is_no_pipeline_of_encoder_and_classifier_is_refused(encoder, fit):
    model = fit(LogisticRegression(), Y)
    with pytest.raises(TypeError, match=r"must be a Pipeline .* got LogisticRegression"):
        explain(model[-1], X)
    with pytest.raises(TypeError, match="best_estimator_"):
        explain(GridSearchCV(model, {}), X)
    with pytest.raises(TypeError, match="first step must be an OTCXRPretrainer"):
        explain(make_probe().fit(X[:, 0], Y), X)
    with pytest.raises(
        TypeError, match=r"\(RandomForestClassifier\), which has no decision_function"
    ):
        explain(fit(RandomForestClassifier(2), Y), X)
    with pytest.raises(NotFittedError, match="'logisticregression' is not fitted"):
        explain(make_pipeline(encoder, LogisticRegression()), X)
