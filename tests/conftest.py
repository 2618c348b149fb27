import os
from pathlib import Path

import pytest

# Two threads on shared cores make small tensor work many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REAL_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real chest X-rays kept beside the checkout."""
    if not REAL_DATA.is_dir():
        pytest.skip("needs the real chest X-rays, which are not shipped with the repository")
    return REAL_DATA
