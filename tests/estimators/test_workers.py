"""joblib's workers give the embeddings and the errors of a single process."""

import errno
import os
import pickle
import signal
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from itertools import islice
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from joblib import Parallel, delayed, parallel_config
from sklearn.decomposition import PCA
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from torch import nn

from otcxr_sk.estimators import UnusableImageWarning, _workers
from otcxr_sk.estimators._workers import offered_workers

N = 30


@pytest.fixture(scope="module")
def images(blobs):
    return blobs(N, seed=1).astype(np.float32)


@pytest.fixture(scope="module")
def paths(images, tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    paths = [str(folder / f"{row:02}.npy") for row in range(N)]
    for path, image in zip(paths, images, strict=True):
        np.save(path, image)
    return paths


class Lazy:
    """Rows that are read by slices and cannot be pickled, as those of an HDF5 file."""

    def __init__(self, array):
        self._array, self.shape, self.dtype = array, array.shape, array.dtype

    def __len__(self):
        return len(self._array)

    def __getitem__(self, rows):
        assert isinstance(rows, slice)
        return self._array[rows]

    def __reduce__(self):
        raise TypeError("cannot be pickled")


def spoilt(images, paths, kind, bad):
    if kind == "paths":
        return [f"{path}{'.gone' * (row in bad)}" for row, path in enumerate(paths)]
    images = images.copy()
    images[bad, 3, 4] = np.nan
    if kind == "rows":
        return images.reshape(len(images), -1)
    return {"array": images, "lazy": Lazy(images), "data set": [(i,) for i in images]}[kind]


@settings(max_examples=30)
@given(
    kind=st.sampled_from(["paths", "array", "rows", "lazy", "data set"]),
    n=st.integers(1, N),
    batch_size=st.integers(2, 9),
    n_jobs=st.integers(2, 5),
    part_bytes=st.sampled_from([1, 2**16, 2**26]),
    bad=st.sets(st.integers(0, N - 1), max_size=4).map(sorted),
    method=st.sampled_from(["transform", "transform_dense"]),
    backend=st.sampled_from(["threading", "waves"]),
)
def test_any_cut_gives_the_same_bits(
    fitted, images, paths, kind, n, batch_size, n_jobs, part_bytes, bad, method, backend
):
    bad = [row for row in bad if row < n]
    X = spoilt(images[:n], paths[:n], kind, bad)
    estimator = pickle.loads(pickle.dumps(fitted))
    estimator.set_params(batch_size=batch_size, on_error="nan", image_shape=(32, 32))
    expected = getattr(estimator, method)(X)
    report = estimator.last_unusable
    assert [problem["row"] for problem in report] == bad
    # Some backends cannot give results one by one.
    one_by_one = patch(
        "joblib._parallel_backends.ThreadingBackend.supports_return_generator",
        backend == "threading",
    )
    with (
        one_by_one,
        patch.object(_workers, "_PART_BYTES", part_bytes),
        parallel_config("threading", n_jobs=n_jobs),
    ):
        np.testing.assert_array_equal(getattr(estimator, method)(X), expected)
    assert estimator.last_unusable == report


@pytest.mark.parametrize("kind", ["paths", "array", "lazy"])
def test_the_error_is_that_of_a_single_process(fitted, images, paths, kind, monkeypatch):
    monkeypatch.setattr(_workers, "_PART_BYTES", 1)
    estimator = pickle.loads(pickle.dumps(fitted)).set_params(batch_size=2)
    X = spoilt(images, paths, kind, [9, 21, 29])
    with pytest.raises(ValueError) as alone:  # noqa: PT011
        estimator.transform(X)
    for n_jobs in (2, 5):
        with (
            parallel_config("threading", n_jobs=n_jobs),
            pytest.raises(type(alone.value)) as shared,
        ):
            estimator.transform(X)
        assert str(shared.value) == str(alone.value)


def test_one_warning_names_all_unusable_images(fitted, images, paths, monkeypatch):
    monkeypatch.setattr(_workers, "_PART_BYTES", 1)
    estimator = pickle.loads(pickle.dumps(fitted)).set_params(batch_size=2, on_error="warn")
    with (
        parallel_config("threading", n_jobs=3),
        pytest.warns(UnusableImageWarning, match=r"(?s)3 of 30 .*02.*09.*29.* are NaN") as caught,
    ):
        estimator.transform(spoilt(images, paths, "paths", [2, 9, 29]))
    assert len(caught) == 1


def test_a_failed_worker_is_not_taken_for_an_unusable_file(fitted, paths):
    estimator = pickle.loads(pickle.dumps(fitted)).set_params(on_error="nan")
    with (
        patch.object(_workers, "Embedder", side_effect=MemoryError("too large")),
        parallel_config("threading", n_jobs=2),
        pytest.raises(MemoryError, match="too large"),
    ):
        estimator.transform(paths)


def test_a_worker_of_another_version_is_refused(fitted):
    call = _workers.Call("call", "0.0.1", dense=False)
    with pytest.raises(RuntimeError, match=r"but 0\.0\.1 is needed"):
        _workers.embed_part(call, None, fitted.weights_, 0, None)


def test_workers_that_live_are_waited_for(fitted, paths, monkeypatch):
    def slowly(*arguments, embed_part=_workers.embed_part):
        time.sleep(0.5)
        return embed_part(*arguments)

    monkeypatch.setattr(_workers, "SILENCE", 0.1)
    monkeypatch.setattr(_workers, "embed_part", slowly)
    with parallel_config("threading", n_jobs=2):
        np.testing.assert_array_equal(fitted.transform(paths), expected_of(fitted, paths))
    # Nothing tells whether workers of other backends live.
    monkeypatch.setattr(_workers, "_tells", lambda backend: False)
    with (
        parallel_config("threading", n_jobs=2),
        pytest.raises(RuntimeError, match=r"no worker has sent embeddings for .*'loky'"),
    ):
        fitted.transform(paths)


def expected_of(estimator, X):
    with parallel_config("sequential"):
        return estimator.transform(X)


class Deadly:
    """A part of the images that kills the process that it is sent to."""

    def __init__(self, parent):
        self.parent = parent

    def __reduce__(self):
        return deadly_away_from, (self.parent,)


def deadly_away_from(parent):
    if os.getpid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)
    return Deadly(parent)


# Workers cannot import this module, so these are sent with their code.
Deadly.__module__ = deadly_away_from.__module__ = "__main__"


@pytest.fixture
def deadly(monkeypatch):
    """Make the parts from row 16 on deadly."""

    def parts(*given, parts=_workers._parts):
        for start, part in parts(*given):
            yield start, Deadly(os.getpid()) if start >= 16 else part

    monkeypatch.setattr(_workers, "_PART_BYTES", 1)
    monkeypatch.setattr(_workers, "_parts", parts)


@pytest.mark.slow
@pytest.mark.usefixtures("deadly")
def test_a_process_that_died_is_told_of(fitted, paths):
    with (
        parallel_config("loky", n_jobs=2),
        pytest.raises(RuntimeError, match=r"died \(SIGKILL.*\); if memory ran out, lower n_jobs"),
    ):
        fitted.transform(paths)


def test_processes_that_cannot_be_started_are_told_of(fitted, paths, monkeypatch):
    def refuse(*_, **__):
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    with (
        patch("joblib._parallel_backends.ThreadingBackend.submit", refuse),
        parallel_config("threading", n_jobs=2),
        pytest.raises(
            RuntimeError, match="cannot be used: Resource temporarily unavailable; lower"
        ),
    ):
        fitted.transform(paths)


def test_an_encoder_that_cannot_be_sent_is_told_of(fitted, paths):
    with (
        patch.object(_workers, "wrap_non_picklable_objects", lambda *_, **__: threading.Lock()),
        parallel_config("threading", n_jobs=2),
        pytest.raises(RuntimeError, match="the encoder cannot be sent"),
    ):
        fitted.transform(paths)


def test_rows_that_are_lost_without_an_error_are_an_error(fitted, paths, monkeypatch):
    monkeypatch.setattr(_workers, "_PART_BYTES", 1)
    results = _workers._results
    monkeypatch.setattr(_workers, "_results", lambda *given: islice(results(*given), 1))
    with (
        parallel_config("threading", n_jobs=2),
        pytest.raises(RuntimeError, match=r"the embeddings of \d+ of 30 images"),
    ):
        fitted.transform(paths)


def test_work_that_is_no_longer_needed_ends_without_a_warning(fitted, paths, monkeypatch):
    class Full(Exception):
        pass

    def write(*_):
        raise Full

    monkeypatch.setattr(_workers, "_PART_BYTES", 1)
    monkeypatch.setattr("otcxr_sk.estimators._output.Output.write", write)
    with parallel_config("threading", n_jobs=2), pytest.raises(Full):
        fitted.transform(paths)


def test_relative_paths_start_from_the_folder_where_transform_is_called(fitted, paths, monkeypatch):
    estimator = pickle.loads(pickle.dumps(fitted)).set_params(on_error="nan")
    monkeypatch.chdir(os.path.dirname(paths[0]))
    relative = [*map(os.path.basename, paths), "gone.npy"]
    expected = estimator.transform(relative)
    embed_part = _workers.embed_part

    def elsewhere(*arguments):
        os.chdir("/")
        return embed_part(*arguments)

    monkeypatch.setattr(_workers, "embed_part", elsewhere)
    monkeypatch.setattr(_workers, "_PART_BYTES", 1)
    with parallel_config("threading", n_jobs=2):
        np.testing.assert_array_equal(estimator.transform(relative), expected)
    assert [(p["row"], p["file"]) for p in estimator.last_unusable] == [(N, "gone.npy")]


def test_only_what_embedding_needs_is_sent(fitted, images):
    estimator = pickle.loads(pickle.dumps(fitted))
    estimator.set_params(random_state=(row for row in "cannot be sent"))
    with parallel_config("threading", n_jobs=2):
        np.testing.assert_array_equal(estimator.transform(images), fitted.transform(images))


def test_work_is_shared_only_on_request_and_if_there_is_enough(fitted, paths):
    def refuse(*_):
        raise AssertionError

    with patch.object(_workers, "embed_part", refuse):
        fitted.transform(paths)
        # A single batch is not shared.
        with parallel_config("threading", n_jobs=2):
            fitted.transform(paths[:8])


def test_a_worker_does_not_share_its_work_again(fitted, images, tiny):
    with parallel_config("threading", n_jobs=2):
        assert offered_workers() == 2
        assert Parallel()(delayed(offered_workers)() for _ in range(3)) == [1, 1, 1]
    search = GridSearchCV(
        make_pipeline(tiny(epochs=0), PCA(2)), {"pca__n_components": [1, 2]}, cv=2
    )
    with (
        patch.object(_workers, "embed_part", side_effect=AssertionError),
        parallel_config("threading", n_jobs=2),
    ):
        search.set_params(refit=False).fit(images)


def shares_by(estimator, paths, images):
    """Embed files, one of them missing, and images in memory."""
    estimator = pickle.loads(pickle.dumps(estimator)).set_params(on_error="nan", batch_size=4)
    files = spoilt(images, paths, "paths", [7])
    return (
        estimator.transform(files),
        estimator.transform_dense(Lazy(images)),
        estimator.last_unusable,
    )


def same(found, expected):
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])
    assert found[2] == expected[2]


class Local(nn.Conv2d):
    """An encoder that no worker can import, as one from a notebook."""


@pytest.fixture
def large(tiny, images):
    """Make a pretrainer of large images, which every process embeds one by one."""
    return lambda *encoder: tiny(*encoder, image_size=224, epochs=0).fit(images)


@pytest.mark.slow
def test_processes_give_the_same_bits(large, images, paths, monkeypatch):
    monkeypatch.setattr(Local, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "Local", Local, raising=False)
    for estimator in (large(), large(Local(1, 4, 8, stride=8))):
        expected = shares_by(estimator, paths, images)
        with parallel_config("loky", n_jobs=2):
            same(shares_by(estimator, paths, images), expected)
    with parallel_config("loky", n_jobs=2):
        assert Parallel()(delayed(offered_workers)() for _ in range(3)) == [1, 1, 1]


@contextmanager
def dask_cluster():
    with warnings.catch_warnings():
        # Raised by Dask itself.
        warnings.simplefilter("ignore")
        from distributed import Client, LocalCluster
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0"
        ) as cluster,
        Client(cluster),
        parallel_config("dask"),
    ):
        yield


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_dask_cluster_gives_the_same_bits(large, images, paths):
    estimator = large()
    expected = shares_by(estimator, paths, images)
    with dask_cluster():
        assert offered_workers() == 2
        same(shares_by(estimator, paths, images), expected)
        assert Parallel(batch_size=1)(delayed(offered_workers)() for _ in range(3)) == [1, 1, 1]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("kind", ["paths", "lazy"])
@pytest.mark.usefixtures("deadly")
def test_a_worker_of_dask_that_died_is_told_of(kind, fitted, images, paths):
    with dask_cluster(), pytest.raises(RuntimeError, match=r"Dask.* died"):
        fitted.transform(spoilt(images, paths, kind, []))
