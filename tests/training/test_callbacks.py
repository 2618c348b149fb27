import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from otcxr_sk.training import Callback
from otcxr_sk.training.plan import EpochPlan
from otcxr_sk.training.progress import Progress


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
def test_what_a_callback_raises_is_raised_and_all_that_began_are_told(at, scripted):
    pages = []
    with pytest.raises(OSError, match="b failed"):
        scripted(Diary("a", pages), Diary("b", pages, at), Diary("c", pages)).go([{"loss": 1.0}])
    assert "a end, badly" in pages
    assert ("b end, badly" in pages) == ("c end, badly" in pages) == (at != "begin")


def test_one_that_fails_at_the_end_keeps_no_other_from_ending(scripted):
    pages = []
    with pytest.raises(OSError, match="a failed"):
        scripted(Diary("a", pages, "end, well"), Diary("b", pages)).go([])
    assert pages[-1] == "b end, well"


@given(
    rows=st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(allow_nan=False)), max_size=6)
)
def test_the_history_has_a_number_of_every_epoch_and_nan_where_there_was_none(rows):
    model = nn.Linear(1, 1)
    progress = Progress(model, torch.optim.AdamW(model.parameters()), EpochPlan(4, 2, 1))
    for row in rows:
        progress.end_epoch(row)
    assert progress.epoch == len(rows)
    assert progress.history.keys() == {name for row in rows for name in row}
    for name, values in progress.history.items():
        for value, row in zip(values, rows, strict=True):
            assert value == row[name] if name in row else math.isnan(value)


class Recorder(Callback):
    def __init__(self, *names):
        self.names = names

    def on_epoch_end(self, state):
        for name in self.names if state.epoch != 2 else ():
            state.record(name, 10 * state.epoch)


def test_what_is_recorded_stands_beside_what_is_measured(scripted):
    run = scripted(Recorder("mine"))
    run.go([{"loss": 1.0}, {"loss": 2.0}, {"loss": 3.0}])
    assert run.state.history["loss"] == [1, 2, 3]
    first, none, last = run.state.history["mine"]
    assert (first, last) == (10, 30)
    assert math.isnan(none)


@pytest.mark.parametrize("names", [("loss",), ("mine", "mine")])
def test_no_number_takes_the_place_of_another(names, scripted):
    with pytest.raises(ValueError, match="of this epoch already; use another name"):
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
def test_weights_that_were_kept_are_given_back(at, scripted):
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


def test_a_process_alone_writes(scripted):
    assert scripted().state.is_main_process


def test_a_callback_need_not_do_anything(scripted):
    assert scripted(Callback()).go([{"loss": 1.0}]) == []
