"""Workers do not outlive the process that has started them."""

import os
import signal
import time
from multiprocessing import get_context

import numpy as np
import psutil
import pytest

from otcxr_sk.images.batches import _processes

pytestmark = pytest.mark.skipif(_processes.METHOD != "fork", reason="needs fork")

# Larger than what a pipe holds, so that workers are in the middle of sending.
LARGE = np.zeros(10**6)


def start_and_wait(pipe):
    team = _processes.Team(lambda task: LARGE, range(9), 3)
    pipe.send([process.pid for process in team._processes])
    time.sleep(60)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_workers_end_when_the_process_that_started_them_is_killed(how):
    context = get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=start_and_wait, args=(theirs,))
    with ours, theirs:
        process.start()
        workers = [psutil.Process(pid) for pid in ours.recv()]
        os.kill(process.pid, how)
        process.join()
    # Of processes that have ended, some remain until their new parent notices.
    _, alive = psutil.wait_procs(workers, timeout=10)
    assert not [one for one in alive if one.status() != psutil.STATUS_ZOMBIE]
