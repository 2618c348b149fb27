"""What the tests of GPUs are about: a GPU, phantoms, and what the CPU makes of them."""

import copy

import numpy as np
import pytest
import torch

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms


@pytest.fixture(scope="session")
def gpu(pytestconfig):
    if pytestconfig.option.markexpr != "gpu":
        pytest.skip("needs a GPU, which is hidden from the other tests: run pytest -m gpu")
    if not torch.cuda.is_available():
        pytest.skip("this machine has no GPU that torch can use")
    return "cuda"


@pytest.fixture(scope="session")
def phantoms():
    return make_chest_phantoms(64, image_size=64, random_state=0)


@pytest.fixture(scope="session")
def X(phantoms):
    return phantoms.images


@pytest.fixture(scope="session")
def small(gpu):
    """Make a pretrainer that trains on the GPU in about a second."""

    def make(encoder="resnet10t", **parameters):
        short = {"encoder": encoder, "epochs": 1, "batch_size": 32, "random_state": 0}
        return OTCXRPretrainer(**{**LAPTOP, **short, "device": gpu, **parameters})

    return make


@pytest.fixture(scope="session")
def fitted(small, X):
    return small(epochs=6).fit(X)


@pytest.fixture
def exact(fitted):
    """The same in float32."""
    return copy.deepcopy(fitted).set_params(precision="float32")


@pytest.fixture
def on_cpu(exact):
    return copy.deepcopy(exact).set_params(device="cpu")


@pytest.fixture(scope="session")
def difference():
    """Compute the difference of two embeddings, relative to how images differ."""

    def relative(ours, reference):
        spread = np.linalg.norm(reference - reference.mean(0))
        return np.linalg.norm(ours - reference) / spread

    return relative
