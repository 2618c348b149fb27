import random

import numpy as np
import pytest
import torch
from torch import nn

from otcxr_sk.training.callbacks import TrainingState, Watch
from otcxr_sk.training.plan import EpochPlan
from otcxr_sk.training.progress import Progress


@pytest.fixture
def generators_untouched():
    """Fails a test after which a global generator is not as it was."""

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


class Scripted:
    """A run whose epochs have given numbers, and its callbacks."""

    def __init__(self, *callbacks, epochs=9, fitted=None):
        model = nn.Linear(2, 1)
        plan = EpochPlan(4, 2, 1)
        self.progress = Progress(model, torch.optim.AdamW(model.parameters()), plan)
        self.watch = Watch(callbacks)
        self.state = TrainingState(self.progress, epochs, fitted or (lambda state: None))

    def go(self, epochs, ended=True):
        """Let epochs go by, each a dict of numbers; give the epochs after which to stop."""
        stops = []
        with self.watch.over(self.state):
            for numbers in epochs:
                self.progress.end_epoch(numbers)
                asked = [callback.on_epoch_end(self.state) for callback in self.watch.callbacks]
                stops += [self.state.epoch] * any(asked)
            self.state.ended = ended
        return stops


@pytest.fixture
def scripted():
    return Scripted
