"""The checks that scikit-learn makes of estimators, for images and files."""

import copy
import pickle
import random
import tracemalloc
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import polars as pl
import pytest
import torch
import zarr
from PIL import Image
from sklearn.base import clone
from sklearn.compose import ColumnTransformer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.utils import _safe_indexing
from torch.utils.data import Dataset

from otcxr_sk import OTCXRPretrainer

HEIGHT, WIDTH = 40, 36
N = 9

KINDS = [
    "gray",
    "uint16",
    "float32",
    "float64",
    "memmap",
    "list",
    "rows",
    "one_channel_first",
    "one_channel_last",
    "color_first",
    "color_last",
    "str",
    "tuple",
    "Path",
    "object_array",
    "str_array",
    "pandas_series",
    "polars_series",
    "pandas_frame",
    "polars_frame",
    "folder",
    "zarr",
    "torch_dataset",
    "labelled_torch_dataset",
    "pil_images",
    "items",
]
# For tests with several fits: one kind for each path through the code.
FEW = ["float32", "rows", "pandas_frame"]


def tiny(**parameters):
    settings = {"image_size": 32, "epochs": 1, "batch_size": 4, "image_shape": (HEIGHT, WIDTH)}
    return OTCXRPretrainer("test_resnet", **{**settings, "random_state": 0, **parameters})


class Images(Dataset):
    def __init__(self, images):
        self.images = images

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        return torch.from_numpy(self.images[row])


class LabelledImages(Images):
    def __getitem__(self, row):
        return Image.fromarray(self.images[row]), row % 2


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Return the same images in every form that the estimator accepts."""
    folder = tmp_path_factory.mktemp("images")
    gray = np.random.default_rng(0).integers(0, 256, (N, HEIGHT, WIDTH), dtype=np.uint8)
    (folder / "files").mkdir()
    paths = [folder / "files" / f"{'long' * i}{i}.png" for i in range(N)]
    for path, image in zip(paths, gray, strict=True):
        Image.fromarray(image).save(path)
    np.save(folder / "stack.npy", gray)
    stored = zarr.create_array(str(folder / "zarr"), shape=gray.shape, dtype=gray.dtype)
    stored[:] = gray
    names = [str(path) for path in paths]
    unit = gray / np.float32(255)
    return {
        "gray": gray,
        "uint16": gray.astype(np.uint16) * 257,
        "float32": unit,
        "float64": unit.astype(np.float64),
        "memmap": np.load(folder / "stack.npy", mmap_mode="r"),
        "list": list(gray),
        "rows": gray.reshape(N, -1),
        "one_channel_first": gray[:, None],
        "one_channel_last": gray[..., None],
        "color_first": np.repeat(gray[:, None], 3, axis=1),
        "color_last": np.repeat(gray[..., None], 3, axis=3),
        "str": names,
        "tuple": tuple(names),
        "Path": paths,
        "object_array": np.array(paths, dtype=object),
        "str_array": np.array(names),
        # As after a split, the index does not start at 0.
        "pandas_series": pd.Series(names, index=range(5, 5 + N)),
        "polars_series": pl.Series("path", names),
        "pandas_frame": pd.DataFrame({"path": names}, index=range(5, 5 + N)),
        "polars_frame": pl.DataFrame({"path": names}),
        "folder": folder / "files",
        "zarr": stored,
        "torch_dataset": Images(gray),
        "labelled_torch_dataset": LabelledImages(gray),
        "pil_images": [Image.fromarray(image) for image in gray],
        # What a split makes of a labeled dataset.
        "items": [LabelledImages(gray)[row] for row in range(N)],
    }


@pytest.fixture(scope="module")
def fitted(kinds):
    return tiny().fit(kinds["gray"])


@pytest.fixture(scope="module")
def reference(fitted, kinds):
    return fitted.transform(kinds["gray"])


def content(X):
    """Return all that is in `X`, as values that can be compared."""
    if isinstance(X, Path):
        return [(path.name, path.read_bytes()) for path in sorted(X.iterdir())]
    if isinstance(X, Dataset | list | tuple):
        items = (X[row] for row in range(len(X)))
        return [joblib.hash(np.asarray(i[0] if isinstance(i, tuple) else i)) for i in items]
    return joblib.hash(np.asarray(X))


@pytest.fixture(params=KINDS)
def X(request, kinds):
    """The same images in every form, which no test may find changed."""
    given = kinds[request.param]
    before, kind = content(given), type(given)
    yield given
    assert content(given) == before
    assert type(given) is kind


def test_different_images_have_different_embeddings(reference):
    assert reference.shape == (N, 96)
    assert reference.dtype == np.float32
    assert len(np.unique(reference.round(4), axis=0)) == N


def test_every_kind_gives_the_same_embedding(fitted, X, reference):
    np.testing.assert_allclose(fitted.transform(X), reference, rtol=1e-4, atol=1e-6)


def test_every_kind_gives_the_same_fit(X, reference, fitted, kinds):
    other = tiny().fit(X)
    np.testing.assert_allclose(
        [other.mean_, other.std_], [fitted.mean_, fitted.std_], rtol=1e-6, atol=0
    )
    np.testing.assert_allclose(other.transform(kinds["gray"]), reference, rtol=1e-2, atol=1e-3)


@pytest.mark.parametrize("kind", FEW)
def test_fit_is_idempotent(kinds, kind):
    X = kinds[kind]
    estimator = tiny().fit(X)
    first = estimator.weights_
    np.testing.assert_array_equal(estimator.fit(X).weights_, first)
    np.testing.assert_array_equal(clone(estimator).fit(X).weights_, first)


def test_fit_depends_on_the_seed(kinds, fitted):
    other = tiny(random_state=1).fit(kinds["gray"])
    assert not np.array_equal(other.weights_, fitted.weights_)


@pytest.mark.parametrize(
    "rows", [[0], [8], [3, 1], [5, 5, 0], [2, 3, 4, 5, 6], list(range(N))[::-1]], ids=str
)
def test_an_embedding_does_not_depend_on_the_other_images(fitted, kinds, reference, rows):
    for kind in ("gray", "rows", "pandas_series", "polars_frame"):
        part = fitted.transform(_safe_indexing(kinds[kind], rows))
        np.testing.assert_allclose(part, reference[rows], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", FEW)
def test_fit_transform_is_fit_then_transform(kinds, kind):
    X = kinds[kind]
    np.testing.assert_array_equal(tiny().fit_transform(X), tiny().fit(X).transform(X))


def test_dense_maps_average_to_the_embedding(fitted, X, reference):
    dense = fitted.transform_dense(X)
    assert dense.shape == (N, 1, 1, 96)
    np.testing.assert_allclose(dense.mean((1, 2)), reference, rtol=1e-4, atol=1e-6)


def test_use_depends_on_no_kind_and_changes_no_fitted_estimator(fitted, X, kinds):
    before = joblib.hash(fitted.__getstate__())
    fitted.transform(X)
    fitted.transform_dense(X)
    fitted.match(X, random_state=0)
    assert fitted.score(X) == pytest.approx(fitted.score(kinds["gray"]), rel=1e-4)
    assert joblib.hash(fitted.__getstate__()) == before


@pytest.mark.parametrize("kind", FEW)
def test_copies_give_the_same_embedding(kinds, kind):
    X = kinds[kind]
    estimator = tiny().fit(X)
    expected = estimator.transform(X)
    for copied in (pickle.loads(pickle.dumps(estimator)), copy.deepcopy(estimator)):
        np.testing.assert_array_equal(copied.transform(X), expected)


@pytest.mark.parametrize("kind", ["gray", "rows", "str"])
def test_global_random_generators_are_not_used(kinds, kind):
    def state():
        numpys = np.random.get_state()  # noqa: NPY002
        return joblib.hash((torch.get_rng_state().numpy(), numpys, random.getstate()))

    # Seeding the generator cannot restore this state.
    torch.rand(7)
    X, before = kinds[kind], state()
    for seed in (0, np.random.RandomState(0)):
        estimator = tiny(random_state=seed).fit(X)
        estimator.transform(X)
        estimator.score(X)
        estimator.match(X, random_state=0)
    assert state() == before


@pytest.mark.parametrize(
    ("dtype", "shape"), [(np.uint8, (600, 128, 128)), (np.float32, (600, 128 * 128))]
)
def test_a_memory_map_is_never_copied_as_a_whole(tmp_path, dtype, shape):
    images = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.save(tmp_path / "stack.npy", images.astype(dtype))
    X = np.load(tmp_path / "stack.npy", mmap_mode="r")
    estimator = tiny(batch_size=32, image_shape=None).fit(X[:2])
    # The network is built from its stored weights once.
    estimator.transform(X[:2])
    tracemalloc.start()
    try:
        estimator.transform(X)
        transforming = tracemalloc.get_traced_memory()[1]
        tracemalloc.reset_peak()
        estimator.fit(X)
        fitting = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # A batch as float32, and twice as much for what is computed from it. Older versions of
    # safetensors copy the weights once more.
    allowed = 3 * 32 * 128 * 128 * 4 + estimator.weights_.nbytes
    assert allowed < X.size
    assert max(transforming, fitting) < allowed


def test_feature_names_and_numbers_are_those_of_the_last_fit(kinds):
    estimator = tiny()
    frame = pd.DataFrame(kinds["rows"]).add_prefix("pixel")
    assert estimator.fit(frame).n_features_in_ == HEIGHT * WIDTH
    assert len(estimator.feature_names_in_) == HEIGHT * WIDTH
    for other in ("gray", "color_last", "str", "pandas_frame"):
        estimator.fit(frame).fit(kinds[other])
        assert not hasattr(estimator, "n_features_in_")
        assert not hasattr(estimator, "feature_names_in_")
    assert estimator.fit(kinds["rows"]).n_features_in_ == HEIGHT * WIDTH


@pytest.mark.parametrize("other", ["gray", "color_last", "str"])
def test_transform_accepts_another_kind_than_fit(kinds, other):
    by_rows = tiny().fit(kinds["rows"])
    by_other = tiny().fit(kinds[other])
    np.testing.assert_allclose(
        by_rows.transform(kinds[other]), by_rows.transform(kinds["rows"]), rtol=1e-4, atol=1e-6
    )
    np.testing.assert_allclose(
        by_other.transform(kinds["rows"]), by_other.transform(kinds[other]), rtol=1e-4, atol=1e-6
    )
    assert by_rows.n_features_in_ == HEIGHT * WIDTH
    with pytest.raises(ValueError, match="features"):
        by_rows.transform(kinds["rows"][:, :-1])


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_set_output_gives_a_data_frame_with_names_and_index(fitted, kinds, library, reference):
    frame = copy.deepcopy(fitted).set_output(transform=library).transform(kinds["pandas_frame"])
    assert list(frame.columns) == [f"otcxrpretrainer{i}" for i in range(96)]
    np.testing.assert_allclose(frame.to_numpy(), reference, rtol=1e-4, atol=1e-6)
    if library == "pandas":
        assert list(frame.index) == list(kinds["pandas_frame"].index)


LABELS = np.arange(N) % 2
PATIENTS = np.arange(N) // 2


@pytest.mark.parametrize("kind", ["gray", "color_last", "str", "str_array", "pandas_series"])
def test_a_pipeline_predicts(kinds, kind):
    model = make_pipeline(tiny(), LogisticRegression(max_iter=1000))
    assert model.fit(kinds[kind], LABELS).predict(kinds[kind]).shape == (N,)


@pytest.mark.parametrize("kind", ["Path", "pandas_frame"])
def test_cross_validation_keeps_patients_apart(kinds, kind):
    splitter = StratifiedGroupKFold(2)
    model = make_pipeline(tiny(), LogisticRegression(max_iter=1000))
    found = cross_val_predict(
        model, kinds[kind], LABELS, groups=PATIENTS, cv=splitter, method="predict_proba"
    )
    expected = np.empty_like(found)
    for train, test in splitter.split(np.zeros(N), LABELS, PATIENTS):
        model.fit(kinds["gray"][train], LABELS[train])
        expected[test] = model.predict_proba(kinds["gray"][test])
    np.testing.assert_allclose(found, expected, rtol=1e-3)


@pytest.mark.parametrize("kind", ["gray", "str"])
def test_grid_search_uses_the_score_without_labels(kinds, kind):
    grid = {"epochs": [1, 2]}
    search = GridSearchCV(tiny(), grid, cv=2).fit(kinds[kind])
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()
    assert search.best_estimator_.n_epochs_ == search.best_params_["epochs"]
    assert search.transform(kinds[kind]).shape == (N, 96)


def test_grid_search_inside_a_pipeline(kinds):
    model = make_pipeline(tiny(), LogisticRegression(max_iter=1000))
    grid = {"otcxrpretrainer__objective__beta": [0.5, 1.0]}
    search = GridSearchCV(model, grid, cv=2).fit(kinds["str"], LABELS)
    assert np.isfinite(search.cv_results_["mean_test_score"]).all()


def test_a_feature_union_puts_embeddings_side_by_side(kinds, fitted, reference):
    union = FeatureUnion([("a", tiny()), ("b", tiny(random_state=1))])
    both = union.fit_transform(kinds["str"])
    np.testing.assert_allclose(both[:, :96], reference, rtol=1e-3, atol=1e-4)
    other = tiny(random_state=1).fit_transform(kinds["str"])
    np.testing.assert_array_equal(both[:, 96:], other)
    assert union.get_feature_names_out()[96] == "b__otcxrpretrainer0"


@pytest.mark.parametrize("selector", ["path", ["path"]], ids=str)
@pytest.mark.parametrize("library", [pd, pl])
def test_a_column_transformer_embeds_a_column_of_paths(kinds, selector, library, reference):
    frame = library.DataFrame({"path": kinds["str"], "age": np.arange(N, dtype=np.float32)})
    columns = ColumnTransformer([("image", tiny(), selector), ("age", "passthrough", ["age"])])
    table = columns.fit_transform(frame)
    np.testing.assert_allclose(table[:, :96], reference, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(table[:, 96], np.arange(N))
    assert columns.get_feature_names_out()[-1] == "age__age"
