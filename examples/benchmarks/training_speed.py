"""
Training, compared with the encoder alone and with a hand-written loop
======================================================================

Images per second of `OTCXRPretrainer.fit` and `transform`, of the bare encoder, and of a plain loop
with lightly: medians and range over repeats, taken in turns.

    python examples/benchmarks/training_speed.py [--repeats 5] [--device cuda] [--out speed.csv]

The bare encoder is timm's model alone, in the arithmetic of ``precision="auto"`` and channels_last,
on images that are on the device already: forward, backward and a step of AdamW on two images where
`fit` makes two views of one, or a forward pass where `transform` embeds one. It is the limit that
`fit` and `transform` are told as a share of, from arrays in memory of the encoder's size and from
PNG files (synthetic radiographs). On CUDA, peak memory is compared, too.

The speed of `fit` is that of the epochs after the first; the whole call also scans all images and
builds the model. Files are read as `fit` does by default, or by ``--num-workers``.

On the CPU, a plain loop with lightly, if it is installed, trains on the same files. It has
lightly's SimCLR transform, its VICReg head and loss as in its own examples for a ResNet-18, the
same timm encoder, AdamW, and the number of workers that is fastest for it. Images stay in Pillow's
mode "L", with one mean and standard deviation, and steps of the transform that only change colors
are switched off, because they would cost the loop time. The loop runs in float32, as such loops are
usually written, and with bfloat16 autocast and channels_last. `fit` matches regions of both views
in addition to the image-level loss.
"""

import argparse
import math
import os
import platform
import re
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from itertools import count, cycle, islice
from pathlib import Path
from typing import NamedTuple

import numpy as np
import timm
import torch
from bare import Bare
from devices import add_device, synchronize
from PIL import Image
from results import write_csv
from timing import median_and_range
from torch.optim.optimizer import register_optimizer_step_post_hook

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.images import PathSource, scan
from otcxr_sk.training import choose_precision

PLAIN = {"lightly, float32": False, "lightly, bfloat16": True}
TARGETS = {"fit, auto": 2.0, "fit, float32": 1.1}
# What each row is told as a share of.
BARE, FORWARD = "bare encoder", "bare forward pass"
LIMITS = {
    "fit, auto": BARE,
    "fit, arrays": BARE,
    "transform, files": FORWARD,
    "transform, arrays": FORWARD,
}
# Drawn images; beyond them, the same come again.
FILES = 192
# Steps of a GPU that are not timed.
WARM_UP = 5


class Run(NamedTuple):
    """Images per second, those of a whole `fit`, and peak memory in bytes."""

    speed: float
    whole: float = math.nan
    memory: float = math.nan


def draw_images(n, side):
    return make_chest_phantoms(
        n, images_per_patient=1, image_size=side, return_masks=False, random_state=0
    ).images


def write_images(folder, images):
    paths = [str(folder / f"{row:04}.png") for row in range(len(images))]
    for path, pixels in zip(paths, images, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


@contextmanager
def times_of_steps(*numbers, device):
    """Collect the times at which some steps of any optimizer, counted from 1, are done."""
    steps, times = count(1), []

    def look(*_):
        if next(steps) in numbers:
            # A GPU has only been told to make the step. Waiting for it every time would slow it.
            synchronize(device)
            times.append(time.perf_counter())

    hook = register_optimizer_step_post_hook(look)
    try:
        yield times
    finally:
        hook.remove()


def watched(way, options, size):
    """Return a run of `way`, on CUDA with the bytes by which memory rose meanwhile."""
    if not options.device.startswith("cuda"):
        return way(options, size)
    before = torch.cuda.memory_allocated(options.device)
    torch.cuda.reset_peak_memory_stats(options.device)
    run = way(options, size)
    return run._replace(memory=torch.cuda.max_memory_allocated(options.device) - before)


def speed_of(step, options):
    """Return the images per second of a step with a batch, over as many steps as an epoch has."""
    for _ in range(1 if options.device == "cpu" else WARM_UP):
        step()
    steps = math.ceil(options.images / options.batch)
    synchronize(options.device)
    started = time.perf_counter()
    for _ in range(steps):
        step()
    synchronize(options.device)
    return steps * options.batch / (time.perf_counter() - started)


def train_bare(options, size):
    alone = Bare(options.encoder, size, device=options.device)
    return Run(speed_of(alone.training(2 * options.batch), options))


def embed_bare(options, size):
    alone = Bare(options.encoder, size, device=options.device)
    model, images = alone.model.eval(), alone.noise(options.batch)
    with torch.inference_mode(), alone.autocast():
        return Run(speed_of(lambda: model(images), options))


def pretrainer(options, size, **changes):
    if options.num_workers is not None:
        changes["num_workers"] = options.num_workers
    return OTCXRPretrainer(
        options.encoder,
        image_size=size,
        batch_size=options.batch,
        device=options.device,
        random_state=0,
        **changes,
    )


def fit(images, options, size, precision="auto"):
    estimator = pretrainer(options, size, epochs=options.epochs, precision=precision)
    per_epoch = math.ceil(len(images) / options.batch)
    ends = per_epoch, per_epoch * options.epochs
    started = time.perf_counter()
    with times_of_steps(*ends, device=options.device) as times:
        estimator.fit(images)
    whole = len(images) * options.epochs / (time.perf_counter() - started)
    first, last = times
    return Run(len(images) * (options.epochs - 1) / (last - first), whole)


def transform(images, options, size):
    estimator = pretrainer(options, size, epochs=0).fit(images[:2])
    estimator.transform(images[: options.batch])
    started = time.perf_counter()
    estimator.transform(images)
    return Run(len(images) / (time.perf_counter() - started))


def measure(drawn, paths, options, size):
    """Return the rows of the table for one image size."""
    print(f"{size} px", flush=True)
    files = list(islice(cycle(paths), options.images))
    arrays = np.resize(drawn[:, :size, :size], (options.images, size, size))
    ways = {
        "fit, auto": partial(fit, files),
        "fit, arrays": partial(fit, arrays),
        BARE: train_bare,
        "transform, files": partial(transform, files),
        "transform, arrays": partial(transform, arrays),
        FORWARD: embed_bare,
    }
    workers = dict.fromkeys(ways, "") | dict.fromkeys(LIMITS, pretrainer(options, size).num_workers)
    if options.plain:
        from plain_loop import fastest

        ways["fit, float32"] = partial(fit, files, precision="float32")
        workers["fit, float32"] = workers["fit, auto"]
        for name, mixed in PLAIN.items():
            loop, workers[name] = fastest(files, options, size, mixed=mixed)
            ways[name] = lambda *_, loop=loop: Run(loop.speed())
    runs = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, way in ways.items():
            runs[name].append(watched(way, options, size))
    started = time.perf_counter()
    scan(PathSource(files), size, num_workers=options.num_workers or 0)
    speed = len(files) / (time.perf_counter() - started)
    print(f"  the scan before training: {speed:.0f} images/s")
    return [row(size, name, runs, workers[name]) for name in ways]


def row(size, name, runs, num_workers):
    """Return the row of what has a name, compared with its limit and with the plain loops."""
    runs = {one: Run(*map(np.array, zip(*found, strict=True))) for one, found in runs.items()}
    mine, limit = runs[name], runs.get(LIMITS.get(name))
    found = {"size": size, "what": name, "workers": num_workers}
    found |= summary("images_per_s", mine.speed)
    if name.startswith("fit"):
        found["total_images_per_s"] = float(np.median(mine.whole))
    ratios = {}
    if limit:
        ratios["share_of_bare"] = mine.speed / limit.speed
        ratios["total_share_of_bare"] = mine.whole / limit.speed
        ratios["memory_over_bare"] = mine.memory / limit.memory
    if name in TARGETS or name in PLAIN:
        for plain in PLAIN:
            if plain in runs:
                ratios[f"times_{plain.replace(', ', '_')}"] = mine.speed / runs[plain].speed
    for name_of_ratio, values in ratios.items():
        # Not everything has a whole call, and not every device a peak.
        if not np.isnan(values).any():
            found |= summary(name_of_ratio, values)
    return found


def summary(name, numbers):
    names = name, f"{name}_low", f"{name}_high"
    return dict(zip(names, median_and_range(numbers), strict=True))


def show(found):
    """Print a row of the table, numbers with their ranges."""
    cells = []
    for name, value in found.items():
        if name.endswith(("_low", "_high")):
            continue
        cells.append(f"{name} {value:.2f}" if isinstance(value, float) else f"{value}")
        if f"{name}_low" in found:
            cells[-1] += f" ({found[f'{name}_low']:.2f} to {found[f'{name}_high']:.2f})"
    if found["what"] in TARGETS:
        cells.append(f"target / lightly >= {TARGETS[found['what']]}")
    print("  " + "; ".join(cells), flush=True)


def machine(device):
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        name = named[1] if named else name
    if device.startswith("cuda"):
        name = f"{torch.cuda.get_device_name(device)}, {name}"
    versions = {"torch": torch.__version__, "timm": timm.__version__, "numpy": np.__version__}
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    bf16 = "yes" if choose_precision("auto", torch.device(device)) == torch.bfloat16 else "no"
    return (
        f"{name}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, bfloat16 {bf16}; "
        f"Python {platform.python_version()}, {packages}; load {os.getloadavg()[0]:.1f}"
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Training, compared with what limits it.")
    add_device(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, help="by default 192; for a GPU 16 batches, or 2048")
    parser.add_argument("--epochs", type=int, help="by default 2, for a GPU 3; at least 2")
    parser.add_argument("--side", type=int, default=256, help="side of the files, in pixels")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--num-workers", type=int, help="workers of fit, by default its own choice")
    parser.add_argument(
        "--workers", type=int, nargs="+", help="numbers of workers to try for the loop"
    )
    parser.add_argument("--out", help="CSV file to write the table to")
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    options = parser.parse_args(arguments)
    on_cpu = options.device == "cpu"
    if options.quick:
        options.repeats, options.images, options.side, options.sizes = 1, 8, 32, [32]
        options.batch, options.encoder, options.workers = 4, "resnet10t", [0]
        options.epochs = 2
    options.images = options.images or (FILES if on_cpu else max(2048, 16 * options.batch))
    options.epochs = options.epochs or (2 if on_cpu else 3)
    if options.epochs < 2:
        parser.error("--epochs must be 2 or more: the first is not counted")
    options.workers = options.workers or list(range((os.cpu_count() or 1) + 1))
    options.plain = on_cpu and find_spec("lightly") is not None
    print(machine(options.device))
    if on_cpu and not options.plain:
        print('without the plain loop, which needs pip install "otcxr-sk[benchmarks]"')
    rows = []
    drawn = draw_images(min(FILES, options.images), options.side)
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), drawn)
        for size in options.sizes:
            found = measure(drawn, paths, options, size)
            for line in found:
                show(line)
            rows += found
    if options.out:
        write_csv(rows, options.out, digits=5)


if __name__ == "__main__":
    main()
