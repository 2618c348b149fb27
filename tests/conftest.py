import os
from pathlib import Path

import pytest

# Two threads on shared cores make small tensor work many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

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
