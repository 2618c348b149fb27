"""Methods may be called from threads: the same seed, the same weights, and nothing changed."""

import asyncio
import pickle
import random
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import joblib
import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.model_selection import cross_validate
from torch.utils.checkpoint import checkpoint

from otcxr_sk import _warning
from otcxr_sk.training import CSVLogger


@pytest.fixture(scope="module")
def encoders(stopping_encoder):
    class Recomputed(stopping_encoder):
        def forward(self, images):
            return checkpoint(super().forward, images, use_reentrant=False)

    return {"timm": "test_resnet", "dropout": stopping_encoder(), "checkpointing": Recomputed()}


@pytest.fixture(scope="module")
def alone(encoders, tiny, X):
    """Weights of every encoder and seed, from fits in this thread alone."""
    return {
        (name, seed): tiny(encoder, random_state=seed).fit(X).weights_
        for name, encoder in encoders.items()
        for seed in (0, 1)
    }


def states():
    return (
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # noqa: NPY002
        random.getstate(),
        list(warnings.filters),
        warnings.showwarning,
    )


@contextmanager
def busy(*, draw):
    """Draw from torch's default generator and change warnings in other threads meanwhile."""
    over, drawn = threading.Event(), []

    def draws():
        while not over.is_set():
            drawn.append(float(torch.rand(())))
            over.wait(1e-4)

    def warns():
        while not over.is_set():
            with warnings.catch_warnings():
                warnings.simplefilter("error")
                over.wait(1e-4)

    before = torch.get_rng_state()
    threads = [threading.Thread(target=work) for work in ((draws, warns) if draw else (warns,))]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join()
    after = torch.get_rng_state()
    torch.set_rng_state(before)
    assert drawn == [float(torch.rand(())) for _ in drawn]
    assert torch.get_rng_state().equal(after)


def in_threads(work, tasks, n=4):
    with ThreadPoolExecutor(n) as pool:
        return list(pool.map(work, tasks))


@pytest.mark.parametrize("names", [("timm", "dropout"), ("timm", "dropout", "checkpointing")])
def test_fits_in_threads_have_the_weights_of_a_fit_alone(names, encoders, alone, tiny, X):
    tasks = 2 * [key for key in alone if key[0] in names]
    before = states()
    # Gradient checkpointing knows the default generators alone.
    with busy(draw="checkpointing" not in names):
        found = in_threads(
            lambda key: tiny(encoders[key[0]], random_state=key[1]).fit(X).weights_, tasks
        )
    for key, weights in zip(tasks, found, strict=True):
        np.testing.assert_array_equal(weights, alone[key])
    if "checkpointing" in names:
        assert states() == before
    assert states()[1:] == before[1:]


def test_fits_in_threads_may_compute_in_bfloat16(tiny, X):
    def fit(seed):
        return tiny(precision="bfloat16", random_state=seed).fit(X).weights_

    seeds = [0, 1, 2, 3]
    for together, alone in zip(in_threads(fit, seeds), map(fit, seeds), strict=True):
        np.testing.assert_array_equal(together, alone)


def test_fits_under_asyncio_have_the_weights_of_a_fit_alone(encoders, alone, tiny, X):
    async def fits():
        return await asyncio.gather(
            *(
                asyncio.to_thread(tiny(encoders[name], random_state=seed).fit, X)
                for name, seed in alone
            )
        )

    for found, weights in zip(asyncio.run(fits()), alone.values(), strict=True):
        np.testing.assert_array_equal(found.weights_, weights)


def test_cross_validation_gives_the_same_scores_in_threads(encoders, tiny, X):
    estimator = tiny(encoders["dropout"])
    expected = cross_validate(estimator, X, cv=3)["test_score"]
    before = torch.get_rng_state()
    with joblib.parallel_config("threading", n_jobs=3):
        found = cross_validate(estimator, X, cv=3)["test_score"]
    np.testing.assert_array_equal(found, expected)
    assert torch.get_rng_state().equal(before)


def test_ten_threads_may_share_a_fitted_estimator(fitted, tiny, X):
    few = X[:10]
    embedding, score = fitted.transform(few), fitted.score(few)
    plan = fitted.match(few, random_state=0).plan
    shared = pickle.loads(pickle.dumps(fitted))
    uses = [
        lambda: (shared.transform(few), embedding),
        lambda: (shared.score(few), score),
        lambda: (shared.match(few, random_state=0).plan, plan),
        lambda: (pickle.loads(pickle.dumps(shared)).transform(few), embedding),
        lambda: (clone(shared).set_params(epochs=1).fit(X).weights_, once),
        lambda: (shared.to_torch().match_shape, fitted.to_torch().match_shape),
    ]
    once = clone(fitted).set_params(epochs=1).fit(X).weights_
    for found, expected in in_threads(lambda use: use(), 3 * uses, n=10):
        np.testing.assert_array_equal(found, expected)


def test_an_estimator_that_is_trained_meanwhile_embeds_as_before_or_as_after(tiny, blobs):
    few, parts = blobs(4, seed=1), [blobs(16), 3 * blobs(16, seed=2)]
    estimator = tiny(epochs=0)
    possible = [clone(estimator).fit(part).transform(few) for part in parts]
    estimator.fit(parts[0])

    def use(number):
        if number % 4:
            return estimator.transform(few)
        estimator.fit(parts[number // 4 % 2])
        return possible[0]

    for found in in_threads(use, range(24), n=6):
        assert any(np.array_equal(found, one) for one in possible)


def test_parts_of_a_stream_follow_one_another(encoders, tiny, X):
    one, other = (tiny(encoders["dropout"]) for _ in range(2))
    for _ in range(4):
        one.partial_fit(X)
    in_threads(lambda _: other.partial_fit(X), range(4))
    np.testing.assert_array_equal(other.weights_, one.weights_)
    assert other.history_ == one.history_


def test_threads_may_write_the_same_history(tiny, X, tmp_path):
    estimator = tiny(epochs=2, callbacks=[CSVLogger(tmp_path / "run.csv")])
    in_threads(lambda _: clone(estimator).fit(X), range(4))
    assert [file.name for file in tmp_path.iterdir()] == ["run.csv"]
    assert len((tmp_path / "run.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("kind", ["one label", "several"])
def test_scikit_learn_changes_the_filters_of_warnings_for_one_thread_at_a_time(
    kind, classifier, X, y, several, monkeypatch
):
    unguarded, usual = [], warnings.catch_warnings.__enter__

    def enter(self):
        caller = sys._getframe(1).f_globals["__name__"]
        if caller.startswith("sklearn.") and not _warning._filtering._is_owned():
            unguarded.append(caller)
        return usual(self)

    monkeypatch.setattr(warnings.catch_warnings, "__enter__", enter)
    labels = y if kind == "one label" else several
    found = classifier(epochs=1, class_weight="balanced", validation_fraction=0.3)
    found.fit(X.reshape(len(X), -1), labels).predict(X)
    assert not unguarded


FIRST = """
import sys
import threading
import numpy as np
import otcxr_sk
import torch
torch.set_num_threads(1)
X = np.random.default_rng(0).random((16, 32, 32), np.float32)
names = {
    "images": "read_image", "datasets": "find_near_duplicates", "method": "build_encoder",
    "training": "Trainer", "evaluation": "KNNProbe", "plotting": "MatchingDisplay",
}
together = threading.Barrier(10)
found = []

def load(room, name):
    together.wait()
    getattr(__import__("otcxr_sk." + room, fromlist=[name]), name)

def fit(_):
    together.wait()
    estimator = otcxr_sk.OTCXRPretrainer(
        "test_vit", image_size=32, epochs=1, batch_size=8, random_state=0, num_workers=0
    )
    found.append(estimator.fit(X).transform(X).tobytes())

threads = [threading.Thread(target=load, args=item) for item in names.items()]
threads += [threading.Thread(target=fit, args=(n,)) for n in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(found) == 4 and len(set(found)) == 1
"""


@pytest.mark.slow
def test_what_threads_use_first_at_the_same_time_is_loaded_once():
    for _ in range(2):
        subprocess.run([sys.executable, "-W", "ignore", "-c", FIRST], check=True, timeout=250)


@pytest.mark.slow
def test_many_fits_in_many_threads_have_the_weights_of_a_fit_alone(encoders, alone, tiny, X):
    tasks = 10 * list(alone)
    before = states()
    with busy(draw=False):
        found = in_threads(
            lambda key: tiny(encoders[key[0]], random_state=key[1]).fit(X).weights_, tasks, n=16
        )
    assert all(
        np.array_equal(weights, alone[key]) for key, weights in zip(tasks, found, strict=True)
    )
    assert states() == before
