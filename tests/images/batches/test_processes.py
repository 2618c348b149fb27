"""Workers do not outlive the process that has started them."""

import multiprocessing
import os
import signal
import time

import numpy as np
import psutil
import pytest

from otcxr_sk.images.batches import _processes

# Larger than what a pipe holds, so that workers are in the middle of sending.
LARGE = np.zeros(10**6)


def large(task):
    return LARGE


def start_and_wait(method, pipe):
    _processes.METHOD = method
    team = _processes.Team(large, range(9), 3)
    for task in range(3):
        team.result(task, on_silence=lambda: None)
    pipe.send([process.pid for process in team._processes])
    time.sleep(60)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_the_process_that_started_them_is_killed(how):
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = multiprocessing.Process(target=start_and_wait, args=(_processes.METHOD, theirs))
    with ours, theirs:
        process.start()
        workers = [psutil.Process(pid) for pid in ours.recv()]
        os.kill(process.pid, how)
        process.join()
    # Of processes that have ended, some remain until their new parent notices.
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
