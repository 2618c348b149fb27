"""A stopped run continues to the same weights, and no other run continues it."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from runs import EPOCHS, STEPS, assert_same, interrupted
from torch import nn

from otcxr_sk import Cache, Checkpoint, Objective, Optimizer, OTCXRPretrainer, Views
from otcxr_sk.estimators import CheckpointWarning, NonFiniteLossError, TrainingInterrupted
from otcxr_sk.training import Callback, TimeLimit

# What may change while a run is stopped, and what makes it another run.
FREE = {
    "callbacks": [Callback(), TimeLimit(minutes=5)],
    "cache": "cache",
    "cache__max_gb": 1.0,
    "cache__shared": True,
    "checkpoint": "run",
    "checkpoint__every": 7,
    "device": "cpu",
    "num_workers": 1,
    "random_state": None,
    "verbose": 1,
    # An unfitted estimator has no weights to start from.
    "warm_start": True,
}
OTHER = {
    "encoder": "test_vit",
    "weights": "start.safetensors",
    "image_size": 64,
    "resize": "pad",
    "epochs": 2,
    "batch_size": 4,
    "accumulate": 2,
    "learning_rate": "auto",
    "optimizer__name": "lars",
    "optimizer__weight_decay": 0.1,
    "optimizer__clip_norm": 1.0,
    "optimizer__ema": 0.9,
    "views__crop_scale": (0.6, 1.0),
    "views__horizontal_flip": 0.5,
    "views__erase": 0.1,
    "views__aspect": 1.5,
    "views__contrast": 0.1,
    "views__brightness": 0.1,
    "views__blur": 3.0,
    "objective__alpha": 3.0,
    "objective__beta": 3.0,
    "objective__eta": 3.0,
    "objective__global_weight": 3.0,
    "objective__epsilon": 0.2,
    "objective__transport": "direct",
    "objective__cv_sim_depth": 1,
    "objective__read_out": 3.0,
    "match_stride": 8,
    "pooling": "token",
    "image_shape": (32, 32),
    "precision": "bfloat16",
    "on_error": "nan",
    "validation_fraction": 0.25,
}


@pytest.fixture(scope="module")
def whole(pretrainer, X):
    return pretrainer().fit(X)


@pytest.fixture(scope="module")
def ended(tiny, X, tmp_path_factory):
    """A run that has ended, and its folder."""
    folder = tmp_path_factory.mktemp("ended")
    return tiny(checkpoint=folder).fit(X)


def test_checkpoints_change_nothing(pretrainer, whole, X, tmp_path):
    assert_same(pretrainer(checkpoint=tmp_path).fit(X), whole)


@pytest.mark.parametrize("step", range(1, EPOCHS * STEPS + 1))
def test_a_run_interrupted_after_any_step_ends_like_one_that_was_not(
    step, pretrainer, whole, X, tmp_path
):
    stopped = interrupted(pretrainer(interrupt_at=step, checkpoint=tmp_path), X)
    assert stopped.n_epochs_ == step // STEPS
    for name, values in stopped.history_.items():
        assert values == whole.history_[name][: step // STEPS]
    assert_same(pretrainer(checkpoint=tmp_path).fit(X), whole)


@pytest.mark.slow
@pytest.mark.parametrize(
    "parameters",
    [
        {"precision": "bfloat16"},
        {"num_workers": 1},
        {"accumulate": 2},
        {"precision": "float32"},
        {"precision": "float16"},
        {"optimizer": "lars", "learning_rate": 1.0},
        {"optimizer__ema": 0.9},
        {"optimizer__clip_norm": 0.1, "precision": "float16"},
    ],
    ids=str,
)
def test_a_run_with_any_option_can_be_interrupted(parameters, pretrainer, X, tmp_path):
    interrupted(pretrainer(interrupt_at=5, checkpoint=tmp_path, **parameters), X)
    resumed = pretrainer(checkpoint=tmp_path, **parameters).fit(X)
    assert_same(resumed, pretrainer(**parameters).fit(X))


def test_a_run_may_be_interrupted_after_every_step(pretrainer, whole, X, tmp_path):
    for _ in range(EPOCHS * STEPS):
        interrupted(pretrainer(interrupt_at=1, checkpoint=tmp_path), X)
    assert_same(pretrainer(checkpoint=tmp_path).fit(X), whole)


@pytest.mark.parametrize("keep", [False, True])
def test_ctrl_c_leaves_a_usable_estimator(keep, pretrainer, whole, X, tmp_path):
    folder = tmp_path if keep else None
    stopped = pretrainer(interrupt_at=4, checkpoint=folder)
    words = "after step 4, with 1 epoch completed"
    words += "; to go on, call fit again with checkpoint='" if keep else "$"
    with pytest.raises(TrainingInterrupted, match=words):
        stopped.fit(X)
    assert np.isfinite(stopped.transform(X)).all()
    assert np.isfinite(stopped.score(X))
    assert not np.array_equal(stopped.weights_, whole.weights_)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_leaves_the_average_of_the_weights(pretrainer, X, tmp_path):
    options = {"checkpoint": tmp_path, "optimizer__ema": 0.9}
    stopped = interrupted(pretrainer(interrupt_at=5, **options), X)
    saved = safetensors.torch.load_file(max(tmp_path.glob("checkpoint-*")))
    for name, value in safetensors.torch.load(stopped.weights_.tobytes()).items():
        assert value.equal(saved[f"average/{name}"]), name


def test_a_run_with_only_damaged_checkpoints_ends_with_the_same_weights(
    pretrainer, whole, X, tmp_path
):
    interrupted(pretrainer(interrupt_at=7, checkpoint=tmp_path), X)
    for file in tmp_path.glob("checkpoint-*"):
        file.write_bytes(b"damaged")
    with pytest.warns(CheckpointWarning, match="is damaged and was removed"):
        assert_same(pretrainer(checkpoint=tmp_path).fit(X), whole)


def test_if_the_newest_checkpoint_is_truncated_the_one_before_is_used(
    pretrainer, whole, X, tmp_path
):
    interrupted(pretrainer(interrupt_at=7, checkpoint=tmp_path), X)
    newest = max(tmp_path.glob("checkpoint-*"))
    newest.write_bytes(newest.read_bytes()[:-1])
    with pytest.warns(CheckpointWarning, match="is damaged and was removed") as told:
        resumed = pretrainer(checkpoint=tmp_path).fit(X)
    assert_same(resumed, whole)
    assert {warning.filename for warning in told} == {__file__}


def test_a_full_disk_does_not_stop_a_run(pretrainer, whole, X, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(CheckpointWarning, match=r": No space left on device; .*training continues"):
        fitted = pretrainer(checkpoint=tmp_path).fit(X)
    assert_same(fitted, whole)
    assert not list(tmp_path.glob("[!.]*"))


def test_a_run_that_failed_continues_from_the_last_good_epoch(pretrainer, whole, X, tmp_path):
    failed = pretrainer(fail_at=8, checkpoint=tmp_path)
    with pytest.raises(NonFiniteLossError, match="epoch 2 are kept"):
        failed.fit(X)
    assert failed.n_epochs_ == 2
    assert_same(pretrainer(checkpoint=tmp_path).fit(X), whole)


def test_a_resumed_run_that_fails_keeps_its_last_good_epoch(pretrainer, X, tmp_path):
    interrupted(pretrainer(interrupt_at=4, checkpoint=tmp_path), X)
    failed, expected = pretrainer(fail_at=2, checkpoint=tmp_path), pretrainer(fail_at=6)
    for estimator in (failed, expected):
        with pytest.raises(NonFiniteLossError, match="epoch 1 are kept"):
            estimator.fit(X)
    assert_same(failed, expected)


def test_a_run_ended_by_a_time_limit_continues_with_more_time(pretrainer, whole, X, tmp_path):
    none_left = [TimeLimit(minutes=1e-9)]
    short = pretrainer(callbacks=none_left, checkpoint=Checkpoint(tmp_path, every=99)).fit(X)
    assert short.n_epochs_ == 1
    again = pretrainer(callbacks=none_left, checkpoint=tmp_path).fit(X)
    np.testing.assert_array_equal(again.weights_, short.weights_)
    assert_same(pretrainer(checkpoint=tmp_path).fit(X), whole)


@pytest.mark.parametrize(
    ("every", "places"),
    [(1, [6, 9]), (2, [6, 9]), (99, [9]), (timedelta(0), [8, 9]), (timedelta(hours=9), [9])],
)
def test_checkpoints_are_written_as_often_as_asked_and_at_the_end(
    every, places, pretrainer, X, tmp_path
):
    pretrainer(checkpoint=tmp_path, checkpoint__every=every).fit(X)
    names = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert [int(name.split("-")[1]) for name in names] == places


def test_without_random_state_a_run_continues_with_its_own_seed(pretrainer, X, tmp_path):
    options = {"random_state": None, "checkpoint": tmp_path}
    stopped = interrupted(pretrainer(interrupt_at=4, **options), X)
    resumed = pretrainer(**options).fit(X)
    assert resumed.history_["loss"][:1] == stopped.history_["loss"]
    assert resumed.n_epochs_ == EPOCHS


def _never(*args, **kwargs):
    raise AssertionError("work was done")


def test_a_run_that_has_ended_is_returned_at_once(ended, tiny, X, monkeypatch):
    monkeypatch.setattr("otcxr_sk.estimators._fit.scan", _never)
    monkeypatch.setattr("otcxr_sk.method._model.OTCXRModel.terms", _never)
    assert_same(tiny(checkpoint=ended.checkpoint).fit(X), ended)


def test_a_folder_in_use_is_refused(tiny, X, tmp_path):
    class Another(Callback):
        def on_epoch_end(self, state):
            with pytest.raises(ValueError, match="is being used by another run"):
                tiny(checkpoint=tmp_path).fit(X)

    tiny(checkpoint=tmp_path, callbacks=[Another()]).fit(X)
    tiny(checkpoint=tmp_path).fit(X)


def test_every_parameter_is_free_or_makes_another_run():
    assert not FREE.keys() & OTHER.keys()
    groups = {
        "optimizer": Optimizer(),
        "views": Views(),
        "objective": Objective(),
        "cache": Cache("cache"),
        "checkpoint": Checkpoint("run"),
    }
    every = set(OTCXRPretrainer(**groups).get_params())
    # Groups are compared parameter by parameter, and folders not at all.
    in_parts = {"optimizer", "views", "objective", "cache__folder", "checkpoint__folder"}
    assert FREE.keys() | OTHER.keys() == every - in_parts


@pytest.mark.parametrize(("name", "value"), OTHER.items())
def test_another_parameter_is_refused_by_name(name, value, ended, tiny, X, tmp_path):
    if name == "weights":
        value = tmp_path / value
        value.write_bytes(b"other weights")
    before = sorted(os.listdir(ended.checkpoint))
    other = tiny(checkpoint=ended.checkpoint).set_params(**{name: value})
    with pytest.raises(ValueError, match=f"holds another run: {name} is .* there and .* here"):
        other.fit(X)
    assert sorted(os.listdir(ended.checkpoint)) == before


def test_another_run_is_refused_before_a_damaged_checkpoint_is_removed(pretrainer, X, tmp_path):
    pretrainer(checkpoint=tmp_path).fit(X)
    max(tmp_path.glob("checkpoint-*")).write_bytes(b"damaged")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match="holds another run: learning_rate"):
        pretrainer(checkpoint=tmp_path, learning_rate=1e-5).fit(X)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize(("name", "value"), FREE.items())
def test_what_changes_no_result_may_differ(name, value, ended, tiny, X, tmp_path):
    shutil.copytree(ended.checkpoint, tmp_path / "run")
    other = tiny(cache=tmp_path / "other", checkpoint=tmp_path / "run")
    is_folder = name in ("cache", "checkpoint")
    fitted = other.set_params(**{name: tmp_path / value if is_folder else value}).fit(X)
    np.testing.assert_array_equal(fitted.weights_, ended.weights_)


def test_default_groups_are_the_same_run_as_none(ended, tiny, X):
    groups = {"optimizer": Optimizer(), "views": Views(), "objective": Objective()}
    assert_same(tiny(checkpoint=ended.checkpoint, **groups).fit(X), ended)


def test_all_differences_are_named(ended, tiny, X):
    other = tiny(checkpoint=ended.checkpoint, epochs=5, objective__eta=9.0, random_state=3)
    with pytest.raises(ValueError, match="another run") as caught:
        other.fit(X[:-1])
    for words in (
        "epochs is 1 there and 5 here",
        "objective__eta is 0.1 there and 9.0 here",
        "random_state gives another seed",
        "24 there and 23 here",
        "Use another folder",
        "in a cross-validation, whose fits are runs of their own, checkpoint=None",
    ):
        assert words in str(caught.value)


@pytest.mark.parametrize("which", ["turned", "shifted", "others", "scaled"])
def test_other_images_are_refused(which, ended, tiny, X, blobs):
    others = {
        "turned": X[::-1],
        "shifted": np.roll(X, 1, axis=0),
        "others": blobs(24, seed=1),
        "scaled": X * np.arange(len(X))[:, None, None],
    }
    with pytest.raises(ValueError, match="the images differ, as in row"):
        tiny(checkpoint=ended.checkpoint).fit(others[which])


def test_an_encoder_of_another_structure_is_refused(
    pretrainer, stopping_encoder, tiny, X, tmp_path
):
    pretrainer(checkpoint=tmp_path).fit(X)
    other = stopping_encoder()
    other.rest.append(nn.ReLU())
    with pytest.raises(
        ValueError, match=r"encoder is 'StoppingEncoder .+' there and 'StoppingEncoder .+' here"
    ):
        tiny(other, epochs=EPOCHS, checkpoint=tmp_path).fit(X)


def test_another_version_of_the_library_warns(pretrainer, X, tmp_path, monkeypatch):
    interrupted(pretrainer(interrupt_at=4, checkpoint=tmp_path), X)
    monkeypatch.setattr("otcxr_sk.estimators._run.__version__", "9.9")
    with pytest.warns(CheckpointWarning, match=r"begun by otcxr-sk .* and continues with 9\.9"):
        pretrainer(checkpoint=tmp_path).fit(X)


def stopped_from_outside(folder, *kills):
    """Return how runs were stopped, how many steps were saved, and whether the weights agree."""
    script = Path(__file__).with_name("killed.py")
    done = subprocess.run(
        [sys.executable, script, folder, *kills],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    how, saved, weights = zip(*map(str.split, done.stdout.splitlines()), strict=True)
    return how, list(map(int, saved)), set(weights)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_stopped_from_outside_ends_with_the_same_weights(tmp_path):
    how, saved, weights = stopped_from_outside(tmp_path, "save", "interrupt")
    assert weights == {"same"}
    assert how == ("fsync", "replace", "unlink", "interrupted")
    assert saved[:3] == [12, 0, 18]
    assert 0 < saved[3] < 36


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_run_killed_at_any_of_many_times_ends_with_the_same_weights(tmp_path):
    how, saved, weights = stopped_from_outside(tmp_path, "12")
    assert weights == {"same"}
    assert how.count("killed") > 3
    assert len(set(saved) - {0, 36}) > 1
