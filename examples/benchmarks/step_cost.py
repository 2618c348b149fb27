"""
What the library adds to the encoder
====================================

Ratios, each measured side by side in one run: medians and range over alternating repeats.

    python examples/benchmarks/step_cost.py [--repeats 5] [--encoder resnet18]
"""

import argparse
import time

import numpy as np
import timm
import torch
from one_step import OneStep

from otcxr_sk import OTCXRPretrainer


def seconds(work):
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def compare(repeats, **works):
    """Seconds of every work in every repeat, taken in turns after one warm-up."""
    taken = {name: [] for name in works}
    for _ in range(repeats + 1):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return {name: np.array(times[1:]) for name, times in taken.items()}


def report(label, ratios, wanted):
    low, middle, high = np.percentile(ratios, [0, 50, 100])
    print(f"{label:<66}{middle:6.3f}  ({low:.3f} to {high:.3f}), wanted {wanted}", flush=True)


def training_step(name, size, batch, precision, repeats, share_of):
    """Time a step and one of its parts."""
    step = OneStep(name, size, batch, precision)
    part = {"heads": step.heads, "views": step.draw}[share_of]
    taken = compare(repeats, step=step.learn, part=part)
    return taken["part"] / taken["step"], step.dtype


def transform(name, size, n_images, precision, repeats):
    """Images per second of `transform` over those of a bare float32 loop."""
    images = np.random.default_rng(0).random((n_images, size, size), np.float32)
    estimator = OTCXRPretrainer(name, image_size=size, epochs=0, precision=precision)
    estimator.fit(images[:2])
    bare = timm.create_model(name, in_chans=1, num_classes=0).eval()

    def loop():
        with torch.inference_mode():
            return [
                bare(torch.from_numpy(images[i : i + 64, None])) for i in range(0, n_images, 64)
            ]

    taken = compare(repeats, bare=loop, ours=lambda: estimator.transform(images))
    return taken["bare"] / taken["ours"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoder", default="resnet18")
    options = parser.parse_args()
    name, repeats = options.encoder, options.repeats
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for precision in ("auto", "float32"):
        ratios, dtype = training_step(name, 224, 64, precision, repeats, "heads")
        label = "heads, transport and losses / step, 224 px, batch 64"
        report(f"{label}, {dtype}".replace("torch.", ""), ratios, "<= 0.15")
        ratios, dtype = training_step(name, 128, 128, precision, repeats, "views")
        label = "two views / step, 128 px, batch 128"
        report(f"{label}, {dtype}".replace("torch.", ""), ratios, "<= 0.05")
    ratios = transform(name, 224, 256, "float32", repeats)
    report("images/s of transform / bare timm loop, float32", ratios, ">= 0.95")
    ratios = transform(name, 224, 256, "auto", repeats)
    report("images/s of transform, auto / bare timm loop, float32", ratios, ">= 1.5 with bf16")


if __name__ == "__main__":
    main()
