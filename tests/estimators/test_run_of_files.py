"""A stopped run of image files continues to the same weights, wherever they are and are cached."""

import random
import shutil
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from runs import assert_same, interrupted

from otcxr_sk.estimators._run import _FREE
from otcxr_sk.images import ImageReadError
from otcxr_sk.training import Callback


class Busy(Callback):
    """Uses the estimator, and draws from every generator."""

    def __init__(self, X):
        self.X = X

    def on_epoch_end(self, state):
        state.estimator().transform(self.X)
        state.estimator().score(self.X)
        drawn = np.random.random()  # noqa: NPY002
        state.record("drawn", drawn + torch.rand(1).item() + random.random())


@pytest.fixture(scope="module")
def large_files(X, tmp_path_factory):
    """Image files that have to be resized, with 8 and with 16 bits."""
    folder = tmp_path_factory.mktemp("large")
    files = [folder / f"{row}.png" for row in range(len(X))]
    for row, file in enumerate(files):
        image = np.kron(np.clip(X[row], 0, 1), np.ones((2, 3)))
        dtype = (np.uint8, np.uint16)[row % 2]
        Image.fromarray((np.iinfo(dtype).max * image).astype(dtype)).save(file)
    return files


@pytest.fixture(scope="module")
def whole_of_files(pretrainer, large_files):
    return pretrainer().fit(large_files)


@pytest.mark.parametrize("changes_come_first", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_may_differ_on_resuming_changes_no_bit(
    changes_come_first, pretrainer, whole_of_files, large_files, tmp_path
):
    usual = {"checkpoint": tmp_path / "run"}
    changed = {
        **usual,
        "checkpoint__every": timedelta(0),
        "cache": tmp_path / "cache",
        "num_workers": 2,
        "device": "cpu",
        "verbose": 1,
        "callbacks": [Busy(large_files[:8])],
        "warm_start": True,
    }
    assert {name.split("__")[0] for name in changed} | {"random_state"} == _FREE
    before, after = (changed, usual) if changes_come_first else (usual, changed)
    interrupted(pretrainer(interrupt_at=5, **before), large_files)
    resumed = pretrainer(**after).fit(large_files)
    np.testing.assert_array_equal(resumed.weights_, whole_of_files.weights_)
    assert resumed.history_["loss"] == whole_of_files.history_["loss"]
    assert (resumed.mean_, resumed.std_) == (whole_of_files.mean_, whole_of_files.std_)


class AfterOneEpoch(Callback):
    def __init__(self, act):
        self.act = act

    def on_epoch_end(self, state):
        if state.epoch == 1:
            self.act()


def test_a_cache_may_be_deleted_during_a_run(pretrainer, whole_of_files, large_files, tmp_path):
    cache = tmp_path / "cache"
    deleting = AfterOneEpoch(lambda: shutil.rmtree(cache))
    assert_same(pretrainer(cache=cache, callbacks=[deleting]).fit(large_files), whole_of_files)
    assert list(cache.rglob("*.image"))


def test_a_file_that_vanishes_during_a_run_stops_it(
    pretrainer, whole_of_files, large_files, tmp_path
):
    files = [Path(shutil.copy(file, tmp_path)) for file in large_files]
    options = {"on_error": "nan", "checkpoint": tmp_path / "run"}
    stopped = pretrainer(callbacks=[AfterOneEpoch(files[5].unlink)], **options)
    with pytest.raises(ImageReadError, match=r"5\.png': there is no such file"):
        stopped.fit(files)
    shutil.copy(large_files[5], files[5])
    resumed = pretrainer(**options).fit(files)
    np.testing.assert_array_equal(resumed.weights_, whole_of_files.weights_)


def test_a_cache_changes_no_bit(pretrainer, whole_of_files, large_files, tmp_path):
    for _ in range(2):
        fitted = pretrainer(cache=tmp_path).fit(large_files)
        assert_same(fitted, whole_of_files)
        embedding = fitted.transform(large_files)
        np.testing.assert_array_equal(embedding, whole_of_files.transform(large_files))


@pytest.fixture
def files(X, tmp_path):
    """Image files in two subfolders of a folder."""
    paths = []
    for number, pixels in enumerate(X):
        path = tmp_path / "first" / f"patient{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((255 * np.clip(pixels, 0, 1)).astype(np.uint8)).save(path)
        paths.append(path)
    return paths


def test_files_may_move_but_not_change_names_or_order(files, tiny, tmp_path):
    options = {"checkpoint": tmp_path / "run"}
    fitted = tiny(**options).fit(files)
    shutil.copytree(tmp_path / "first", tmp_path / "second" / "deeper")
    moved = [
        tmp_path / "second" / "deeper" / path.relative_to(tmp_path / "first") for path in files
    ]
    np.testing.assert_array_equal(tiny(**options).fit(moved).weights_, fitted.weights_)
    other = [*moved[:3], moved[4], moved[3], *moved[5:]]
    with pytest.raises(ValueError, match="the files have other names or another order"):
        tiny(**options).fit(other)
    renamed = moved[3].rename(moved[3].with_name("other.png"))
    with pytest.raises(ValueError, match="the files have other names or another order"):
        tiny(**options).fit([*moved[:3], renamed, *moved[4:]])


def test_a_resumed_run_leaves_out_the_same_images_without_looking_again(
    files, pretrainer, tmp_path, monkeypatch
):
    files[2].write_bytes(b"broken")
    files[9].unlink()
    options = {"on_error": "nan"}
    whole = pretrainer(**options).fit(files)
    options["checkpoint"] = tmp_path / "run"
    interrupted(pretrainer(interrupt_at=4, **options), files)
    monkeypatch.delattr("otcxr_sk.estimators._fit.scan")
    resumed = pretrainer(**options).fit(files)
    assert [problem["row"] for problem in resumed.skipped_] == [2, 9]
    assert_same(resumed, whole)
