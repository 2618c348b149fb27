"""Callbacks: they decide when a run ends and with which weights, and change nothing else."""

import numpy as np
import pytest
import torch

from otcxr_sk.training import Callback, CSVLogger, EarlyStopping, TimeLimit

# In an epoch of 24 images in batches of 8.
STEPS = 3


class Scripted(Callback):
    """Records given numbers, and keeps the weights of every epoch."""

    def __init__(self, numbers):
        self.numbers, self.weights = numbers, []

    def on_epoch_end(self, state):
        state.record("scripted", self.numbers[state.epoch - 1])
        self.weights.append(state.estimator().weights_)

    def __deepcopy__(self, memo):
        return self


@pytest.fixture(scope="module")
def pretrainer(tiny, stopping_encoder):
    def make(interrupt_at=None, **parameters):
        return tiny(stopping_encoder(interrupt_at), **{"epochs": 6, **parameters})

    return make


@pytest.fixture(scope="module")
def whole(pretrainer, X):
    return pretrainer().fit(X)


class Curious(Callback):
    """Uses everything that a callback may use, and draws random numbers."""

    def __init__(self, X):
        self.X, self.seen = X, []

    def on_fit_begin(self, state):
        torch.rand(7)

    def on_epoch_end(self, state):
        torch.rand(7)
        estimator = state.estimator()
        self.seen.append(
            (estimator.transform(self.X), estimator.score(self.X), estimator.history_["loss"][-1])
        )
        assert estimator.n_epochs_ == state.epoch
        assert estimator.match(self.X[:2]).plan.shape[0] == 2
        state.keep_weights()
        state.record("nothing", np.nan)

    def __deepcopy__(self, memo):
        return self


def test_a_callback_that_only_looks_changes_no_bit_of_training(pretrainer, whole, X):
    curious = Curious(X)
    looked_at = pretrainer(callbacks=[curious]).fit(X)
    np.testing.assert_array_equal(looked_at.weights_, whole.weights_)
    assert looked_at.history_.pop("nothing") == pytest.approx([np.nan] * 6, nan_ok=True)
    assert looked_at.history_ == whole.history_
    embedding, score, loss = curious.seen[-1]
    np.testing.assert_array_equal(embedding, whole.transform(X))
    assert score == whole.score(X)
    assert loss == whole.history_["loss"][-1]


SCRIPT = [3.0, 1.0, 2.0, 2.0, 0.0, 0.0]


def watched(numbers=SCRIPT, **options):
    scripted = Scripted(numbers)
    return scripted, [scripted, EarlyStopping("scripted", patience=2, **options)]


@pytest.mark.parametrize("ema", [None, 0.9])
def test_a_run_ends_early_with_the_weights_of_its_best_epoch(ema, pretrainer, X):
    scripted, callbacks = watched()
    fitted = pretrainer(callbacks=callbacks, optimizer__ema=ema).fit(X)
    assert fitted.history_["scripted"] == SCRIPT[:4]
    assert fitted.n_epochs_ == 4
    np.testing.assert_array_equal(fitted.weights_, scripted.weights[1])
    assert not np.array_equal(fitted.weights_, scripted.weights[3])


def test_without_restore_best_it_ends_with_its_last_weights(pretrainer, X):
    scripted, callbacks = watched(restore_best=False)
    fitted = pretrainer(callbacks=callbacks).fit(X)
    assert fitted.n_epochs_ == 4
    np.testing.assert_array_equal(fitted.weights_, scripted.weights[3])


def test_a_run_that_does_not_end_early_has_its_best_weights_too(pretrainer, X):
    scripted, callbacks = watched([3.0, 2.0, 3.0, 1.0, 0.0, 1.0])
    fitted = pretrainer(callbacks=callbacks).fit(X)
    assert fitted.n_epochs_ == 6
    np.testing.assert_array_equal(fitted.weights_, scripted.weights[4])


@pytest.mark.slow
def test_the_estimator_has_the_weights_of_the_lowest_validation_loss(tiny, X, blobs):
    parameters = {"validation_fraction": 0.25, "epochs": 8, "learning_rate": 0.02}
    stopping = EarlyStopping(patience=3)
    fitted = tiny(callbacks=[stopping], **parameters).fit(X)
    losses = fitted.history_["validation_loss"]
    best = stopping.best_epoch(fitted.history_)
    assert losses[best - 1] == min(losses)
    last = tiny(**parameters, callbacks=[TimeLimit(minutes=1e9)]).fit(X)
    assert last.history_["validation_loss"][: len(losses)] == losses
    assert fitted.score(blobs(24, 1)) != last.score(blobs(24, 1))


def test_callbacks_and_validation_see_the_average_of_the_weights(pretrainer, X):
    class Looking(Callback):
        def on_epoch_end(self, state):
            losses.append(-state.estimator().score(X[:6]))

    losses = []
    fitted = pretrainer(callbacks=[Looking()], optimizer__ema=0.9, epochs=2).fit(X)
    assert losses[-1] == -fitted.score(X[:6])
    held = pretrainer(optimizer__ema=0.9, epochs=2, validation_fraction=0.25).fit(X)
    without = pretrainer(epochs=2, validation_fraction=0.25).fit(X)
    assert held.history_["loss"] == without.history_["loss"]
    assert held.history_["validation_loss"] != without.history_["validation_loss"]


@pytest.fixture(scope="module", params=[None, 0.9])
def ended_early(request, pretrainer, X):
    return pretrainer(
        callbacks=watched()[1], validation_fraction=0.1, optimizer__ema=request.param
    ).fit(X)


# Steps in the first epoch, in the best one, and after it.
@pytest.mark.parametrize(
    "step", [2, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 7, 12)), 6]
)
def test_an_interrupted_run_ends_early_with_the_same_weights(
    step, pretrainer, ended_early, X, tmp_path
):
    same = {"validation_fraction": 0.1, "optimizer__ema": ended_early.optimizer.ema}
    options = {"checkpoint": tmp_path, **same}
    with pytest.raises(KeyboardInterrupt):
        pretrainer(step, callbacks=watched()[1], **options).fit(X)
    for _ in range(2):
        # The second time, the run has ended already.
        resumed = pretrainer(callbacks=watched()[1], **options).fit(X)
        np.testing.assert_array_equal(resumed.weights_, ended_early.weights_)
        assert resumed.history_ == ended_early.history_


def test_ctrl_c_leaves_the_latest_weights(pretrainer, X):
    scripted, callbacks = watched()
    stopped = pretrainer(3 * STEPS + 1, callbacks=callbacks)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(X)
    assert stopped.n_epochs_ == 3
    assert not any(np.array_equal(stopped.weights_, weights) for weights in scripted.weights)


@pytest.mark.parametrize(
    "changed", [{"patience": 3}, {"monitor": "loss"}, {"restore_best": False}], ids=str
)
def test_early_stopping_by_another_rule_makes_another_run(changed, pretrainer, X, tmp_path):
    options = {"monitor": "scripted", "patience": 2}
    scripted = Scripted(SCRIPT)
    pretrainer(callbacks=[scripted, EarlyStopping(**options)], checkpoint=tmp_path).fit(X)
    other = [scripted, EarlyStopping(**options | changed)]
    with pytest.raises(ValueError, match=r"another run: callbacks is \[.EarlyStopping\(.* there"):
        pretrainer(callbacks=other, checkpoint=tmp_path).fit(X)


class Enough(Callback):
    def on_epoch_end(self, state):
        return state.epoch == 2


def test_a_run_ended_by_a_user_defined_callback_stays_ended(pretrainer, X, tmp_path):
    ended = pretrainer(callbacks=[Enough()], checkpoint=tmp_path).fit(X)
    assert ended.n_epochs_ == 2
    again = pretrainer(callbacks=[Enough()], checkpoint=tmp_path).fit(X)
    np.testing.assert_array_equal(again.weights_, ended.weights_)


def test_callbacks_may_be_added_and_removed_while_a_run_is_stopped(pretrainer, whole, X, tmp_path):
    options = {"checkpoint": tmp_path / "run"}
    with pytest.raises(KeyboardInterrupt):
        pretrainer(2 * STEPS + 1, callbacks=[Scripted(SCRIPT)], **options).fit(X)
    log = CSVLogger(tmp_path / "log.csv")
    resumed = pretrainer(callbacks=[log], **options).fit(X)
    np.testing.assert_array_equal(resumed.weights_, whole.weights_)
    assert resumed.history_["scripted"] == pytest.approx([3, 1, *[np.nan] * 4], nan_ok=True)
    assert len((tmp_path / "log.csv").read_text().splitlines()) == 1 + 6


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"callbacks": [print]}, TypeError, "and at least one is not; pass"),
        ({"callbacks": [EarlyStopping]}, TypeError, "one is not: it is a class, call it"),
        ({"callbacks": [EarlyStopping()]}, ValueError, "no images are held out: set"),
        (
            {"callbacks": [EarlyStopping("loss"), EarlyStopping("spread")]},
            ValueError,
            "only one of several EarlyStopping can have restore_best=True",
        ),
    ],
)
def test_callbacks_that_cannot_work_are_refused_before_images_are_read(
    parameters, error, words, tiny, X, monkeypatch
):
    monkeypatch.setattr("otcxr_sk.estimators._fit.scan", None)
    with pytest.raises(error, match=words):
        tiny(**parameters).fit(X)
