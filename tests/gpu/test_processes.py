"""Processes that use a GPU one after another, together, or not at all."""

import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import joblib
import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.pipeline import make_pipeline

SCRIPT = Path(__file__).with_name("run.py")

pytestmark = pytest.mark.gpu


@pytest.fixture
def start(gpu, tmp_path, X):
    """Start a run in a process of its own; `run.py` tells what it does."""
    np.save(tmp_path / "X.npy", X)

    def begin(name, *step, launcher=(), **environment):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        process = subprocess.Popen(
            [sys.executable, *launcher, SCRIPT, gpu, tmp_path / "X.npy", folder, *step],
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, **environment},
        )
        after.enter_context(process)
        after.callback(process.kill)
        return process

    with ExitStack() as after:
        yield begin


@pytest.fixture
def result(tmp_path):
    """Wait for a run, and return what it saved."""

    def end(process, name):
        _, told = process.communicate(timeout=120)
        assert process.returncode == 0, told
        return np.load(tmp_path / name / "result.npz")

    return end


def torchrun(count):
    return ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]


def test_a_model_fitted_on_a_gpu_loads_without_one(fitted, X, on_cpu, difference, tmp_path):
    joblib.dump(fitted, tmp_path / "fitted.joblib")
    np.save(tmp_path / "X.npy", X)
    script = """if True:
        import joblib, numpy, torch
        assert not torch.cuda.is_available()
        fitted = joblib.load("fitted.joblib").set_params(device="auto", precision="float32")
        numpy.save("embedding.npy", fitted.transform(numpy.load("X.npy")))
    """
    hidden = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    subprocess.run([sys.executable, "-c", script], check=True, cwd=tmp_path, env=hidden)
    assert difference(np.load(tmp_path / "embedding.npy"), on_cpu.transform(X)) < 1e-4


def test_a_killed_run_ends_with_the_weights_of_one_that_was_not(start, result):
    whole, killed = start("whole"), start("run", "10")
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    resumed = result(start("run"), "run")
    np.testing.assert_array_equal(resumed["weights"], result(whole, "whole")["weights"])


def test_two_processes_that_share_the_gpu_train_alike(start, result):
    one, other = start("one"), start("other")
    weights = result(one, "one")["weights"]
    np.testing.assert_array_equal(result(other, "other")["weights"], weights)


@pytest.mark.parametrize("count", [1, 2])
def test_torchrun_trains_with_a_process_for_each_gpu(start, result, count):
    if torch.cuda.device_count() < count:
        pytest.skip("needs two GPUs")
    alone, together = start("alone"), start("together", launcher=torchrun(count))
    loss = result(alone, "alone")["loss"]
    np.testing.assert_allclose(result(together, "together")["loss"], loss, rtol=0.1)


def test_torchrun_with_more_processes_than_gpus_is_refused_at_once(start):
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "0").split(",")[0]
    process = start("refused", launcher=torchrun(2), CUDA_VISIBLE_DEVICES=first)
    _, told = process.communicate(timeout=60)
    assert process.returncode
    assert "more processes than this machine has GPUs, which is 1" in told


def test_a_search_in_two_processes_scores_like_one_in_this(small, X, phantoms):
    pipe = make_pipeline(small(), LogisticRegression(C=0.01))
    choices = {"otcxrpretrainer__views__erase": [0.0, 0.5]}
    sick = phantoms.labels.any(axis=1)

    def scores(n_jobs):
        search = GridSearchCV(pipe, choices, cv=GroupKFold(2), n_jobs=n_jobs)
        return search.fit(X, sick, groups=phantoms.groups).cv_results_["mean_test_score"]

    np.testing.assert_array_equal(scores(2), scores(1))


def test_joblib_workers_embed_like_this_process(exact, X, difference):
    with joblib.parallel_config("loky", n_jobs=2):
        by_workers = exact.transform(X)
    assert difference(by_workers, exact.transform(X)) < 1e-3
