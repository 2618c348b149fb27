"""
What reading images costs
=========================

Time and memory of sources, workers and the cache, on generated files or on yours:

    python examples/benchmarks/source_cost.py [--files FOLDER] [--repeats 5]

Workers need processors: on a busy machine, or with one processor, two are no faster than one.
"""

import argparse
import os
import tempfile
import time
import tracemalloc
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import torch
from one_step import OneStep
from PIL import Image
from timing import report, time_in_turns

from otcxr_sk.images import ImageCache, PathSource, list_images, read_batches

MEBIBYTE = 2**20
DECODED = 1024


def write_files(folder, n, side):
    """Write smooth noise as 8-bit PNG files, which compress about as well as radiographs."""
    random = np.random.default_rng(0)
    paths = []
    for row in range(n):
        coarse = Image.fromarray(random.integers(0, 256, (side // 16, side // 16), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((side, side), Image.Resampling.BICUBIC), np.int16)
        pixels = np.clip(smooth + random.integers(-4, 5, smooth.shape), 0, 255).astype(np.uint8)
        paths.append(str(folder / f"{side}-{row}.png"))
        Image.fromarray(pixels).save(paths[-1])
    return paths


def repeated(paths, n, cache=None):
    """Return a source of n images that reads the files again and again."""
    return PathSource(list(islice(cycle(paths), n)), cache=cache)


def print_building(n):
    """Print time and memory to build a source of n paths, none of which need to exist."""
    folder = "/data/of/a/hospital/with/long/names/of/folders"
    paths = [f"{folder}/patient{i:06}/study{i % 7}/series1/image{i:08}.dcm" for i in range(n)]
    # Timed separately, because tracing memory is slow.
    started = time.perf_counter()
    PathSource(paths)
    took = time.perf_counter() - started
    tracemalloc.start()
    source = PathSource(paths)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    print(f"a source of {len(source):,} paths: {took:.2f} s (target < 2), ", end="")
    print(f"{peak / MEBIBYTE:.0f} MiB at most (target < 64)", flush=True)


def resident():
    """Return the memory of this process and its workers in MiB, shared pages counted once."""
    own = os.getpid()
    children = Path(f"/proc/{own}/task/{own}/children").read_text().split()
    total = 0
    for process in [own, *children]:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                total += int(line.split()[1])
    return total / 1024


def print_memory(paths, n, num_workers, cache=None):
    """Print the resident memory after a tenth of an epoch of n images, and at its end."""
    source = repeated(paths, n, cache)
    order = np.random.default_rng(0).permutation(n)
    batches = np.array_split(order, n // 64)
    marks = []
    for step, _ in enumerate(read_batches(source, batches, 64, num_workers)):
        if (step + 1) % (len(batches) // 10) == 0:
            marks.append(resident())
    kind = f"{num_workers} workers" + (", cache" if cache else "")
    print(f"resident memory over an epoch of {n:,} images, {kind}: ", end="")
    print(f"{marks[0]:.0f} MiB after a tenth, {marks[-1]:.0f} at the end, {max(marks):.0f} at most")


def print_decoding(paths, repeats):
    """Print the speed of two workers over that of one, their start included."""
    source = repeated(paths, DECODED)
    batches = np.array_split(np.arange(DECODED), DECODED // 8)

    def epoch(num_workers):
        return lambda: [None for _ in read_batches(source, batches, 224, num_workers)]

    seconds = time_in_turns(repeats, one=epoch(1), two=epoch(2))
    label = f"two workers / one, decoding {DECODED} files to 224 px"
    report(label, seconds["one"] / seconds["two"], ">= 1.7")
    print(f"  load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")


def print_feeding(paths, folder, repeats):
    """Print the time to read a batch from the cache as a share of a training step."""
    batch, size = 64, 224
    source = repeated(paths, batch, ImageCache(folder, 1e9))
    source.read(range(batch), size)
    step = OneStep("resnet18", size, batch, "auto")
    step.images = torch.from_numpy(source.read(range(batch), size))
    seconds = time_in_turns(repeats, step=step.learn, feed=lambda: source.read(range(batch), size))
    label = f"a batch of {batch} from the cache / step of resnet18, {size} px"
    report(label, seconds["feed"] / seconds["step"], "<= 0.05")
    print(f"  {1e6 * np.median(seconds['feed']) / batch:.0f} microseconds per image")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="What reading images costs.")
    parser.add_argument("--files", help="folder of images")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--epoch", type=int, default=20_000, help="images in an epoch")
    options = parser.parse_args(arguments)
    print_building(100_000)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        small = write_files(folder, 200, 128)
        print_memory(small, options.epoch, 0)
        print_memory(small, options.epoch, 2)
        print_memory(small, options.epoch, 2, ImageCache(folder / "small", 10**9))
        large = list_images(options.files) if options.files else write_files(folder, 64, 1024)
        print_decoding(large, options.repeats)
        print_feeding(large, folder / "large", options.repeats)


if __name__ == "__main__":
    main()
