import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import settings

# Two threads on shared cores make small tensor work many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says more of what else the machine does.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"
REAL_DATA = Path(os.environ.get("OTCXR_REAL_DATA", BESIDE))


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


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
    """Paths of files in the order in which they are decoded."""
    from otcxr_sk.images import _paths

    seen = []

    def counting(path, read=_paths.read_picture):
        seen.append(path)
        return read(path)

    monkeypatch.setattr(_paths, "read_picture", counting)
    return seen
