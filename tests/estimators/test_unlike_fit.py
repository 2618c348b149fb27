"""Images unlike those that `fit` saw: one instead of several, or values of another range."""

import pickle
import warnings
from copy import deepcopy

import numpy as np
import pandas as pd
import pytest
import torch
from joblib import parallel_config
from PIL import Image
from sklearn.base import clone
from sklearn.pipeline import make_pipeline

from otcxr_sk.estimators import ImageRangeWarning
from otcxr_sk.images import FITTED

USES = ["transform", "transform_dense", "score", "match", "partial_fit"]


@pytest.fixture(scope="module")
def files(X, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = [str(folder / f"{row}.png") for row in range(len(X))]
    for path, image in zip(paths, X, strict=True):
        Image.fromarray((255 * image.clip(0, 1)).astype(np.uint8)).save(path)
    return paths


@pytest.fixture(scope="module")
def on_stack(tiny, X):
    return tiny().fit(X)


@pytest.fixture(scope="module")
def on_files(tiny, files):
    return tiny().fit(files)


@pytest.fixture(scope="module")
def on_rows(tiny, X):
    return tiny().fit(X.reshape(len(X), -1))


ONE = {
    "array": lambda image: image,
    "list": np.ndarray.tolist,
    "tensor": torch.from_numpy,
    "data frame": pd.DataFrame,
    "row of pixels": np.ravel,
    "list of pixels": lambda image: image.ravel().tolist(),
}


@pytest.mark.parametrize("kind", ONE)
@pytest.mark.parametrize("use", USES)
def test_one_image_is_not_taken_for_rows_of_pixels(kind, use, on_stack, X):
    with pytest.raises(ValueError, match=r"pass one image as X\[np\.newaxis\]") as caught:
        getattr(deepcopy(on_stack), use)(ONE[kind](X[0]))
    assert "eshape" not in str(caught.value)


@pytest.mark.parametrize("fitted", ["on_stack", "on_files"])
def test_that_holds_for_every_kind_of_fit_and_for_copies(fitted, X, request):
    estimator = request.getfixturevalue(fitted)
    pipeline = make_pipeline(estimator)
    for copy in (estimator, deepcopy(estimator), pickle.loads(pickle.dumps(estimator)), pipeline):
        with pytest.raises(ValueError, match=r"X\[np\.newaxis\]"):
            copy.transform(X[0])
        assert copy.transform(X[0][np.newaxis]).shape == (1, 96)
    assert clone(estimator).fit(X.reshape(len(X), -1)).n_features_in_ == X[0].size


def test_the_last_fit_decides(tiny, X):
    rows = X.reshape(len(X), -1)
    estimator = tiny().fit(rows).fit(X)
    with pytest.raises(ValueError, match=r"X\[np\.newaxis\]"):
        estimator.transform(rows)
    assert estimator.fit(rows).transform(rows).shape == (len(X), 96)


def test_after_a_fit_on_rows_images_are_taken_too(on_rows, X, files):
    rows = on_rows.transform(X.reshape(len(X), -1))
    np.testing.assert_allclose(on_rows.transform(X), rows, rtol=1e-5, atol=1e-6)
    assert on_rows.transform(files).shape == rows.shape
    with pytest.raises(ValueError, match=r"X has 32 features, but .* 1024 features"):
        on_rows.transform(X[0])


def test_rows_are_taken_after_a_fit_on_images_where_their_shape_is_given(tiny, X):
    estimator = tiny(image_shape=(32, 32)).fit(X)
    rows = estimator.transform(X.reshape(len(X), -1))
    np.testing.assert_allclose(rows, estimator.transform(X), rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"X of shape \(32, 32\) .*X\[np\.newaxis\]"):
        estimator.transform(X[0])


@pytest.mark.parametrize("use", ["fit", *USES])
def test_one_image_with_channels_is_not_taken_for_many_narrow_ones(use, on_stack, X):
    color = np.repeat(X[0][..., np.newaxis], 3, axis=2)
    for image in (color, color[..., :1]):
        with pytest.raises(ValueError, match=r"would be 32 images of 32 x .*X\[np\.newaxis\]"):
            getattr(deepcopy(on_stack), use)(image)
    with pytest.raises(ValueError, match=r"one image; pass it in a list, \[X\]"):
        getattr(deepcopy(on_stack), use)(Image.fromarray(X[0].astype(np.float32)))


def heard(call, *args):
    """Messages of the warnings about ranges that a call gives."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call(*args)
    assert {warning.category for warning in caught} <= {ImageRangeWarning}
    assert all(warning.filename == __file__ for warning in caught)
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize("use", USES)
def test_values_of_another_range_are_told_of_once(use, on_stack, on_files, X, files):
    large = 255 * X.clip(0, 1)
    for X_, estimator in (
        (large, on_stack),
        (large.astype(int), on_files),
        (list(large), on_stack),
        (torch.from_numpy(large), on_stack),
    ):
        (message,) = heard(getattr(deepcopy(estimator), use), X_)
        assert f"24 of 24 images have values unlike {FITTED}" in message
        assert f"mean_ is {estimator.mean_:.3g} and std_ {estimator.std_:.3g}" in message
    assert not heard(getattr(deepcopy(on_stack), use), X)
    assert not heard(getattr(deepcopy(on_files), use), files)


def test_values_between_0_and_1_are_told_of_after_larger_ones(tiny, X, files):
    estimator = tiny(on_error="nan").fit(255 * X)
    for smaller in (X, files, X[:1], files[:1], X.astype(np.float16)):
        (message,) = heard(estimator.transform, smaller)
        assert message.startswith(f"{len(smaller)} of {len(smaller)} images")
    (message,) = heard(estimator.score, files)
    assert f"row 0, file {files[0]!r}" in message


@pytest.mark.parametrize("backend", ["threading", pytest.param("loky", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kind", ["files", "arrays"])
def test_workers_tell_the_same(backend, kind, tiny, X, files):
    estimator = tiny().fit(255 * X)
    images = files if kind == "files" else X
    expected = heard(estimator.transform, images)
    with parallel_config(backend, n_jobs=2):
        assert heard(estimator.transform, images) == expected != []
        assert not heard(estimator.transform, 255 * X)


def test_a_fit_on_two_ranges_is_told_of(tiny, X):
    mixed = X.copy()
    mixed[::2] *= 255
    (message,) = heard(tiny().fit, mixed)
    assert "12 of 24 images have values unlike all of them together, such as row 1:" in message
    (message,) = heard(tiny(num_workers=1, validation_fraction=0.5).fit, mixed)
    assert "such as row 1:" in message
    assert not heard(tiny().fit, X)


def test_images_that_cannot_be_used_and_constant_ones_tell_nothing(tiny, X):
    estimator = tiny(on_error="nan").fit(X + 5)
    broken = X + 5
    broken[3:12], broken[12:20] = np.nan, 0
    assert not heard(estimator.transform, broken)


def test_going_on_with_other_values_is_told_of(tiny, X):
    estimator = tiny(warm_start=True).fit(X)
    (message,) = heard(estimator.fit, 255 * X)
    assert FITTED in message
    assert not heard(estimator.set_params(warm_start=False).fit, 255 * X)
