"""Runs that stop, and what is the same of two runs."""

import numpy as np
import pytest

EPOCHS, STEPS = 3, 3  # of 24 images in batches of 8


def interrupted(estimator, X):
    with pytest.raises(KeyboardInterrupt):
        estimator.fit(X)
    return estimator


def assert_same(fitted, other):
    np.testing.assert_array_equal(fitted.weights_, other.weights_)
    assert list(fitted.history_.items()) == list(other.history_.items())
    assert (fitted.mean_, fitted.std_) == (other.mean_, other.std_)
    assert fitted.n_epochs_ == other.n_epochs_
    assert fitted.skipped_ == other.skipped_
