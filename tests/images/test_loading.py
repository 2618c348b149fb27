"""Batches read by workers: the same, in order, and never waited for in vain."""

import os
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch

from otcxr_sk.images import ImageReadError, PathSource
from otcxr_sk.images._loading import read_ahead

BATCHES = np.array_split(np.arange(40), 10)


def numbers(rows):
    return rows.astype(np.float32), ["row", None], int(rows[0])


@pytest.mark.parametrize("num_workers", [0, 1, 2])
def test_batches_come_in_order_whatever_the_number_of_workers(num_workers):
    found = list(read_ahead(numbers, BATCHES, num_workers))
    assert len(found) == 10
    for (values, words, row), rows in zip(found, BATCHES, strict=True):
        assert torch.equal(values, torch.from_numpy(rows).float())
        assert (words, row) == (["row", None], rows[0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_error_of_reading_is_the_same_from_a_worker(num_workers, tmp_path):
    path = str(tmp_path / "gone.png")
    batches = read_ahead(partial(PathSource([path]).read, size=8), [np.array([0])], num_workers)
    with pytest.raises(ImageReadError) as caught:
        next(batches)
    assert str(caught.value) == f"cannot read {path!r}: there is no such file; check the path"


def end_by(number, rows):
    if 12 in rows:
        os.kill(os.getpid(), number)
        time.sleep(60)
    return rows


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_killed_worker_is_an_error_and_not_a_hang(number):
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"process that reads images has ended .* num_workers"):
        list(read_ahead(partial(end_by, number), BATCHES, 2))
    assert time.monotonic() - started < 30


def test_other_errors_keep_their_kind():
    def broken(rows):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        list(read_ahead(broken, BATCHES, 1))
