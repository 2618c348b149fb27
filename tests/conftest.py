import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import settings
from threadpoolctl import threadpool_limits
from torch import nn

# Two threads on shared cores make small work many times slower. This is for child processes.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more of what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


def pytest_addoption(parser):
    parser.addoption(
        "--start-method",
        choices=["spawn", "forkserver"],
        help="start processes anew, as on other systems than Linux, instead of forking",
    )


def pytest_configure(config):
    # Hide GPUs from all tests but their own, before torch looks, here and in what tests start.
    if config.option.markexpr != "gpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
    if method := config.getoption("start_method"):
        from otcxr_sk.images.batches import _loading, _processes

        multiprocessing.set_start_method(method, force=True)
        _processes.METHOD = _loading.METHOD = None
        # What tests send to new processes is imported there.
        sys.path.append(str(config.rootpath))


BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL_DATA = Path(os.environ.get("OTCXR_REAL_DATA", BESIDE))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)
    with threadpool_limits(1):
        yield


@pytest.fixture(autouse=True)
def _usual_handler():
    """Handle Ctrl-C as usual: a process that was started in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class StoppingEncoder(nn.Module):
    """An encoder that presses Ctrl-C, or returns NaN, at one of its training passes.

    Passes are counted from 1, and from 1 again in every call of `fit` or `partial_fit`. It has
    dropout, so that its result depends on the state of the random generators.
    """

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
    return StoppingEncoder


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real chest X-rays: OTCXR_REAL_DATA, or kept beside the checkout."""
    if not REAL_DATA.is_dir():
        pytest.skip(f"needs real chest X-rays, which are not shipped; none in {REAL_DATA}")
    return REAL_DATA


@pytest.fixture(scope="session")
def study():
    """Two images each of 100 patients: features that tell a little of their classes and labels."""
    random = np.random.default_rng(0)
    classes = np.repeat(np.arange(100) % 3, 2)
    labels = np.repeat(random.random((100, 3)) < 0.4, 2, axis=0).astype(float)
    Z = random.normal(size=(200, 6)) + 0.7 * np.eye(6)[classes]
    Z[:, 3:] += labels
    return SimpleNamespace(
        Z=Z,
        other=random.normal(size=(200, 4)) + 0.3 * labels[:, :1],
        classes=classes,
        labels=labels,
        patients=np.repeat(np.arange(100), 2),
        parts={"train": np.arange(120), "test": np.arange(120, 200)},
    )


@pytest.fixture
def decoded(monkeypatch):
    """List the paths of files in the order in which they are decoded."""
    from otcxr_sk.images.sources import _paths

    seen = []

    def recording(path, read=_paths.read_gray):
        seen.append(path)
        return read(path)

    monkeypatch.setattr(_paths, "read_gray", recording)
    return seen


@pytest.fixture(scope="session")
def loaded_by():
    """Packages that a new Python has loaded after some statements."""

    def loaded(statements):
        done = subprocess.run(
            [sys.executable, "-c", f"import sys; {statements}; print(*sys.modules)"],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        return {name.split(".")[0] for name in done.stdout.split()}

    return loaded
