"""
What the library adds to the encoder
====================================

Ratios of times measured side by side: medians and ranges over repeats, taken in turns.

    python examples/benchmarks/step_cost.py [--repeats 5] [--encoder resnet18]
"""

import argparse

import numpy as np
import timm
import torch
from one_step import OneStep
from timing import report, time_in_turns

from otcxr_sk import OTCXRPretrainer


def training_step(name, size, batch, precision, repeats, part):
    """Return the share of a step that a part, "heads" or "views", takes, and the arithmetic."""
    step = OneStep(name, size, batch, precision)
    alone = {"heads": step.heads, "views": step.draw}[part]
    seconds = time_in_turns(repeats, step=step.learn, part=alone)
    return seconds["part"] / seconds["step"], step.arithmetic


def transform(name, size, n_images, precision, repeats):
    """Return the images per second of `transform` over those of a bare float32 loop."""
    images = np.random.default_rng(0).random((n_images, size, size), np.float32)
    estimator = OTCXRPretrainer(name, image_size=size, epochs=0, precision=precision)
    estimator.fit(images[:2])
    bare = timm.create_model(name, in_chans=1, num_classes=0).eval()

    def loop():
        with torch.inference_mode():
            return [
                bare(torch.from_numpy(images[i : i + 64, None])) for i in range(0, n_images, 64)
            ]

    seconds = time_in_turns(repeats, bare=loop, ours=lambda: estimator.transform(images))
    return seconds["bare"] / seconds["ours"]


def main(arguments=None):
    parser = argparse.ArgumentParser(description="What the library adds to the encoder.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoder", default="resnet18")
    options = parser.parse_args(arguments)
    name, repeats = options.encoder, options.repeats
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for precision in ("auto", "float32"):
        ratios, used = training_step(name, 224, 64, precision, repeats, "heads")
        label = f"heads, transport and losses / step, 224 px, batch 64, {used}"
        report(label, ratios, "<= 0.15")
        ratios, used = training_step(name, 128, 128, precision, repeats, "views")
        report(f"two views / step, 128 px, batch 128, {used}", ratios, "<= 0.05")
    ratios = transform(name, 224, 256, "float32", repeats)
    report("images/s of transform / bare timm loop, float32", ratios, ">= 0.95")
    ratios = transform(name, 224, 256, "auto", repeats)
    report("images/s of transform, auto / bare timm loop, float32", ratios, ">= 1.5 with bfloat16")


if __name__ == "__main__":
    main()
