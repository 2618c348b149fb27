import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from otcxr_sk.training import CheckpointFolder, _progress
from otcxr_sk.training._epoch import EpochPlan
from otcxr_sk.training._progress import WATCHED, Losses, Progress, Tally


@given(cuts=st.lists(st.integers(1, 29), unique=True, max_size=6))
def test_means_over_the_images_of_an_epoch_do_not_depend_on_the_batches(cuts):
    numbers = torch.randn(30, generator=torch.Generator().manual_seed(0))
    embedding = torch.randn(30, 4, generator=torch.Generator().manual_seed(1))
    tally = Tally()
    for part in torch.arange(30).tensor_split(sorted(cuts)):
        views = embedding[part].repeat(2, 1)
        tally.add({"loss": numbers[part].mean()}, views, len(part))
    whole = Tally()
    whole.add({"loss": numbers.mean()}, embedding.repeat(2, 1), 30)
    assert tally.means(30) == pytest.approx(whole.means(30), rel=1e-4, abs=1e-6)


def test_the_number_of_embeddings_kept_is_limited():
    tally = Tally()
    for _ in range(100):
        tally.add({"loss": torch.tensor(0.0)}, torch.ones(200, 3), 100)
    assert WATCHED <= sum(map(len, tally.watched)) < WATCHED + 100


@given(
    rows=st.lists(st.dictionaries(st.sampled_from("abc"), st.floats(allow_nan=False)), max_size=6)
)
def test_the_history_has_a_number_for_every_epoch_or_nan(rows):
    model = nn.Linear(1, 1)
    progress = Progress(model, torch.optim.AdamW(model.parameters()), EpochPlan(4, 2, 1))
    for row in rows:
        progress.end_epoch(row)
    assert progress.epoch == len(rows)
    assert progress.history.keys() == {name for row in rows for name in row}
    for name, values in progress.history.items():
        for value, row in zip(values, rows, strict=True):
            assert value == row[name] if name in row else math.isnan(value)


def a_run(seed=0):
    """Make a model with dropout, in training's memory order, and its optimizer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(32, 1)
        )
    model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    return model, optimizer


def step(model, optimizer, progress, number):
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    with progress.random.exchanged():
        loss = model(x).square().mean()
        loss.backward()
    optimizer.step()
    progress.tally.add({"loss": loss}, x.flatten(1), 1)
    progress.step += 1


@pytest.mark.parametrize("steps", [0, 1, 5])
def test_a_run_continues_as_if_it_had_not_stopped(steps, tmp_path):
    model, optimizer = a_run()
    progress = Progress(model, optimizer, EpochPlan(20, 2, 1))
    step(model, optimizer, progress, 100)
    progress.end_epoch({"loss": 0.1})
    for number in range(steps):
        step(model, optimizer, progress, number)
    CheckpointFolder(tmp_path).save(progress.pack(), progress.done)
    step(model, optimizer, progress, 99)

    other, its_optimizer = a_run(seed=1)
    later = Progress(other, its_optimizer, EpochPlan(20, 2, 1))
    later.unpack(CheckpointFolder(tmp_path).load())
    step(other, its_optimizer, later, 99)

    for name, value in model.state_dict().items():
        assert other.state_dict()[name].equal(value), name
        assert later.good[name].equal(progress.good[name]), name
    for mine, its in zip(*map(moments, (optimizer, its_optimizer)), strict=True):
        assert mine.equal(its)
        assert mine.stride() == its.stride()
    assert (later.epoch, later.step, later.history) == (1, steps + 1, {"loss": [0.1]})
    assert later.done == progress.done == 10 + steps + 1
    assert later.tally.means(1) == progress.tally.means(1)


def moments(optimizer):
    return [value for state in optimizer.state.values() for _, value in sorted(state.items())]


def test_the_time_of_earlier_parts_counts(monkeypatch):
    now = [50.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    model, optimizer = a_run()
    progress = Progress(model, optimizer, EpochPlan(20, 2, 1))
    now[0] += 7
    checkpoint = progress.pack()
    now[0] += 1000
    later = Progress(model, optimizer, EpochPlan(20, 2, 1))
    later.unpack(checkpoint)
    now[0] += 3
    assert later.seconds == pytest.approx(10)


class OnGPU:
    """A loss on a GPU, which tells when it is read."""

    is_cuda = True

    def __init__(self, value, read):
        self._value, self._read = value, read

    def detach(self):
        return self

    def read(self):
        self._read.append(self._value)
        return torch.tensor(self._value)


def test_a_gpu_is_asked_for_two_more_losses_before_one_is_read(monkeypatch):
    monkeypatch.setattr(_progress, "Arriving", lambda loss: loss)
    values, read, losses = [1.0, 2.0, math.inf, 4.0], [], Losses()
    for number, value in enumerate(values):
        assert losses.add(OnGPU(value, read))
        assert read == values[: max(0, number - 1)]
    assert not losses.are_finite()


def test_on_the_cpu_a_loss_is_read_at_once():
    losses = Losses()
    assert losses.add(torch.tensor(1.0))
    assert not losses.add(torch.tensor(torch.nan))
    assert losses.are_finite()
