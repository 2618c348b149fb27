"""What the tests of estimators share: a small pretrainer, and images to train it on."""

import numpy as np
import pytest

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
