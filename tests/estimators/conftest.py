"""Small pretrainers, and images to train them on."""

import numpy as np
import pytest
import torch
from torch import nn

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.estimators import _encoder


@pytest.fixture(autouse=True)
def _small_pieces(monkeypatch):
    """Let a few images of 32 pixels be several batches: 4, not 16, are embedded at once."""
    monkeypatch.setattr(_encoder, "SMALL", 32)


@pytest.fixture(scope="session")
def tiny():
    """Make a pretrainer that trains in a moment; `views__erase=` and the like are allowed."""

    def make(encoder="test_resnet", **parameters):
        settings = {
            "image_size": 32,
            "epochs": 1,
            "batch_size": 8,
            "learning_rate": 2e-3,
            "random_state": 0,
            **parameters,
        }
        of_groups = {name: settings.pop(name) for name in parameters if "__" in name}
        return OTCXRPretrainer(encoder, **settings).set_params(**of_groups)

    return make


@pytest.fixture(scope="session")
def blobs():
    """Draw images of one soft blob each, at a random place, by which views can be matched."""

    def draw(n, seed=0):
        rng = np.random.default_rng(seed)
        y, x = np.mgrid[-1:1:32j, -1:1:32j]
        at, size = rng.uniform(-0.7, 0.7, (2, n, 1, 1)), rng.uniform(0.02, 0.2, (n, 1, 1))
        noise = 0.05 * rng.standard_normal((n, 32, 32))
        return np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / size).astype(np.float32) + noise

    return draw


@pytest.fixture(scope="session")
def X(blobs):
    return blobs(24)


@pytest.fixture(scope="session")
def fitted(tiny, X):
    return tiny(epochs=8, match_stride=8).fit(X)


class Constant(nn.Module):
    """An encoder whose embeddings have collapsed: they are the same for every image."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 8, stride=8)

    def forward(self, images):
        dense = self.stem(images)
        return torch.ones_like(dense) + 0 * dense


@pytest.fixture(scope="session")
def collapsed_encoder():
    return Constant
