"""
Training, compared with a hand-written loop
===========================================

Images per second of `OTCXRPretrainer.fit` and of a plain loop with lightly, on the same PNG files
(synthetic radiographs): medians and range over repeats, taken in turns.

    python examples/benchmarks/training_speed.py [--repeats 5] [--out speed.csv]

The plain loop has lightly's SimCLR transform, its VICReg head and loss as in its own examples for
a ResNet-18, the same timm encoder, AdamW, and the number of workers that is fastest for it. Images
stay in Pillow's mode "L", with one mean and standard deviation, and steps of the transform that
only change colors are switched off, because they would cost the loop time. The loop runs in
float32, as such loops are usually written, and with bfloat16 autocast and channels_last. `fit`
matches regions of both views in addition to the image-level loss. It reads images in its own
process unless ``--num-workers`` is given. Its speed is that of a whole epoch after the first; the
scan of all images before training is printed separately, and is part of the total.
"""

import argparse
import os
import platform
import re
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import timm
import torch
from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from results import write_csv
from timing import median_and_range
from torch.optim.optimizer import register_optimizer_step_post_hook
from torch.utils.data import DataLoader, Dataset

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.images import PathSource, scan

EPOCHS = 2
OURS = {"fit, auto": "auto", "fit, float32": "float32"}
PLAIN = {"lightly, float32": False, "lightly, bfloat16": True}
TARGETS = {"fit, auto": 2.0, "fit, float32": 1.1}


def write_images(folder, n, side):
    data = make_chest_phantoms(
        n, images_per_patient=1, image_size=side, return_masks=False, random_state=0
    )
    paths = [str(folder / f"{row:04}.png") for row in range(n)]
    for path, pixels in zip(paths, data.images, strict=True):
        Image.fromarray(pixels).save(path)
    return paths


class TransformedImages(Dataset):
    """Gray images after a transform."""

    def __init__(self, paths, transform):
        self.paths, self.transform = paths, transform

    def __len__(self):
        return len(self.paths)

    def __getitem__(self, index):
        with Image.open(self.paths[index]) as image:
            return self.transform(image.convert("L"))


class PlainLoop:
    """A loop as in a tutorial."""

    def __init__(self, paths, options, size, num_workers, *, mixed):
        transform = SimCLRTransform(
            input_size=size,
            cj_sat=0,
            cj_hue=0,
            random_gray_scale=0,
            normalize={"mean": [0.5], "std": [0.25]},
        )
        self.loader = DataLoader(
            TransformedImages(paths, transform),
            batch_size=options.batch,
            shuffle=True,
            drop_last=True,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
        )
        backbone = timm.create_model(options.encoder, in_chans=1, num_classes=0)
        head = VICRegProjectionHead(backbone.num_features, 2048, 2048, num_layers=2)
        self.model = torch.nn.Sequential(backbone, head).train()
        self.mixed = mixed
        if mixed:
            self.model.to(memory_format=torch.channels_last)
        self.criterion = VICRegLoss()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=1e-3, weight_decay=1e-2)

    def epoch(self):
        for first, second in self.loader:
            with torch.autocast("cpu", torch.bfloat16, enabled=self.mixed):
                loss = self.criterion(self.model(first), self.model(second))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()

    def speed(self):
        """Train an epoch, and return its images per second."""
        started = time.perf_counter()
        self.epoch()
        seen = len(self.loader) * self.loader.batch_size
        return seen / (time.perf_counter() - started)


def fastest(paths, options, size, *, mixed):
    """Return a plain loop with the number of workers that is fastest for it, and the number."""
    found, few = {}, paths[: 2 * options.batch]
    for num_workers in options.workers:
        loop = PlainLoop(few, options, size, num_workers, mixed=mixed)
        loop.epoch()
        found[num_workers] = loop.speed()
        del loop  # and its workers
    best = max(found, key=found.get)
    speeds = ", ".join(f"{speed:.1f} with {k}" for k, speed in found.items())
    print(f"  lightly{', bfloat16' if mixed else ''}, images/s by workers: {speeds}", flush=True)
    loop = PlainLoop(paths, options, size, best, mixed=mixed)
    loop.epoch()
    return loop, best


@contextmanager
def step_ends():
    """Collect the times at which any optimizer ends a step."""
    ends = []
    hook = register_optimizer_step_post_hook(lambda *_: ends.append(time.perf_counter()))
    try:
        yield ends
    finally:
        hook.remove()


def fit_speed(paths, options, size, precision):
    """Return the images per second of the epochs after the first, and of the whole call."""
    estimator = OTCXRPretrainer(
        options.encoder,
        image_size=size,
        epochs=EPOCHS,
        batch_size=options.batch,
        precision=precision,
        num_workers=options.num_workers,
        device="cpu",
        random_state=0,
    )
    started = time.perf_counter()
    with step_ends() as ends:
        estimator.fit(paths)
    whole = time.perf_counter() - started
    first_epoch = ends[len(ends) // EPOCHS - 1]
    return len(paths) * (EPOCHS - 1) / (ends[-1] - first_epoch), len(paths) * EPOCHS / whole


def measure(paths, options, size):
    """Return the rows of the table for one image size."""
    print(f"{size} px", flush=True)
    loops, workers = {}, dict.fromkeys(OURS, options.num_workers)
    for name, mixed in PLAIN.items():
        loops[name], workers[name] = fastest(paths, options, size, mixed=mixed)
    speeds = {name: [] for name in (*OURS, *PLAIN)}
    totals = {name: [] for name in OURS}
    for _ in range(options.repeats):
        for name, precision in OURS.items():
            steady, total = fit_speed(paths, options, size, precision)
            speeds[name].append(steady)
            totals[name].append(total)
        for name, loop in loops.items():
            speeds[name].append(loop.speed())
    started = time.perf_counter()
    scan(PathSource(paths), size, num_workers=options.num_workers)
    speed = len(paths) / (time.perf_counter() - started)
    print(f"  the scan before training: {speed:.0f} images/s")
    return [row(size, name, speeds, totals, workers[name]) for name in speeds]


def row(size, name, speeds, totals, num_workers):
    mine = np.array(speeds[name])
    found = {"size": size, "what": name, "workers": num_workers}
    found |= summary("images_per_s", mine)
    found["total_images_per_s"] = float(np.median(totals[name])) if name in totals else ""
    for plain in PLAIN:
        found |= summary(f"times_{plain.replace(', ', '_')}", mine / np.array(speeds[plain]))
    return found


def summary(name, numbers):
    names = name, f"{name}_low", f"{name}_high"
    return dict(zip(names, median_and_range(numbers), strict=True))


def show(found):
    def middle(name):
        return f"{found[name]:7.2f} ({found[f'{name}_low']:.2f} to {found[f'{name}_high']:.2f})"

    line = f"  {found['what']:<18} {found['workers']} workers  {middle('images_per_s')} images/s"
    line += f", / lightly {middle('times_lightly_float32')}"
    line += f", / lightly bfloat16 {middle('times_lightly_bfloat16')}"
    if found["what"] in OURS:
        line += f"; whole fit {found['total_images_per_s']:.2f} images/s"
        line += f"; target / lightly >= {TARGETS[found['what']]}"
    print(line, flush=True)


def machine():
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        named = re.search(r"model name\s*:\s*(.+)", cpuinfo.read_text())
        name = named[1] if named else name
    versions = {"torch": torch.__version__, "timm": timm.__version__, "numpy": np.__version__}
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    bf16 = "yes" if torch.cpu._is_avx512_bf16_supported() else "no"
    return (
        f"{name}, {os.cpu_count()} processors, {torch.get_num_threads()} threads, bfloat16 {bf16}; "
        f"Python {platform.python_version()}, {packages}; load {os.getloadavg()[0]:.1f}"
    )


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Training, compared with a plain loop.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--images", type=int, default=192)
    parser.add_argument("--side", type=int, default=256, help="side of the files, in pixels")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 224])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--num-workers", type=int, default=0, help="workers of fit")
    parser.add_argument(
        "--workers", type=int, nargs="+", help="numbers of workers to try for the loop"
    )
    parser.add_argument("--out", help="CSV file to write the table to")
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    options = parser.parse_args(arguments)
    if options.quick:
        options.repeats, options.images, options.side, options.sizes = 1, 8, 32, [32]
        options.batch, options.encoder, options.workers = 4, "resnet10t", [0]
    options.workers = options.workers or list(range((os.cpu_count() or 1) + 1))
    print(machine())
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = write_images(Path(folder), options.images, options.side)
        for size in options.sizes:
            rows += measure(paths, options, size)
            for found in rows[-len(OURS) - len(PLAIN) :]:
                show(found)
    if options.out:
        write_csv(rows, options.out, digits=5)


if __name__ == "__main__":
    main()
