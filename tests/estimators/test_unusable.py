"""Images that cannot be used: left out of training, rows of NaN, and always reported."""

import copy
import pickle
import re
import warnings

import numpy as np
import pandas as pd
import pytest
import skops.io
from PIL import Image
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

from otcxr_sk.estimators import UnusableImageWarning
from otcxr_sk.images import ImageReadError

N = 12
BROKEN = {2: "no such file", 5: "cut short|damaged", 11: "not a DICOM"}
GOOD = np.setdiff1d(np.arange(N), list(BROKEN))


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    images = np.random.default_rng(0).integers(0, 256, (N, 40, 30), dtype=np.uint8)
    files = [str(folder / f"{row:02}.png") for row in range(N)]
    for row, (file, image) in enumerate(zip(files, images, strict=True)):
        if row != 2:
            Image.fromarray(image).save(file)
    with open(files[5], "r+b") as file:
        file.truncate(500)
    with open(files[11], "wb") as file:
        file.write(b"no image" * 20)
    return np.array(files)


@pytest.fixture(scope="module")
def lenient(tiny, paths):
    return tiny(on_error="nan", batch_size=4).fit(paths)


def assert_listed(table, paths):
    assert [problem["row"] for problem in table] == list(BROKEN)
    for problem in table:
        assert problem["file"] == paths[problem["row"]]
        assert re.search(BROKEN[problem["row"]], problem["reason"])
        assert problem["file"] not in problem["reason"]


def test_fit_learns_from_the_usable_images_only(lenient, tiny, paths):
    assert_listed(lenient.skipped_, paths)
    others = tiny(batch_size=4).fit(paths[GOOD])
    assert others.skipped_ == []
    np.testing.assert_array_equal(lenient.weights_, others.weights_)
    assert (lenient.mean_, lenient.std_) == pytest.approx((others.mean_, others.std_), rel=1e-9)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("batch_size", [2, 5, 100])
def test_rows_of_nan_keep_the_others_in_their_place(lenient, paths, batch_size, num_workers):
    settings = {"batch_size": batch_size, "num_workers": num_workers}
    estimator = pickle.loads(pickle.dumps(lenient)).set_params(**settings)
    embedding = estimator.transform(paths)
    assert np.isnan(embedding[list(BROKEN)]).all()
    expected = estimator.transform(paths[GOOD])
    np.testing.assert_allclose(embedding[GOOD], expected, rtol=1e-4, atol=1e-6)
    assert np.isfinite(expected).all()
    assert estimator.last_unusable == []
    dense = estimator.transform_dense(paths)
    assert_listed(estimator.last_unusable, paths)
    np.testing.assert_allclose(dense.mean((1, 2)), embedding, rtol=1e-4, atol=1e-6)


def test_warnings_come_only_if_wanted(lenient, paths, tiny):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lenient.transform(paths)
    warning = pickle.loads(pickle.dumps(lenient)).set_params(on_error="warn")
    for method, fate in {"transform": "NaN", "score": "left out of the score"}.items():
        with pytest.warns(UnusableImageWarning, match=f"(?s)3 of 12 images .*{fate}") as caught:
            getattr(warning, method)(paths)
        assert all(paths[row] in str(caught[0].message) for row in BROKEN)
        assert_listed(warning.last_unusable, paths)
    with pytest.warns(UnusableImageWarning, match=r"(?s)3 of 12 .*left out of training"):
        tiny(on_error="warn", batch_size=4).fit(paths)


def test_score_is_that_of_the_usable_images(lenient, paths):
    assert lenient.score(paths) == lenient.score(paths[GOOD])


@pytest.mark.parametrize("method", ["transform", "transform_dense", "score"])
def test_last_unusable_lists_what_the_last_call_could_not_use(method, lenient, paths):
    estimator = pickle.loads(pickle.dumps(lenient))
    with pytest.raises(AttributeError, match="after transform"):
        _ = estimator.last_unusable
    getattr(estimator, method)(paths)
    assert_listed(estimator.last_unusable, paths)
    getattr(estimator, method)(paths[GOOD])
    assert estimator.last_unusable == []


def test_last_unusable_is_not_copied_or_pickled(lenient, paths):
    estimator = pickle.loads(pickle.dumps(lenient))
    estimator.transform(paths)
    assert_listed(estimator.last_unusable, paths)
    for other in (
        pickle.loads(pickle.dumps(estimator)),
        copy.deepcopy(estimator),
        clone(estimator),
    ):
        assert not hasattr(other, "last_unusable")


def test_last_unusable_is_empty_when_all_images_can_be_used(tiny, X):
    estimator = tiny().fit(X)
    assert not hasattr(estimator, "last_unusable")
    for method in ("transform", "score"):
        getattr(estimator, method)(X)
        assert estimator.last_unusable == []


def test_frames_keep_their_rows(lenient, paths):
    X = pd.Series(paths, index=range(50, 50 + N))
    estimator = pickle.loads(pickle.dumps(lenient)).set_output(transform="pandas")
    frame = estimator.transform(X)
    assert list(frame.index) == list(X.index)
    assert list(frame.index[frame.isna().all(axis=1)]) == [50 + row for row in BROKEN]
    fitted_and_transformed = estimator.fit_transform(X)
    pd.testing.assert_frame_equal(fitted_and_transformed, frame, rtol=1e-4)


def test_a_missing_path_is_a_row_of_nan(lenient, paths):
    for missing in (None, np.nan, pd.NA, pd.NaT):
        embedding = lenient.transform(pd.Series([paths[0], missing, paths[1]], dtype=object))
        assert np.isnan(embedding).all(axis=1).tolist() == [False, True, False]
        assert lenient.last_unusable == [
            {"row": 1, "file": None, "reason": "row 1: there is no path"}
        ]
    with pytest.raises(ValueError, match="row 1 is 3, not the path"):
        lenient.transform([paths[0], 3])


def test_rows_of_arrays_are_treated_alike(tiny, X):
    X = X.copy()
    X[3, 4, 5], X[7] = np.nan, 0.5
    estimator = tiny(on_error="nan").fit(X)
    assert [(p["row"], p["file"]) for p in estimator.skipped_] == [(3, None), (7, None)]
    assert "NaN" in estimator.skipped_[0]["reason"]
    assert "constant" in estimator.skipped_[1]["reason"]
    others = tiny().fit(np.delete(X, [3, 7], axis=0))
    np.testing.assert_array_equal(estimator.weights_, others.weights_)
    # Nothing can be learnt from a constant image, but it has an embedding.
    missing = np.isnan(estimator.transform(X)).all(axis=1)
    assert np.flatnonzero(missing).tolist() == [3]
    estimator.set_params(image_shape=X[0].shape)
    rows = estimator.transform(X.reshape(len(X), -1))
    assert np.flatnonzero(np.isnan(rows).all(axis=1)).tolist() == [3]


def test_fit_needs_two_usable_images(tiny, paths):
    with pytest.raises(ValueError, match=r"(?s)found 1 sample.* 3 of 4 images cannot be used"):
        tiny(on_error="nan").fit(paths[[0, *BROKEN]])
    with pytest.raises(ValueError, match=r"found 0 sample"):
        tiny(on_error="nan").fit(paths[[*BROKEN]])


def test_all_may_be_missing_in_transform(lenient, paths):
    assert np.isnan(lenient.transform(paths[list(BROKEN)])).all()


def test_match_takes_usable_images_only(lenient, paths):
    with pytest.raises(ImageReadError, match="no such file"):
        lenient.match(paths[:4])


def test_raising_is_the_default_and_a_wrong_on_error_is_refused_when_used(tiny, lenient, paths):
    with pytest.raises(ImageReadError, match="3 of 12 images cannot be used"):
        tiny().fit(paths)
    strict = pickle.loads(pickle.dumps(lenient)).set_params(on_error="raise")
    with pytest.raises(ImageReadError):
        strict.transform(paths)
    with pytest.raises(ImageReadError):
        strict.score(paths)
    with pytest.raises(ValueError, match=r"on_error must be one of .* got 'ignore'"):
        strict.set_params(on_error="ignore").transform(paths)


def test_skipped_images_are_saved_with_the_estimator(lenient):
    data = skops.io.dumps(lenient)
    copied = skops.io.loads(data, trusted=skops.io.get_untrusted_types(data=data))
    assert skops.io.get_untrusted_types(data=data) == [
        "otcxr_sk.estimators._pretrainer.OTCXRPretrainer"
    ]
    # Names of files may be names of patients.
    assert copied.skipped_ == [{**problem, "file": None} for problem in lenient.skipped_]
    assert pd.DataFrame(copied.skipped_)["row"].tolist() == list(BROKEN)


def test_a_pipeline_sees_the_rows_of_nan(tiny, paths):
    model = make_pipeline(tiny(on_error="nan", batch_size=4), LogisticRegression())
    with pytest.raises(ValueError, match="NaN"):
        model.fit(paths, np.arange(N) % 2)


@pytest.mark.parametrize("epochs", [1, 3])
def test_with_a_cache_every_file_is_decoded_once(tiny, paths, tmp_path, decoded, epochs):
    settings = {"epochs": epochs, "batch_size": 4, "cache": tmp_path / "cache"}
    estimator = tiny(**settings).fit(paths[GOOD])
    assert sorted(decoded) == sorted(paths[GOOD])
    embedding = estimator.transform(paths[GOOD])
    estimator.score(paths[GOOD])
    assert len(decoded) == len(GOOD)
    # A second run finds all images there.
    np.testing.assert_array_equal(tiny(**settings).fit(paths[GOOD]).weights_, estimator.weights_)
    assert len(decoded) == len(GOOD)
    exact = estimator.set_params(cache=None).transform(paths[GOOD])
    assert len(decoded) == 2 * len(GOOD)
    np.testing.assert_allclose(embedding, exact, rtol=0.05, atol=0.05)


def test_workers_fill_one_cache_and_change_nothing(tiny, paths, tmp_path, decoded):
    results = [
        tiny(cache=tmp_path / str(n), num_workers=n, epochs=2, batch_size=4).fit(paths[GOOD])
        for n in (0, 2)
    ]
    np.testing.assert_array_equal(results[0].weights_, results[1].weights_)
    # Files decoded in worker processes are not counted.
    assert len(decoded) == len(GOOD)
    assert len(list((tmp_path / "2").rglob("*.image"))) == len(GOOD)


def test_transform_resizes_as_fit_did(tiny, paths):
    padded = tiny(resize="pad", batch_size=4).fit(paths[GOOD])
    before = padded.transform(paths[GOOD])
    np.testing.assert_array_equal(padded.set_params(resize="crop").transform(paths[GOOD]), before)
    other = tiny(resize="crop", batch_size=4).fit(paths[GOOD]).transform(paths[GOOD])
    assert not np.allclose(other, before, rtol=1e-3)


@pytest.mark.parametrize("method", ["fit", "partial_fit", "transform", "score"])
def test_the_warning_points_at_the_line_of_the_user(method, lenient, paths):
    warned = pickle.loads(pickle.dumps(lenient)).set_params(on_error="warn")
    with pytest.warns(UnusableImageWarning) as told:
        getattr(warned, method)(paths)
    assert {warning.filename for warning in told} == {__file__}
