"""Small estimators, and images to train them on."""

import json
import shutil

import numpy as np
import pytest
import torch
from runs import EPOCHS
from torch import nn

from otcxr_sk import OTCXRClassifier, OTCXRPretrainer, OTCXRSegmenter
from otcxr_sk.estimators import _encoder
from otcxr_sk.estimators.sharing import _model
from otcxr_sk.training import Callback


@pytest.fixture(autouse=True, scope="module")
def _small_pieces():
    """Let a few images of 32 pixels be several batches: 4, not 16, are embedded at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_encoder, "SMALL", 32)
        yield


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
def pretrainer(tiny, stopping_encoder):
    """Make a pretrainer that is interrupted, or fails, at one of its training passes."""

    def make(interrupt_at=None, fail_at=None, **parameters):
        return tiny(stopping_encoder(interrupt_at, fail_at), epochs=EPOCHS, **parameters)

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


@pytest.fixture(scope="session")
def folder(fitted, tmp_path_factory):
    """A folder that `save_pretrained` has written."""
    folder = tmp_path_factory.mktemp("shared") / "model"
    fitted.save_pretrained(folder, data="24 blobs.", licence="CC0")
    return folder


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


blanks = {}


@pytest.fixture
def equal_networks_are_measured_once(monkeypatch):
    """Save tests that read one network again and again the time that its shapes take."""

    def blank(architecture, usual=_model._blank):
        key = json.dumps(architecture, sort_keys=True)
        if key not in blanks:
            blanks[key] = usual(architecture)
        return blanks[key]

    monkeypatch.setattr(_model, "_blank", blank)


def _maker(kind, fitted):
    def make(pretrainer=fitted, **parameters):
        settings = {"epochs": 2, "batch_size": 8, "random_state": 0, **parameters}
        return kind(pretrainer, **settings)

    return make


@pytest.fixture(scope="session")
def classifier(fitted):
    """Make a classifier that is fine-tuned in a moment."""
    return _maker(OTCXRClassifier, fitted)


@pytest.fixture(scope="session")
def segmenter(fitted):
    return _maker(OTCXRSegmenter, fitted)


@pytest.fixture(scope="session")
def y(X):
    """Whether the blob is in the upper half."""
    return (X[:, :16].mean((1, 2)) > X[:, 16:].mean((1, 2))).astype(int)


@pytest.fixture(scope="session")
def several(y):
    """Two labels, the second unknown of every third image."""
    labels = np.column_stack([y, np.roll(y, 3)]).astype(float)
    labels[::3, 1] = np.nan
    return labels


@pytest.fixture(scope="session")
def masks(X):
    return X > 0.5


@pytest.fixture(scope="session")
def patients():
    """Patients of two images each."""
    return np.arange(24) // 2


class _Stop(Callback):
    def on_epoch_end(self, state):
        if state.epoch == 2:
            raise KeyboardInterrupt


@pytest.fixture(scope="session")
def stop():
    """A callback that presses Ctrl-C after the second epoch, when the first one is saved."""
    return _Stop()
