"""What the tests of estimators share: small pretrainers, and images to train them on."""

import signal

import numpy as np
import pytest
import torch
from torch import nn

from otcxr_sk import OTCXRPretrainer


@pytest.fixture(scope="session")
def tiny():
    """Make a pretrainer that trains in a moment."""

    def make(encoder="test_resnet", **parameters):
        settings = {
            "image_size": 32,
            "epochs": 1,
            "batch_size": 8,
            "learning_rate": 2e-3,
            "random_state": 0,
        }
        return OTCXRPretrainer(encoder, **settings | parameters)

    return make


@pytest.fixture(scope="session")
def blobs():
    """Draw images of one soft blob each, somewhere: something that views can be matched by."""

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


class _Encoder(nn.Module):
    """An encoder that draws random numbers, and presses Ctrl-C or fails at a pass in training."""

    def __init__(self, interrupt_at=None, fail_at=None):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(1, 16, 8, stride=8)
        self.rest = nn.Sequential(nn.BatchNorm2d(16), nn.ReLU(), nn.Dropout(0.2))
        self.interrupt_at, self.fail_at, self.passes = interrupt_at, fail_at, 0

    def forward(self, images):
        self.passes += self.training
        if self.training and self.passes == self.interrupt_at:
            signal.raise_signal(signal.SIGINT)
        dense = self.rest(self.stem(images))
        return dense * torch.nan if self.training and self.passes == self.fail_at else dense


@pytest.fixture(scope="session")
def stopping_encoder():
    return _Encoder


@pytest.fixture(autouse=True)
def _usual_handler():
    """A process that was started in the background ignores Ctrl-C."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
