"""
Several processes of one thread against one process of several threads
======================================================================

Images per second of `fit` with the same batches on the same processors: medians and range over
repeats, taken in turns. The start, the first epoch and the last one are not measured.

    python examples/benchmarks/process_scaling.py [--repeats 5] [--processes 2]
        [--encoder resnet18] [--size 128] [--batch-size 64] [--steps 4] [--epochs 4]
        [--precision float32]
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np
from timing import report
from torch.utils.data import Dataset

from otcxr_sk import OTCXRPretrainer


def parse(words=None):
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=4, help="per epoch")
    parser.add_argument("--epochs", type=int, default=4, help="at least 3")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--fit", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args(words)


class Clocked(Dataset):
    """Images that record when they are read."""

    def __init__(self, n, size):
        self.images = np.random.default_rng(0).random((n, size, size), np.float32)
        self.times = []

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        self.times.append(time.perf_counter())
        return self.images[index]


def fit(options):
    """Fit, and print the images per second of all processes together."""
    images = Clocked(options.steps * options.batch_size, options.size)
    OTCXRPretrainer(
        options.encoder,
        image_size=options.size,
        batch_size=options.batch_size,
        epochs=options.epochs,
        precision=options.precision,
        device="cpu",
        random_state=0,
    ).fit(images)
    # From the start of the second epoch to that of the last.
    share = len(images) // int(os.environ.get("WORLD_SIZE", 1))
    measured = options.epochs - 2
    seconds = images.times[-share] - images.times[-share * (measured + 1)]
    if int(os.environ.get("RANK", 0)) == 0:
        print(f"images/s {measured * len(images) / seconds:.3f}", flush=True)


def measure(processes, threads):
    """Start processes of so many threads, and return their images per second."""
    torchrun = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [sys.executable, *(torchrun if processes > 1 else []), *sys.argv, "--fit"],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("images/s"))
    return float(line.split()[1])


def main():
    options = parse()
    if options.fit:
        fit(options)
        return
    n = options.processes
    found = []
    for _ in range(options.repeats):
        found.append((measure(1, n), measure(n, 1)))
        print("one process {:.2f} images/s, several {:.2f}".format(*found[-1]), flush=True)
    one, several = np.array(found).T
    print(f"one process of {n} threads: {np.median(one):.2f} images/s")
    print(f"{n} processes of one thread: {np.median(several):.2f} images/s")
    report("ratio", several / one, ">= 0.9")


if __name__ == "__main__":
    main()
