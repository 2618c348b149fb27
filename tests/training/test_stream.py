import pytest
import torch
from small_runs import Images, make_model
from small_runs import make_trainer as make_run

from otcxr_sk.training.checkpoint import Checkpoint
from otcxr_sk.training.optimiser import WarmupConstant
from otcxr_sk.training.stream import Memory


class Nothing:
    """An objective without gradient: what still moves the weights is remembered from before."""

    def total(self, terms):
        return 0 * sum(value for value in terms.values() if value.requires_grad)


def make_trainer(**options):
    return make_run(**{"epochs": 1, "schedule": WarmupConstant(), "weight_decay": 0.0, **options})


def test_nothing_is_kept_at_first():
    assert Memory().load() is None


def test_the_steps_of_earlier_parts_count():
    memory, model = Memory(), make_model()
    rates = []
    for n in (24, 16, 40):
        history = make_trainer().fit(model, Images(n), memory, memory.load())
        assert {len(values) for values in history.values()} == {1}
        rates += history["learning_rate"]
    assert rates == pytest.approx([1e-3 * (n + 1) / 40 for n in (3, 5, 10)])


@pytest.mark.parametrize("optimizer", ["adamw", "lars"])
def test_the_optimiser_remembers_earlier_parts(optimizer):
    memory, model = Memory(), make_model()
    make_trainer(optimizer=optimizer).fit(model, Images(), memory)
    before = {name: value.clone() for name, value in model.named_parameters()}
    idle = make_trainer(objective=Nothing(), optimizer=optimizer)
    idle.fit(model, Images(), Memory())
    assert all(value.equal(before[name]) for name, value in model.named_parameters())
    idle.fit(model, Images(), memory, memory.load())
    moved = [name for name, value in model.named_parameters() if not value.equal(before[name])]
    assert "encoder.backbone.0.weight" in moved


@pytest.mark.parametrize("ema", [None, 0.9])
def test_what_is_kept_is_what_was_there_and_training_does_not_change_it(ema):
    memory = Memory()
    make_trainer(ema=ema).fit(make_model(), Images(), memory)
    kept = memory.load()
    ends = []
    for _ in range(2):
        model = make_model()
        make_trainer(ema=ema).fit(model, Images(), None, memory.load())
        ends.append(model.state_dict())
    assert all(value.equal(ends[1][name]) for name, value in ends[0].items())
    assert all(value.equal(kept.tensors[name]) for name, value in memory.load().tensors.items())


def test_nothing_of_an_epoch_that_was_cut_short_is_kept():
    memory = Memory()
    names = ["model/weight", "sums/loss", "watched/embedding", "good/weight", "optimiser 0/step"]
    tensors = {name: torch.zeros(1) for name in names}
    memory.save(Checkpoint(tensors, {"precision": {}, "step": 2, "epoch": 0}), 7)
    kept = memory.load()
    assert kept.tensors.keys() == {"model/weight", "optimiser 0/step"}
    assert (kept.numbers["earlier"], kept.numbers["step"]) == (7, 0)
