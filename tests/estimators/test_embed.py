"""Embeddings: dense or pooled, in memory, in an array and in a file."""

import math
import os
import pickle
import tracemalloc
from typing import ClassVar

import numpy as np
import pandas as pd
import pytest
from joblib import parallel_config
from torch import nn

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.estimators import _encoder, _workers
from otcxr_sk.images import ArraySource, ImageReadError


def test_a_dense_map_has_an_embedding_of_every_place(tiny):
    images = np.random.default_rng(0).random((3, 64, 64), dtype=np.float32)
    larger = tiny(image_size=64).fit(images)
    dense = larger.transform_dense(images)
    assert dense.shape == (3, 2, 2, 96)
    assert dense.dtype == np.float32
    np.testing.assert_allclose(dense.mean((1, 2)), larger.transform(images), rtol=1e-5, atol=1e-6)


def test_a_dense_map_moves_with_the_image(tiny, blobs):
    # Here a place sees nothing but its own patch.
    images = blobs(8).astype(np.float32)
    estimator = tiny(nn.Conv2d(1, 16, 8, stride=8)).fit(images)
    dense = estimator.transform_dense(images)
    moved = estimator.transform_dense(np.roll(images, 8, axis=2))
    np.testing.assert_allclose(np.roll(dense, 1, axis=2), moved, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("encoder", "precision"),
    [
        ("test_resnet", "float32"),
        ("test_resnet", "bfloat16"),
        ("test_vit", "float32"),
        ("test_convnext", "float32"),
    ],
)
def test_an_embedding_is_that_of_the_image_alone_to_the_bit(X, tiny, encoder, precision):
    images = X[:11].astype(np.float32)
    estimator = tiny(encoder, epochs=0, precision=precision, on_error="nan").fit(images)
    spoilt = images.copy()
    spoilt[5, 3, 4] = np.nan
    order = np.random.default_rng(0).permutation(11)
    for embed in (estimator.transform, estimator.transform_dense):
        alone = np.concatenate([embed(image[np.newaxis]) for image in images])
        for batch_size in (64, 2):
            estimator.set_params(batch_size=batch_size)
            np.testing.assert_array_equal(embed(images), alone)
        np.testing.assert_array_equal(embed(images[order]), alone[order])
        np.testing.assert_array_equal(embed(np.asfortranarray(images)), alone)
        np.testing.assert_array_equal(np.delete(embed(spoilt), 5, 0), np.delete(alone, 5, 0))
        with parallel_config("threading", n_jobs=2):
            np.testing.assert_array_equal(embed(images), alone)


class Counted(nn.Conv2d):
    """An encoder that notes how many images it is given at a time."""

    given: ClassVar[list[int]] = []

    def forward(self, images):
        self.given.append(len(images))
        return super().forward(images)


@pytest.mark.parametrize(("size", "piece"), [(32, 16), (80, 16), (160, 4), (161, 1)])
def test_a_cpu_computes_as_many_images_as_there_are(tiny, size, piece, monkeypatch):
    monkeypatch.setattr(_encoder, "SMALL", 160)
    images = np.random.default_rng(0).random((20, size, size), dtype=np.float32)
    estimator = tiny(Counted(1, 4, 8, stride=8), image_size=size, epochs=0).fit(images[:2])
    estimator.transform(images[:1])
    for batch_size in (2, 9, 64):
        estimator.set_params(batch_size=batch_size)
        for n in (1, 2, 20):
            Counted.given.clear()
            estimator.transform(images[:n])
            assert Counted.given == [piece] * math.ceil(n / piece)


def test_an_image_is_read_once(fitted, X, monkeypatch):
    rows = []
    read = ArraySource.read
    monkeypatch.setattr(
        ArraySource,
        "read",
        lambda self, indices, size: rows.extend(indices) or read(self, indices, size),
    )
    fitted.transform(X[:11])
    assert sorted(rows) == list(range(11))


@pytest.mark.parametrize("method", ["transform", "transform_dense"])
@pytest.mark.parametrize("n_jobs", [1, 2])
def test_out_changes_only_where_the_embedding_is(fitted, X, tmp_path, method, n_jobs):
    embed = getattr(fitted, method)
    expected = embed(X)
    array = np.empty_like(expected)
    with parallel_config("threading", n_jobs=n_jobs):
        file = embed(X, out=tmp_path / "embedding.npy")
        assert embed(X, out=array) is array
    np.testing.assert_array_equal(file, expected)
    np.testing.assert_array_equal(array, expected)
    np.testing.assert_array_equal(np.load(tmp_path / "embedding.npy"), expected)


def test_a_wrong_out_is_refused_before_any_image_is_read(fitted, tmp_path, decoded):
    with pytest.raises(ValueError, match=r"shape \(2, 96\)"):
        fitted.transform(["missing.png"] * 2, out=np.empty((3, 96), np.float32))
    with pytest.raises(ValueError, match="npy file"):
        fitted.transform(["missing.png"] * 2, out=tmp_path / "embedding.parquet")
    assert not decoded


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_an_error_halfway_leaves_no_file(fitted, blobs, tmp_path, n_jobs):
    paths = []
    for row, image in enumerate(blobs(20)):
        paths.append(str(tmp_path / f"{row}.npy"))
        np.save(paths[-1], image)
    np.save(paths[15], np.zeros(3))
    (tmp_path / "out").mkdir()
    out = tmp_path / "out" / "embedding.npy"
    with (
        parallel_config("threading", n_jobs=n_jobs),
        pytest.raises(ImageReadError, match=r"15\.npy"),
    ):
        fitted.transform(paths, out=out)
    assert os.listdir(out.parent) == []


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_a_disk_that_fills_up_leaves_no_file(fitted, X, tmp_path, monkeypatch, n_jobs):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError("no space left")))
    with parallel_config("threading", n_jobs=n_jobs), pytest.raises(OSError, match="no space"):
        fitted.transform(X, out=tmp_path / "embedding.npy")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_images(tiny, tmp_path, monkeypatch, n_jobs):
    # One batch per part.
    monkeypatch.setattr(_workers, "_PART_BYTES", 1)
    estimator = tiny(nn.Conv2d(1, 64, 8, stride=8), epochs=0, batch_size=50)
    images = np.lib.format.open_memmap(tmp_path / "X.npy", "w+", np.uint8, (20_000, 32, 32))
    images[:100] = np.random.default_rng(0).integers(0, 256, (100, 32, 32))
    estimator.fit(images[:100])
    estimator.transform_dense(images[:200])
    tracemalloc.start()
    try:
        with parallel_config("threading", n_jobs=n_jobs):
            result = estimator.transform_dense(images, out=tmp_path / "out.npy")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert result.nbytes > 80e6
    # Workers this fast may be some parts ahead of the process that writes.
    assert peak < (2e6 if n_jobs == 1 else 30e6)


def test_a_data_frame_is_backed_by_the_file(fitted, X, tmp_path):
    estimator = pickle.loads(pickle.dumps(fitted)).set_output(transform="pandas")
    frame = estimator.transform(X, out=tmp_path / "embedding.npy")
    assert isinstance(frame, pd.DataFrame)
    values = frame.to_numpy()
    while values.base is not None and not isinstance(values, np.memmap):
        values = values.base
    assert isinstance(values, np.memmap)
    np.testing.assert_array_equal(frame, np.load(tmp_path / "embedding.npy"))


def test_out_is_not_routed_as_metadata():
    assert not hasattr(OTCXRPretrainer(), "set_transform_request")


@pytest.mark.parametrize("n_jobs", [1, 2])
def test_progress_is_shown_by_the_process_that_called_transform(fitted, X, capsys, n_jobs):
    estimator = pickle.loads(pickle.dumps(fitted))
    with parallel_config("threading", n_jobs=n_jobs):
        estimator.transform(X)
        assert not capsys.readouterr().err
        estimator.set_params(verbose=1).transform(X)
    assert "24/24" in capsys.readouterr().err
