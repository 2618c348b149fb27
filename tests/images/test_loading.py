import os
import signal
import time
from functools import partial

import numpy as np
import pytest
import torch

from otcxr_sk.images import ImageReadError, PathSource, read_batches
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
def test_a_worker_raises_the_same_error(num_workers, tmp_path):
    path = str(tmp_path / "gone.png")
    batches = read_ahead(partial(PathSource([path]).read, size=8), [np.array([0])], num_workers)
    with pytest.raises(ImageReadError) as caught:
        next(batches)
    assert str(caught.value) == f"cannot read {path!r}: there is no such file; check the path"


def killed_by(number, rows):
    if 12 in rows:
        os.kill(os.getpid(), number)
        time.sleep(60)
    return rows


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM])
def test_a_killed_worker_is_an_error_and_not_a_hang(number):
    started = time.monotonic()
    with pytest.raises(RuntimeError, match=r"worker process that reads images died .* num_workers"):
        list(read_ahead(partial(killed_by, number), BATCHES, 2))
    assert time.monotonic() - started < 30


def test_other_errors_keep_their_type():
    def broken(rows):
        raise KeyError("a bug")

    with pytest.raises(KeyError, match="a bug"):
        list(read_ahead(broken, BATCHES, 1))


class Numbered:
    """Image i is filled with the number i; counts its reads."""

    reads = 0

    def read(self, rows, size):
        self.reads += 1
        return rows.astype(np.float32).repeat(size * size).reshape(-1, 1, size, size)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_read_batches_yields_images_as_tensors(num_workers):
    batches = [np.array([3, 1]), np.array([0]), np.array([2, 4, 5])]
    images = list(read_batches(Numbered(), batches, 4, num_workers))
    assert [batch[:, 0, 0, 0].tolist() for batch in images] == [[3, 1], [0], [2, 4, 5]]
    assert [batch.shape for batch in images] == [(2, 1, 4, 4), (1, 1, 4, 4), (3, 1, 4, 4)]
    assert {batch.dtype for batch in images} == {torch.float32}


def test_without_workers_a_batch_is_read_only_when_it_is_needed():
    source = Numbered()
    next(read_batches(source, np.split(np.arange(100), 50), 2, 0))
    assert source.reads == 1
