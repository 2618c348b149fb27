"""
What the library adds to the encoder
====================================

In a training step, and in `transform`: of one image, of one image more than a batch, and of many.

Ratios of times measured side by side: medians and ranges over repeats, taken in turns.

    python examples/benchmarks/step_cost.py [--repeats 5] [--encoder resnet18]

`--image-size` and `--images` are those of `transform`. Fewer threads than the machine has:
`OMP_NUM_THREADS=1 python ...`.
"""

import argparse

import numpy as np
import timm
import torch
from one_step import CPU, OneStep
from timing import report, time_in_turns

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.training import choose_precision


def training_step(name, size, batch, precision, repeats, part):
    """Return the share of a step that a part, "heads" or "views", takes, and the arithmetic."""
    step = OneStep(name, size, batch, precision)
    alone = {"heads": step.heads, "views": step.draw}[part]
    seconds = time_in_turns(repeats, step=step.learn, part=alone)
    return seconds["part"] / seconds["step"], step.arithmetic


class Transform:
    """`transform` on the CPU, and a bare timm model, on the same random images.

    Parameters
    ----------
    name : str
        Name of a timm model that takes images of `size` pixels.
    size, n_images : int
    precision : {"auto", "bfloat16", "float32"}
        Arithmetic of both.
    """

    def __init__(self, name, size, n_images, precision):
        self.images = np.random.default_rng(0).random((n_images, size, size), np.float32)
        settings = {"image_size": size, "epochs": 0, "device": "cpu", "precision": precision}
        self.estimator = OTCXRPretrainer(name, **settings).fit(self.images[:2])
        self.model = timm.create_model(name, in_chans=1, num_classes=0).eval()
        self.dtype = choose_precision(precision, CPU)

    def ours(self, n_images):
        return lambda: self.estimator.transform(self.images[:n_images])

    def bare(self, n_images, dtype=torch.float32):
        """Make a loop of the model over batches of 64."""
        batches = torch.from_numpy(self.images[:n_images, None]).split(64)

        def loop():
            enabled = dtype != torch.float32
            with torch.inference_mode(), torch.autocast("cpu", dtype, enabled=enabled):
                return [self.model(batch) for batch in batches]

        return loop

    def report(self, repeats):
        """Compare one image, one more than a batch, and all of them."""
        used = str(self.dtype).removeprefix("torch.")
        label = f"transform, {self.images.shape[1]} px, {used}:"
        one = time_in_turns(5 * repeats, bare=self.bare(1, self.dtype), ours=self.ours(1))
        report(f"{label} 1 image / bare call", one["ours"] / one["bare"], "<= 2")
        batch = time_in_turns(repeats, full=self.ours(64), more=self.ours(65))
        report(f"{label} 65 images / 64 images", batch["more"] / batch["full"], "<= 1.12")
        n_images = len(self.images)
        many = time_in_turns(repeats, bare=self.bare(n_images), ours=self.ours(n_images))
        target = ">= 0.95" if self.dtype == torch.float32 else ">= 1.5"
        label += f" {n_images} images, images/s / bare float32"
        report(label, many["bare"] / many["ours"], target)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="What the library adds to the encoder.")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=256)
    options = parser.parse_args(arguments)
    name, repeats = options.encoder, options.repeats
    print(f"{name}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    for precision in ("auto", "float32"):
        ratios, used = training_step(name, 224, 64, precision, repeats, "heads")
        label = f"heads, transport and losses / step, 224 px, batch 64, {used}"
        report(label, ratios, "<= 0.15")
        ratios, used = training_step(name, 128, 128, precision, repeats, "views")
        report(f"two views / step, 128 px, batch 128, {used}", ratios, "<= 0.05")
    automatic = str(choose_precision("auto", CPU)).removeprefix("torch.")
    for precision in sorted({"float32", automatic}):
        Transform(name, options.image_size, options.images, precision).report(repeats)


if __name__ == "__main__":
    main()
