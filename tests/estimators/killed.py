"""Stop runs from outside, resume them, and compare how they end.

python killed.py FOLDER KILLS...

A kill is "save", "interrupt", or a number of kills at random times. Prints a line for every run:
how it was stopped, how many of its 36 steps were saved by then, and "same" if it ended, once
resumed, with the weights of a run that was never stopped.
"""

import os
import random
import signal
import sys
import time
import traceback
from datetime import timedelta
from importlib import import_module
from pathlib import Path

import numpy as np
import torch

from otcxr_sk import Checkpoint, OTCXRPretrainer

EVERY = [1, 2, timedelta(0), timedelta(seconds=0.1)]


def fit(folder, every=1, **options):
    """Start or resume the run in a folder, and save its weights there."""
    torch.set_num_threads(1)
    X = np.random.default_rng(0).random((48, 32, 32), np.float32)
    estimator = OTCXRPretrainer(
        "test_resnet",
        image_size=32,
        epochs=6,
        batch_size=8,
        random_state=0,
        checkpoint=Checkpoint(folder / "run", every),
        **options,
    )
    try:
        estimator.fit(X)
    except KeyboardInterrupt:
        assert np.isfinite(estimator.transform(X)).all()
        assert 0 <= estimator.n_epochs_ < 6
        raise
    np.save(folder / "weights.npy", estimator.weights_)


def start(folder, prepare=None, **options):
    """Fit in a new process."""
    folder.mkdir(exist_ok=True)
    process = os.fork()
    if process:
        return process
    status = 1
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if prepare is not None:
            prepare()
        fit(folder, **options)
        status = 0
    except KeyboardInterrupt:
        status = 2
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def end(process):
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def weights_of(folder, **options):
    if end(start(folder, **options)):
        raise RuntimeError(f"the run in {folder} failed")
    return np.load(folder / "weights.npy")


def compare(folder, stopped, expected, **options):
    saved = [int(path.name.split("-")[1]) for path in folder.glob("run/*.safetensors")]
    again = weights_of(folder, **options)
    same = "same" if np.array_equal(again, expected) else "other"
    sys.stdout.write(f"{stopped} {max(saved, default=0)} {same}\n")


def kill_itself_at(function, call):
    """Prepare a process to kill itself at the given call of a function of `os`."""

    def prepare():
        calls, usual = [], getattr(os, function)

        def deadly(*args, **kwargs):
            calls.append(args)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return usual(*args, **kwargs)

        setattr(os, function, deadly)

    return prepare


def kill_at_random_times(folder, expected, duration, times):
    rng = random.Random(0)
    for number in range(times):
        where, every = folder / str(number), EVERY[number % len(EVERY)]
        process = start(where, every=every)
        time.sleep(rng.uniform(0.2, 0.9) * duration)
        os.kill(process, signal.SIGKILL)
        stopped = "killed" if end(process) == -signal.SIGKILL else "ended"
        compare(where, stopped, expected, every=every)


def kill_while_saving(folder, expected):
    # Before a checkpoint is flushed, before it gets its name, and before an old one is removed.
    # Every save flushes a file and the folder; before the first, a trial file is unlinked.
    for function, call in [("fsync", 5), ("replace", 1), ("unlink", 2)]:
        where = folder / function
        if end(start(where, kill_itself_at(function, call))) != -signal.SIGKILL:
            raise RuntimeError(f"{function} was not called {call} times")
        compare(where, function, expected)


def interrupt(folder, expected):
    where = folder / "interrupted"
    # A terminal sends Ctrl-C to the process and to its workers.
    process = start(where, os.setsid, every=timedelta(0), num_workers=1)
    while not list(where.glob("run/*.safetensors")):
        time.sleep(0.002)
    os.killpg(process, signal.SIGINT)
    if end(process) != 2:
        raise RuntimeError("the run was not interrupted")
    compare(where, "interrupted", expected, num_workers=1)


def main(folder, *kills):
    # Import these once, not in every run.
    for module in ("lightning_fabric", "timm.optim"):
        import_module(module)
    began = time.monotonic()
    expected = weights_of(folder / "whole")
    duration = time.monotonic() - began
    for kill in kills:
        if kill == "save":
            kill_while_saving(folder, expected)
        elif kill == "interrupt":
            interrupt(folder, expected)
        else:
            kill_at_random_times(folder, expected, duration, int(kill))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
