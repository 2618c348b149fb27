import pytest
from small_runs import Images, make_model, make_trainer, same

from otcxr_sk.training import Callback, CheckpointFolder, TimeLimit


class Slow(Images):
    """Images that take `minutes` an epoch to read."""

    def __init__(self, n, monkeypatch, minutes):
        super().__init__(n)
        self.now, self.minutes = 0.0, minutes
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def read(self, indices, size):
        self.now += 60 * self.minutes * len(indices) / len(self)
        return super().read(indices, size)


@pytest.fixture
def slow(monkeypatch):
    """Twenty images that take 10 minutes an epoch, in three batches."""
    return Slow(20, monkeypatch, minutes=10)


def train(source, *callbacks, folder=None, epochs=5):
    """Train where a run is, if there is one, and return the model and the history."""
    model = make_model(dropout=0.2)
    checkpoints = CheckpointFolder(folder) if folder else None
    start = checkpoints.load() if checkpoints else None
    trainer = make_trainer(epochs=epochs, callbacks=callbacks)
    return model, trainer.fit(model, source, checkpoints, start)


@pytest.mark.parametrize(("minutes", "epochs"), [(0.01, 1), (29, 3), (31, 4), (1000, 5)])
def test_no_epoch_begins_after_the_limit_and_none_is_cut_short(minutes, epochs, slow):
    _, history = train(slow, TimeLimit(minutes))
    assert len(history["loss"]) == epochs
    assert len(slow.batches) == 3 * epochs
    _, whole = train(Images(20))
    assert history["loss"] == whole["loss"][:epochs]


def test_a_resumed_run_counts_earlier_time(slow, tmp_path):
    assert len(train(slow, TimeLimit(15), folder=tmp_path)[1]["loss"]) == 2
    slow.now += 1000
    assert len(train(slow, TimeLimit(15), folder=tmp_path)[1]["loss"]) == 2
    assert len(slow.batches) == 3 * 2
    assert len(train(slow, TimeLimit(35), folder=tmp_path)[1]["loss"]) == 4


def test_a_higher_limit_continues_to_the_weights_of_an_uninterrupted_run(slow, tmp_path):
    stopped, _ = train(slow, TimeLimit(15), folder=tmp_path)
    model, history = train(slow, TimeLimit(1000), folder=tmp_path)
    whole, whole_history = train(Images(20))
    assert same(model, whole)
    assert history == whole_history
    assert not same(stopped, whole)


class EndsAfterTwo(Callback):
    def __init__(self, end):
        self.end = end

    def on_epoch_end(self, state):
        return state.epoch == 2 and self.end(state)


@pytest.mark.parametrize(("end", "epochs"), [(lambda state: state.pause(), 5), (bool, 2)])
def test_a_paused_run_continues_and_one_that_a_callback_ended_does_not(end, epochs, tmp_path):
    assert len(train(Images(), EndsAfterTwo(end), folder=tmp_path)[1]["loss"]) == 2
    assert len(train(Images(), folder=tmp_path)[1]["loss"]) == epochs


@pytest.mark.parametrize("minutes", [0, -1, float("nan")])
def test_a_limit_that_is_not_positive_is_refused(minutes):
    with pytest.raises(ValueError, match=rf"minutes must be more than 0, got {minutes}"):
        TimeLimit(minutes)
