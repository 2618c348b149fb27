"""Workers change nothing but the speed: not the images, the errors or the warnings."""

import errno
import os
import signal
import threading
import time
import warnings
from functools import partial

import numpy as np
import pytest
import torch

from otcxr_sk.images import (
    ArraySource,
    DatasetSource,
    ImageReadError,
    PathSource,
    read_batches,
    read_usable_batches,
)
from otcxr_sk.images.batches import _processes
from otcxr_sk.images.batches._loading import read_ahead

BATCHES = np.array_split(np.arange(40), 10)
IMAGES = np.random.default_rng(0).random((40, 8, 8)).astype(np.float32)

# Larger than what a pipe holds, so that a worker dies in the middle of sending.
LARGE = np.zeros(10**6)


def numbers(rows):
    return rows.astype(np.float32), ["row", None], int(rows[0])


@pytest.mark.parametrize("num_workers", [0, 1, 2, 99])
def test_batches_come_in_order_whatever_the_number_of_workers(num_workers):
    found = list(read_ahead(numbers, BATCHES, num_workers))
    assert len(found) == 10
    for (values, words, row), rows in zip(found, BATCHES, strict=True):
        np.testing.assert_array_equal(values, rows)
        assert (words, row) == (["row", None], rows[0])


@pytest.mark.parametrize("num_workers", [0, 2])
def test_no_batches_are_no_images(num_workers):
    assert list(read_ahead(numbers, [], num_workers)) == []


@pytest.mark.parametrize("num_workers", [0, 2])
def test_images_come_as_tensors_that_can_be_written_to(num_workers):
    batches = [np.array([3, 1]), np.array([0]), np.array([2, 4, 5])]
    for rows, found in zip(
        batches, read_batches(ArraySource(IMAGES), batches, 8, num_workers), strict=True
    ):
        assert torch.equal(found[:, 0], torch.from_numpy(IMAGES[rows]))
        found[0] = 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_unusable_images_come_with_their_errors(num_workers):
    images = IMAGES.copy()
    images[5, 0, 0] = np.nan
    found = list(read_usable_batches(ArraySource(images), BATCHES, 8, num_workers))
    assert [problem.row for _, problems in found for problem in problems] == [5]
    assert found[1][0][1].eq(0).all()


def test_without_workers_a_batch_is_read_only_when_it_is_needed():
    read = []
    next(read_ahead(read.append, BATCHES, 0))
    assert len(read) == 1


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_worker_raises_the_same_error(num_workers, tmp_path):
    path = str(tmp_path / "gone.png")
    batches = read_ahead(partial(PathSource([path]).read, size=8), [np.array([0])], num_workers)
    with pytest.raises(ImageReadError) as caught:
        next(batches)
    assert str(caught.value) == f"cannot read {path!r}: there is no such file; check the path"


def test_the_system_is_not_taken_for_a_decoder(tmp_path, monkeypatch):
    np.save(tmp_path / "image.npy", IMAGES[0])

    def refuse(*_, **__):
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("builtins.open", refuse)
        with pytest.raises(ImageReadError, match=r"image.npy': the system says: Too many open fil"):
            PathSource([tmp_path / "image.npy"]).read([0], 8)


class Large:
    def __len__(self):
        return 40

    def __getitem__(self, row):
        raise MemoryError


def test_memory_that_runs_out_in_a_data_set_is_not_its_fault():
    with pytest.raises(ImageReadError, match=r"row 0: there is not enough memory .* num_workers"):
        next(read_batches(DatasetSource(Large()), BATCHES, 8, 1))


class Lost(Exception):
    """An error that can be pickled, but not made again from that."""

    def __reduce__(self):
        return int, ("no number",)


def raising(error, rows):
    if 12 in rows:
        raise error
    return rows


@pytest.mark.parametrize("error", [KeyError("a bug"), OSError(errno.EIO, "Input/output error")])
def test_other_errors_keep_their_type_and_say_where(error):
    with pytest.raises(type(error)) as caught:
        list(read_ahead(partial(raising, error), BATCHES, 1))
    assert caught.value.args == error.args
    assert "row 12; row 13" in caught.value.__notes__[0]
    assert "in raising" in str(caught.value.__cause__)


@pytest.mark.parametrize(
    ("error", "kind", "words"),
    [
        (MemoryError(), MemoryError, "memory ran out .* row 12; .*; lower num_workers"),
        (Lost, RuntimeError, "the error that reading raised.* num_workers=0"),
    ],
)
def test_errors_that_say_nothing_or_cannot_be_sent_are_told_in_words(error, kind, words):
    with pytest.raises(kind, match=words):
        list(read_ahead(partial(raising, error), BATCHES, 1))


def lock(rows):
    return threading.Lock() if 12 in rows else rows


def test_a_result_that_cannot_be_sent_is_an_error_at_once():
    with pytest.raises(RuntimeError, match=r"cannot send what it has read .* num_workers=0"):
        list(read_ahead(lock, BATCHES, 2))


def doubt(rows):
    if rows[0] % 8 == 0:
        warnings.warn(f"doubt about {rows[0]}", DeprecationWarning, stacklevel=1)
    return rows


def test_warnings_in_a_worker_are_those_of_this_process():
    with pytest.warns(DeprecationWarning, match="doubt about") as caught:
        list(read_ahead(doubt, BATCHES, 2))
    assert sorted(str(one.message) for one in caught) == sorted(
        f"doubt about {row}" for row in range(0, 40, 8)
    )
    assert {one.filename for one in caught} == {__file__}


def doubt_in_its_own_way(rows):
    class Doubt(DeprecationWarning):
        pass

    warnings.warn("doubt", Doubt, stacklevel=1)
    return rows


def test_a_warning_whose_class_cannot_be_sent_is_one_of_the_class_above():
    with pytest.warns(DeprecationWarning, match="doubt") as caught:
        assert len(list(read_ahead(doubt_in_its_own_way, BATCHES, 2))) == len(BATCHES)
    assert {one.category for one in caught} == {DeprecationWarning}


def end(way, rows):
    if 12 in rows:
        if way == "sending":
            threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGKILL)).start()
        elif isinstance(way, signal.Signals):
            os.kill(os.getpid(), way)
            time.sleep(60)
        else:
            os._exit(way)
    return LARGE


@pytest.mark.parametrize("in_thread", [False, True])
@pytest.mark.parametrize(
    ("way", "words"),
    [
        (signal.SIGKILL, r"SIGKILL, at row 12; .*memory.*num_workers"),
        (signal.SIGSEGV, r"SIGSEGV, at row 12; row 13; row 14; row 15; an image may crash"),
        (signal.SIGTERM, r"SIGTERM, at row 12"),
        (0, "exit code 0, at row 12"),
        (3, "exit code 3, at row 12"),
        ("sending", "SIGKILL, at row 12"),
    ],
)
def test_a_worker_that_died_is_told_of_at_once(way, words, in_thread):
    raised = []

    def read():
        batches = read_ahead(partial(end, way), BATCHES, 2)
        for _ in range(3):
            next(batches)
        # The worker that dies while it sends does so now.
        time.sleep(0.5 if way == "sending" else 0)
        started = time.monotonic()
        with pytest.raises(RuntimeError, match=f"worker process that reads images died.*{words}"):
            next(batches)
        raised.append(time.monotonic() - started)

    if in_thread:
        thread = threading.Thread(target=read)
        thread.start()
        thread.join()
    else:
        read()
    assert raised[0] < 20


def die_or_wait(rows):
    if 4 in rows:
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def test_the_death_of_a_worker_is_told_of_while_another_one_is_waited_for():
    with pytest.raises(RuntimeError, match="SIGKILL, at row 4; row 5"):
        next(read_ahead(die_or_wait, BATCHES, 2))


def begin(folder, rows):
    (folder / str(rows[0])).touch()
    return LARGE


def test_workers_read_only_a_little_ahead(tmp_path):
    batches = read_ahead(partial(begin, tmp_path), BATCHES, 2)
    for _ in range(2):
        next(batches)
    time.sleep(0.5)
    assert len(list(tmp_path.iterdir())) <= 2 + 2 * 1
    assert len(list(batches)) == 8


def be_slow(rows):
    time.sleep(0.9 if 12 in rows else 0)
    return rows


# On a busy machine it may be slow to start, too.
@pytest.mark.filterwarnings("ignore:a worker process has not returned row 0")
def test_a_worker_that_lives_is_waited_for_and_told_of(monkeypatch):
    monkeypatch.setattr(_processes, "PATIENCE", 0.2)
    monkeypatch.setattr(_processes, "_LOOK", 0.1)

    with pytest.warns(UserWarning, match=r"not returned row 12; .* alive, so it is waited for"):
        found = list(read_ahead(be_slow, BATCHES, 1))
    np.testing.assert_array_equal(np.concatenate(found), np.arange(40))
