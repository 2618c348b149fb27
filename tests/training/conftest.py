import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from otcxr_sk.training import TrainingState
from otcxr_sk.training._epoch import EpochPlan
from otcxr_sk.training._progress import Progress
from otcxr_sk.training.callbacks import calling


@pytest.fixture
def generators_untouched():
    """Fail a test that changes the state of a global random generator."""

    def states():
        legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
        return (
            torch.get_rng_state().tolist(),
            legacy["key"].tolist(),
            legacy["pos"],
            random.getstate(),
        )

    before = states()
    yield
    assert states() == before


@pytest.fixture
def watched():
    """Gradients before every step of an optimizer, and parameters after it."""
    gradients, weights = [], []

    def parameters(optimizer):
        return [p for group in optimizer.param_groups for p in group["params"]]

    def before(optimizer, args, kwargs):
        gradients.append(
            torch.cat(
                [
                    (torch.zeros_like(p) if p.grad is None else p.grad).detach().flatten().clone()
                    for p in parameters(optimizer)
                ]
            )
        )

    def after(optimizer, args, kwargs):
        weights.append([p.detach().clone() for p in parameters(optimizer)])

    handles = [register_optimizer_step_pre_hook(before), register_optimizer_step_post_hook(after)]
    yield gradients, weights
    for handle in handles:
        handle.remove()


class Scripted:
    """A run of callbacks over epochs with given numbers."""

    def __init__(self, *callbacks, epochs=9, fitted=None):
        model = nn.Linear(2, 1)
        plan = EpochPlan(4, 2, 1)
        self.progress = Progress(model, torch.optim.AdamW(model.parameters()), plan)
        self.callbacks = callbacks
        self.state = TrainingState(self.progress, epochs, fitted)

    def go(self, epochs, ended=True):
        """Run epochs, each a dict of numbers, and return those after which a callback said stop."""
        stops = []
        with calling(self.callbacks, self.state):
            for numbers in epochs:
                self.progress.end_epoch(numbers)
                asked = [callback.on_epoch_end(self.state) for callback in self.callbacks]
                stops += [self.state.epoch] * any(asked)
            self.state.ended = ended
        return stops


@pytest.fixture
def scripted():
    return Scripted
