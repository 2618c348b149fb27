"""Shared by the tests of training: smooth images, a small model, a trainer of two epochs."""

import torch
from torch import nn

from otcxr_sk.method import Objective, OTCXRModel, Views, build_encoder
from otcxr_sk.training import CheckpointFolder, Draw, Optimizer, Trainer

SIZE = 16


class Images:
    """Smooth random images, in memory."""

    def __init__(self, n=24):
        coarse = torch.randn(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        self.images = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic").numpy()
        self.batches = []

    def __len__(self):
        return len(self.images)

    def describe(self, index):
        return f"row {index}"

    def read(self, indices, size):
        assert size == SIZE
        self.batches.append(indices)
        return self.images[indices]


def make_model(seed=0, dropout=0.0, norm=True):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = nn.Sequential(
            nn.Conv2d(1, 8, 4, stride=4),
            nn.BatchNorm2d(8) if norm else nn.Identity(),
            nn.ReLU(),
            nn.Dropout(dropout),
        )
        built = build_encoder(encoder, size=SIZE, match_stride=4)
        return OTCXRModel(built, Objective(cv_sim_depth=1), head_dim=8, projection_dim=8)


def make_objective(alpha=1, beta=1, eta=0.1, global_weight=1):
    return Objective(alpha, beta, eta, global_weight)


def make_draw(seed=0, *, views=None, mean=0.1, std=1.1):
    return Draw(views or Views(), mean, std, seed, torch.device("cpu"))


def make_trainer(**options):
    defaults = {
        "draw": make_draw(),
        "objective": make_objective(),
        "optimizer": Optimizer(),
        "size": SIZE,
        "epochs": 2,
        "batch_size": 8,
        "learning_rate": 1e-3,
        "precision": "float32",
    }
    return Trainer(**defaults | options)


def copy_of(model):
    """Copy the weights of a model."""
    return {name: value.clone() for name, value in model.state_dict().items()}


def same(model, other):
    """Return whether two models have the same weights, bit for bit."""
    weights, others = model.state_dict(), other.state_dict()
    assert weights.keys() == others.keys()
    return all(value.equal(others[name]) for name, value in weights.items())


class Recorded(Images):
    """Keeps the weights that the model has when each batch is read."""

    def __init__(self, n, model):
        super().__init__(n)
        self.model, self.states = model, []

    def read(self, indices, size):
        self.states.append(copy_of(self.model))
        return super().read(indices, size)


class Weightless:
    """An objective without gradient: weights change only by decay and by earlier gradients."""

    def total(self, terms):
        return 0 * sum(value for value in terms.values() if value.requires_grad)


class Failing(Objective):
    """Returns `wrong(loss)` instead of the loss at some steps, counted from 1."""

    def __init__(self, wrong, at):
        super().__init__(1, 1, 0.1, 1)
        self.wrong, self.at, self.steps = wrong, at, 0

    def total(self, terms):
        loss = super().total(terms)
        self.steps += 1
        return self.wrong(loss) if self.steps in self.at else loss


def infinite_gradient(loss):
    """Keep the loss as it is, with an infinite gradient."""
    return loss + (loss - loss.detach()).sqrt()


def saved_in(folder, states):
    """Save states one after the other, and return the checkpoints."""
    checkpoints = CheckpointFolder(folder)
    for place, state in enumerate(states):
        checkpoints.save(state, place)
    return checkpoints
