"""Workers end with the reading, and where none can be started, images are read without them."""

import errno
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from multiprocessing.process import BaseProcess

import numpy as np
import pytest
import torch

from otcxr_sk.images import ArraySource, read_batches
from otcxr_sk.images.batches import _loading, _processes
from otcxr_sk.images.batches._loading import read_ahead

BATCHES = np.array_split(np.arange(40), 10)
IMAGES = np.random.default_rng(0).random((40, 8, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def _tell_again(monkeypatch):
    monkeypatch.setattr(_loading, "_told", set())


def numbers(rows):
    return rows.astype(np.float32)


def workers():
    # Those of joblib, which other tests have started, are of another class.
    return [one for one in multiprocessing.active_children() if not one.name.startswith("Loky")]


def wait_a_minute(rows):
    time.sleep(60)


@pytest.mark.parametrize("read", [numbers, wait_a_minute])
def test_workers_end_with_the_reading(read):
    batches = read_ahead(read, BATCHES, 2)
    if read is numbers:
        next(batches)
    else:
        with pytest.raises(KeyboardInterrupt):
            interrupted(batches)
    started = time.monotonic()
    batches.close()
    assert not workers()
    assert time.monotonic() - started < 30


def interrupted(batches):
    """Press Ctrl-C while the first batch is waited for."""

    def press(*_):
        # Python drops an exception that is raised while it forks.
        if len(workers()) == 2:
            # Once: a second time would interrupt the end of the workers.
            signal.setitimer(signal.ITIMER_REAL, 0)
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, press)
    signal.setitimer(signal.ITIMER_REAL, 0.5, 0.5)
    try:
        next(batches)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def interrupt(rows):
    if rows[0] == 0:
        signal.raise_signal(signal.SIGINT)
    return rows


def test_an_interrupt_of_all_processes_does_not_stop_workers():
    assert len(list(read_ahead(interrupt, BATCHES, 2))) == 10


def test_the_handlers_of_signals_stay_as_they_were():
    before = [signal.getsignal(number) for number in signal.valid_signals()]
    list(read_ahead(numbers, BATCHES, 2))
    assert [signal.getsignal(number) for number in signal.valid_signals()] == before


def test_shared_memory_and_semaphores_of_the_system_are_not_needed(monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr("_multiprocessing.SemLock", refuse)
    monkeypatch.setattr("_posixshmem.shm_open", refuse)
    assert len(list(read_ahead(numbers, BATCHES, 2))) == 10


def read_all(*_):
    """Read with workers; return whether the images are right, and the warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(2):
            found = list(read_batches(ArraySource(IMAGES), BATCHES, 8, 2))
    return np.array_equal(torch.cat(found)[:, 0], IMAGES), [str(one.message) for one in caught]


def assert_read_here(found, why):
    is_right, messages = found
    assert is_right
    assert len(messages) == 1
    for words in ("num_workers=2", why, "The result is the same; num_workers=0"):
        assert words in messages[0]


def test_a_process_of_a_pool_reads_by_itself():
    with multiprocessing.Pool(1) as pool:
        assert_read_here(pool.map(read_all, [0])[0], "this process belongs to a pool")


@pytest.mark.parametrize("fails", ["first", "second"])
def test_where_no_process_can_be_started_images_are_read_here(fails, monkeypatch):
    started, start = iter(range(9)), BaseProcess.start

    def refused(process):
        if next(started) >= (fails == "second"):
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        start(process)

    monkeypatch.setattr(BaseProcess, "start", refused)
    assert_read_here(read_all(), "refuses to start any: Resource temporarily unavailable")
    assert not workers()


def test_ctrl_c_while_processes_are_started_leaves_none(monkeypatch):
    start = BaseProcess.start

    def interrupted(process):
        start(process)
        raise KeyboardInterrupt

    monkeypatch.setattr(BaseProcess, "start", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(read_ahead(wait_a_minute, BATCHES, 2))
    assert not workers()


def test_where_images_cannot_be_sent_to_processes_they_are_read_here(monkeypatch):
    monkeypatch.setattr(_processes, "METHOD", "spawn")
    found = read_ahead(lambda rows: rows, BATCHES, 2)
    with pytest.warns(UserWarning, match="by pickle, which fails"):
        np.testing.assert_array_equal(np.concatenate(list(found)), np.arange(40))


SCRIPT = textwrap.dedent("""
    import numpy as np
    from otcxr_sk.images import ArraySource, read_batches
    from otcxr_sk.images.batches import _processes
    _processes.METHOD = "spawn"
    class Mine(ArraySource): "A class of the script."
    images = np.arange(40.0).reshape(10, 2, 2)
    def main():
        batches = np.array_split(np.arange(10), 5)
        found = np.concatenate(list(read_batches(Mine(images), batches, 2, 2)))
        assert np.array_equal(found[:, 0], images)
    {guard}main()
""")


@pytest.mark.slow
@pytest.mark.parametrize("how", ["guarded", "unguarded", "stdin", "command"])
def test_processes_that_are_started_anew(how, tmp_path):
    guard = "" if how == "unguarded" else "if __name__ == '__main__': "
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard=guard))
    ways = {"stdin": ["-"], "command": ["-c", script.read_text()]}
    done = subprocess.run(
        [sys.executable, *ways.get(how, [script])],
        input=script.read_text(),
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert ("read without workers, because they ended" in done.stderr) == (how != "guarded")


def test_a_message_is_only_the_images():
    message = _processes._attempt(np.copy, IMAGES)
    assert len(message) < IMAGES.nbytes + 400
    np.testing.assert_array_equal(pickle.loads(message)[0], IMAGES)
