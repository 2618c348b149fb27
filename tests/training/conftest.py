import random

import numpy as np
import pytest
import torch


@pytest.fixture
def generators_untouched():
    """Fails a test after which a global generator is not as it was."""

    def states():
        legacy = np.random.get_state(legacy=False)["state"]  # noqa: NPY002
        return (
            torch.get_rng_state().tolist(),
            legacy["key"].tolist(),
            legacy["pos"],
            random.getstate(),
        )

    before = states()
    yield
    assert states() == before
