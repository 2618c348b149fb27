import math

import pytest
import torch

from otcxr_sk.training import Callback


class Diary(Callback):
    def __init__(self, name, pages, fails_at=None):
        self.name, self.pages, self.fails_at = name, pages, fails_at

    def _write(self, event):
        self.pages.append(f"{self.name} {event}")
        if event == self.fails_at:
            raise OSError(f"{self.name} failed")

    def on_fit_begin(self, state):
        self._write("begin")

    def on_epoch_end(self, state):
        self._write(f"epoch {state.epoch}/{state.epochs}")

    def on_fit_end(self, state):
        self._write(f"end, {'well' if state.ended else 'badly'}")


def test_events_come_in_the_order_of_the_callbacks(scripted):
    pages = []
    scripted(Diary("a", pages), Diary("b", pages), epochs=2).go([{"loss": 1.0}, {"loss": 2.0}])
    assert pages == [
        "a begin",
        "b begin",
        "a epoch 1/2",
        "b epoch 1/2",
        "a epoch 2/2",
        "b epoch 2/2",
        "a end, well",
        "b end, well",
    ]


@pytest.mark.parametrize("at", ["begin", "epoch 1/9"])
def test_an_error_in_a_callback_is_raised_and_all_that_began_end(at, scripted):
    pages = []
    with pytest.raises(OSError, match="b failed"):
        scripted(Diary("a", pages), Diary("b", pages, at), Diary("c", pages)).go([{"loss": 1.0}])
    assert "a end, badly" in pages
    assert ("b end, badly" in pages) == ("c end, badly" in pages) == (at != "begin")


def test_an_error_at_the_end_keeps_no_other_callback_from_ending(scripted):
    pages = []
    with pytest.raises(OSError, match="a failed"):
        scripted(Diary("a", pages, "end, well"), Diary("b", pages)).go([])
    assert pages[-1] == "b end, well"


class Recorder(Callback):
    def __init__(self, *names):
        self.names = names

    def on_epoch_end(self, state):
        for name in self.names if state.epoch != 2 else ():
            state.record(name, 10 * state.epoch)


def test_recorded_numbers_stand_beside_measured_ones(scripted):
    run = scripted(Recorder("mine"))
    run.go([{"loss": 1.0}, {"loss": 2.0}, {"loss": 3.0}])
    assert run.state.history["loss"] == [1, 2, 3]
    first, none, last = run.state.history["mine"]
    assert (first, last) == (10, 30)
    assert math.isnan(none)


@pytest.mark.parametrize("names", [("loss",), ("mine", "mine")])
def test_a_number_cannot_be_recorded_twice(names, scripted):
    words = f"this epoch already has a {names[0]!r} in the history; use another name"
    with pytest.raises(ValueError, match=words):
        scripted(Recorder(*names)).go([{"loss": 1.0}])


class Keeper(Callback):
    def __init__(self, at):
        self.at = at

    def on_epoch_end(self, state):
        if state.epoch == self.at:
            state.keep_weights()

    def on_fit_end(self, state):
        state.restore_weights()


@pytest.mark.parametrize("at", [2, None])
def test_kept_weights_are_restored(at, scripted):
    run, model, seen = scripted(Keeper(at)), None, []
    model = run.progress.model

    def epochs():
        for _ in range(4):
            with torch.no_grad():
                model.weight += 1
            seen.append(model.weight.detach().clone())
            yield {"loss": 1.0}

    run.go(epochs())
    assert model.weight.equal(seen[1] if at else seen[3])


def test_a_single_process_is_the_main_process(scripted):
    assert scripted().state.is_main_process


def test_a_callback_need_not_do_anything(scripted):
    assert scripted(Callback()).go([{"loss": 1.0}]) == []


def test_a_run_without_an_estimator_says_so(scripted):
    with pytest.raises(RuntimeError, match="belongs to no estimator"):
        scripted().state.estimator()


def test_before_the_first_epoch_there_is_nothing_to_record_for(scripted):
    class Early(Callback):
        def on_fit_begin(self, state):
            state.record("early", 1.0)

    with pytest.raises(ValueError, match="'early' is of no epoch yet"):
        scripted(Early()).go([{"loss": 1.0}])
