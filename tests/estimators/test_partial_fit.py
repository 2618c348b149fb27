"""Training that continues: `partial_fit`, and `fit` with `warm_start`."""

import pickle

import numpy as np
import pytest
import safetensors.torch
import torch
from PIL import Image
from sklearn.base import clone

from otcxr_sk.estimators import NonFiniteLossError, UnusableImageWarning
from otcxr_sk.training import Processes


def stream(estimator, *parts):
    for part in parts:
        estimator.partial_fit(part)
    return estimator


def state(estimator):
    """All that is saved, except for the encoder given."""
    return pickle.dumps({k: v for k, v in estimator.__getstate__().items() if k != "encoder"})


def parameters(estimator):
    """Weights that would stay the same at a learning rate of 0."""
    loaded = safetensors.torch.load(estimator.weights_.tobytes())
    return {name: value for name, value in loaded.items() if "running" not in name}


def assert_close(estimator, other):
    theirs = parameters(other)
    for name, value in parameters(estimator).items():
        if value.is_floating_point():
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-6)


def test_a_stream_learns(tiny, blobs):
    held_out = blobs(24, seed=99)
    learner = tiny(match_stride=8).partial_fit(blobs(24))
    before = learner.score(held_out)
    for part in range(1, 10):
        learner.partial_fit(blobs(24, seed=part))
    assert learner.score(held_out) > before
    assert learner.history_["loss"][-1] < learner.history_["loss"][0]


@pytest.mark.parametrize("options", [{}, {"optimizer": "lars"}, {"optimizer__ema": 0.9}], ids=str)
def test_the_same_stream_gives_the_same_weights_and_another_order_others(options, tiny, blobs):
    parts = [blobs(16, seed=seed) for seed in range(3)]
    first, again, other = (
        stream(tiny(**options), *(parts[i] for i in order))
        for order in ((0, 1, 2), (0, 1, 2), (0, 2, 1))
    )
    np.testing.assert_array_equal(first.weights_, again.weights_)
    assert first.history_ == again.history_
    assert not np.array_equal(first.weights_, other.weights_)


def test_every_call_is_an_epoch_of_the_history_with_new_views(tiny, X):
    learner = stream(tiny(learning_rate=1e-12), X, X, X)
    assert learner.n_epochs_ == 3
    assert {len(values) for values in learner.history_.values()} == {3}
    assert len(set(learner.history_["matching_chance"])) == 3


def test_the_first_part_decides_how_pixels_are_standardized(tiny, X):
    learner = tiny().partial_fit(X)
    mean, std = learner.mean_, learner.std_
    learner.partial_fit(5 * X + 1)
    assert (learner.mean_, learner.std_) == (mean, std)
    fitted = tiny().fit(X)
    assert (fitted.mean_, fitted.std_) == (mean, std)


def test_a_copy_embeds_the_same_and_starts_a_new_optimizer(tiny, blobs, X):
    learner = stream(tiny(), X)
    copy = pickle.loads(pickle.dumps(learner))
    np.testing.assert_array_equal(copy.transform(X), learner.transform(X))
    part = blobs(24, seed=1)
    for estimator in (copy, learner):
        estimator.partial_fit(part)
        assert np.isfinite(estimator.transform(X)).all()
    assert copy.n_epochs_ == learner.n_epochs_ == 2
    assert not np.array_equal(copy.weights_, learner.weights_)
    # The rate of the next step: the 4th, then the 7th, or the 4th again where a copy starts anew.
    assert learner.history_["learning_rate"] == pytest.approx([2e-3 * 4 / 40, 2e-3 * 7 / 40])
    assert copy.history_["learning_rate"] == pytest.approx([2e-3 * 4 / 40, 2e-3 * 4 / 40])


def test_a_clone_starts_from_scratch(tiny, X):
    learner = stream(tiny(), X)
    np.testing.assert_array_equal(clone(learner).partial_fit(X).weights_, learner.weights_)


def test_partial_fit_continues_from_fit_and_fit_starts_from_scratch(tiny, blobs, X):
    fitted = tiny(epochs=2).fit(X)
    copy = pickle.loads(pickle.dumps(fitted)).set_params(learning_rate=1e-12)
    assert_close(copy.partial_fit(blobs(24, seed=1)), fitted)
    assert copy.n_epochs_ == 3
    assert copy.history_["loss"][:2] == fitted.history_["loss"]
    refitted = stream(tiny(epochs=2), blobs(24, seed=1)).fit(X)
    np.testing.assert_array_equal(refitted.weights_, fitted.weights_)
    assert refitted.history_ == fitted.history_


def test_a_stream_starts_from_the_weights_given(tiny, X):
    fitted = tiny().fit(X)
    assert_close(tiny(weights=fitted, learning_rate=1e-12).partial_fit(X), fitted)


@pytest.mark.parametrize("change", [{"optimizer": "lars"}, {"optimizer__ema": 0.9}], ids=str)
def test_a_change_of_optimizer_keeps_only_the_weights(change, tiny, X):
    learner = stream(tiny(), X)
    copy = pickle.loads(pickle.dumps(learner))
    for estimator in (learner, copy):
        estimator.set_params(**change).partial_fit(X)
    np.testing.assert_array_equal(learner.weights_, copy.weights_)


def test_network_and_loss_stay_those_of_the_first_call(tiny, X):
    learner, same = stream(tiny(), X), stream(tiny(), X, X)
    learner.set_params(encoder="test_vit", objective__alpha=5.0, image_size=64).partial_fit(X)
    np.testing.assert_array_equal(learner.weights_, same.weights_)
    assert learner.encoder_name_ == "test_resnet"


@pytest.mark.parametrize("bad", ["nan", "one", "features"])
def test_a_part_that_is_refused_changes_nothing(bad, tiny, X):
    rows = X.reshape(len(X), -1)
    wrong = {"nan": rows * np.nan, "one": rows[:1], "features": rows[:, :-1]}[bad]
    words = {"nan": "NaN", "one": "1 sample", "features": "X has 1023 features"}[bad]
    learner, other = stream(tiny(), rows), stream(tiny(), rows, rows)
    before = state(learner)
    with pytest.raises(ValueError, match=words):
        learner.partial_fit(wrong)
    assert state(learner) == before
    np.testing.assert_array_equal(learner.partial_fit(rows).weights_, other.weights_)


def test_a_part_that_fails_changes_nothing(stopping_encoder, tiny, X):
    # The first part is a single batch.
    learner = stream(tiny(stopping_encoder(fail_at=2)), X[:8])
    before = state(learner)
    with pytest.raises(NonFiniteLossError):
        learner.partial_fit(X)
    assert state(learner) == before
    assert np.isfinite(learner.transform(X)).all()


def test_ctrl_c_keeps_the_weights_of_the_step(stopping_encoder, tiny, X):
    # The first part is a single batch.
    learner = stream(tiny(stopping_encoder(interrupt_at=2)), X[:8])
    before = learner.weights_
    with pytest.raises(KeyboardInterrupt, match="after step 3"):
        learner.partial_fit(X)
    assert not np.array_equal(learner.weights_, before)
    assert learner.n_epochs_ == 1
    learner.partial_fit(X[:8])
    assert learner.n_epochs_ == 2
    assert learner.history_["learning_rate"][-1] == pytest.approx(2e-3 * 5 / 40)


def test_files_are_streamed_and_broken_ones_left_out(tiny, blobs, tmp_path):
    for row, image in enumerate(blobs(12)):
        scaled = np.clip(image * 200, 0, 255).astype(np.uint8)
        Image.fromarray(scaled).save(tmp_path / f"{row:02}.png")
    (tmp_path / "03.png").write_bytes(b"broken")
    learner = tiny(on_error="warn")
    files = sorted(tmp_path.iterdir())
    with pytest.warns(UnusableImageWarning, match="left out of training"):
        learner.partial_fit(files[:6])
    assert [problem["row"] for problem in learner.skipped_] == [3]
    learner.partial_fit(files[6:])
    assert learner.skipped_ == []
    assert np.isfinite(learner.transform(files[6:])).all()


def test_without_warm_start_fit_starts_from_scratch(tiny, X):
    fitted = tiny().fit(X)
    weights = fitted.weights_
    np.testing.assert_array_equal(fitted.fit(X).weights_, weights)
    np.testing.assert_array_equal(tiny(warm_start=True).fit(X).weights_, weights)


def test_a_warm_fit_continues_from_the_weights(tiny, blobs, X):
    fitted = tiny(epochs=2).fit(X)
    warm = pickle.loads(pickle.dumps(fitted))
    # Only the first fit starts from weights=.
    warm.set_params(warm_start=True, learning_rate=1e-12, weights="nowhere.safetensors")
    assert_close(warm.fit(3 * blobs(24, seed=1)), fitted)
    assert (warm.mean_, warm.std_) == (fitted.mean_, fitted.std_)
    assert warm.n_epochs_ == 4
    assert warm.history_["loss"][:2] == fitted.history_["loss"]
    weights = warm.weights_
    np.testing.assert_array_equal(warm.set_params(epochs=0).fit(X).weights_, weights)
    assert warm.n_epochs_ == 4


def test_a_warm_fit_may_change_the_loss_and_the_size_but_not_the_network(tiny, X):
    fitted = tiny(warm_start=True).fit(X)
    fitted.set_params(objective__alpha=5.0, image_size=64).fit(X)
    assert fitted.n_epochs_ == 2
    before = state(fitted.set_params(encoder="test_vit"))
    with pytest.raises(ValueError, match=r"encoder changed since the last fit;.* warm_start=False"):
        fitted.fit(X)
    assert state(fitted) == before


def test_a_run_from_other_weights_is_another_run(tiny, X, tmp_path):
    warm = tiny(warm_start=True, checkpoint=tmp_path / "first").fit(X)
    with pytest.raises(ValueError, match=r"warm_start is None there and 'from weights .*' here"):
        warm.fit(X)
    whole = pickle.loads(pickle.dumps(warm)).set_params(checkpoint=None).fit(X)
    ended = pickle.loads(pickle.dumps(warm)).set_params(checkpoint=tmp_path / "second").fit(X)
    again = pickle.loads(pickle.dumps(warm)).set_params(checkpoint=tmp_path / "second").fit(X)
    for estimator in (ended, again):
        np.testing.assert_array_equal(estimator.weights_, whole.weights_)
        assert estimator.history_ == whole.history_
    shifted = pickle.loads(pickle.dumps(warm)).set_params(checkpoint=tmp_path / "second")
    shifted.mean_ += 1.0
    with pytest.raises(ValueError, match=r"warm_start is 'from weights .*' there and 'from"):
        shifted.fit(X)


def test_partial_fit_is_for_one_process(tiny, X, monkeypatch):
    several = Processes(torch.device("cpu"), rank=0, count=2)
    monkeypatch.setattr("otcxr_sk.estimators._fit.join_processes", lambda name: several)
    with pytest.raises(ValueError, match="one process: start the script without torchrun"):
        tiny().partial_fit(X)


def test_a_stream_goes_on_with_another_precision(tiny, X):
    learner = tiny(precision="float32").partial_fit(X)
    for precision in ("float16", "bfloat16", "float16"):
        learner.set_params(precision=precision).partial_fit(X)
    assert learner.n_epochs_ == 4
