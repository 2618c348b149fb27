"""
What the library adds to the encoder
====================================

In a training step, beside timm's model alone; in fine-tuning with labels, beside a plain loop; and
in `transform`: of one image, of one image more than a batch, and of many.

Ratios of times measured side by side: medians and ranges over repeats, taken in turns.

    python examples/benchmarks/step_cost.py [--repeats 5] [--encoder resnet18] [--device cuda]

`--image-size` and `--images` are those of `transform`. Fewer threads than the machine has:
`OMP_NUM_THREADS=1 python ...`.
"""

import argparse

import numpy as np
import timm
import torch
from devices import add_device
from one_step import OneStep
from timing import report, time_in_turns

from otcxr_sk import OTCXRClassifier, OTCXRPretrainer
from otcxr_sk.training import choose_precision

# Images of a step of fine-tuning.
BATCH = 32


def training_step(name, size, batch, precision, repeats, part, device="cpu"):
    """Return the shares of a step that a part, "heads" or "views", and the bare encoder take.

    And the name of the arithmetic.
    """
    step = OneStep(name, size, batch, precision, device=device)
    alone = {"heads": step.heads, "views": step.draw}[part]
    seconds = time_in_turns(repeats, device=device, step=step.learn, part=alone, bare=step.bare())
    whole = seconds["step"]
    return seconds["part"] / whole, seconds["bare"] / whole, step.arithmetic


def fine_tuning(name, size, n_images, precision, repeats, device="cpu"):
    """Return how long epochs of `OTCXRClassifier` take beside those of a plain loop.

    The loop trains timm's model on the same images, in memory as float32, without varying them.
    """
    images = np.random.default_rng(0).integers(0, 256, (n_images, size, size), np.uint8)
    labels = np.arange(n_images) % 2
    settings = {"image_size": size, "epochs": 0, "device": device, "precision": precision}
    encoder = OTCXRPretrainer(name, **settings).fit(images[:2])

    def ours(epochs):
        classifier = OTCXRClassifier(encoder, epochs=epochs, batch_size=BATCH, random_state=0)
        return lambda: classifier.fit(images, labels)

    on, dtype = torch.device(device), choose_precision(precision, torch.device(device))
    model = timm.create_model(name, in_chans=1, num_classes=2).train()
    model = model.to(on, memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batches = torch.from_numpy(images[:, None] / np.float32(255)).to(on).split(BATCH)
    targets = torch.from_numpy(labels).to(on).split(BATCH)

    def bare():
        for batch, target in [*zip(batches, targets, strict=True)] * 2:
            with torch.autocast(on.type, dtype, enabled=dtype != torch.float32):
                scores = model(batch)
            torch.nn.functional.cross_entropy(scores.float(), target).backward()
            optimizer.step()
            optimizer.zero_grad()

    # What comes before the first epoch and after the last is in both, and falls out.
    seconds = time_in_turns(repeats, device=device, one=ours(1), three=ours(3), bare=bare)
    return (seconds["three"] - seconds["one"]) / seconds["bare"]


class Transform:
    """`transform`, and a bare timm model, on the same random images.

    On a GPU, the bare model has them there, in channels_last.

    Parameters
    ----------
    name : str
        Name of a timm model that takes images of `size` pixels.
    size, n_images : int
    precision : {"auto", "bfloat16", "float32"}
        Arithmetic of both.
    device : str, default="cpu"
    """

    def __init__(self, name, size, n_images, precision, device="cpu"):
        self.device = torch.device(device)
        self.images = np.random.default_rng(0).random((n_images, size, size), np.float32)
        settings = {"image_size": size, "epochs": 0, "device": device, "precision": precision}
        self.estimator = OTCXRPretrainer(name, **settings).fit(self.images[:2])
        model = timm.create_model(name, in_chans=1, num_classes=0).eval()
        on_cpu = self.device.type == "cpu"
        layout = torch.contiguous_format if on_cpu else torch.channels_last
        self.model = model.to(self.device, memory_format=layout)
        self.dtype = choose_precision(precision, self.device)

    def ours(self, n_images):
        return lambda: self.estimator.transform(self.images[:n_images])

    def bare(self, n_images, dtype=torch.float32):
        """Make a loop of the model over batches of 64."""
        batches = torch.from_numpy(self.images[:n_images, None]).to(self.device).split(64)

        def loop():
            enabled = dtype != torch.float32
            with torch.inference_mode(), torch.autocast(self.device.type, dtype, enabled=enabled):
                return [self.model(batch) for batch in batches]

        return loop

    def report(self, repeats):
        """Compare one image, one more than a batch, and all of them."""
        used = str(self.dtype).removeprefix("torch.")
        label = f"transform, {self.images.shape[1]} px, {used}:"
        one = self.times(5 * repeats, bare=self.bare(1, self.dtype), ours=self.ours(1))
        report(f"{label} 1 image / bare call", one["ours"] / one["bare"], "<= 2")
        batch = self.times(repeats, full=self.ours(64), more=self.ours(65))
        report(f"{label} 65 images / 64 images", batch["more"] / batch["full"], "<= 1.12")
        n_images = len(self.images)
        # A loop on the CPU is usually in float32.
        limit = torch.float32 if self.device.type == "cpu" else self.dtype
        many = self.times(repeats, bare=self.bare(n_images, limit), ours=self.ours(n_images))
        target = ">= 0.95" if self.dtype == torch.float32 else ">= 1.5"
        target = target if self.device.type == "cpu" else ">= 0.5"
        label += f" {n_images} images, images/s / bare {str(limit).removeprefix('torch.')}"
        report(label, many["bare"] / many["ours"], target)

    def times(self, repeats, **functions):
        return time_in_turns(repeats, device=str(self.device), **functions)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="What the library adds to the encoder.")
    add_device(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    options = parser.parse_args(arguments)
    shapes = {"heads": (224, 64), "views": (128, 128)}
    if options.quick:
        options.encoder, options.repeats, options.image_size, options.images = "resnet10t", 1, 32, 4
        shapes = dict.fromkeys(shapes, (32, 4))
    name, repeats, device = options.encoder, options.repeats, options.device
    print(f"{name} on {device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    targets = {"heads": "<= 0.15", "views": "<= 0.05"}
    labels = {"heads": "heads, transport and losses / step", "views": "two views / step"}
    automatic = str(choose_precision("auto", torch.device(device))).removeprefix("torch.")
    precisions = sorted({"float32", automatic})
    for precision in precisions:
        for part, (size, batch) in shapes.items():
            alone, bare, used = training_step(name, size, batch, precision, repeats, part, device)
            where = f"{size} px, batch {batch}, {used}"
            report(f"{labels[part]}, {where}", alone, targets[part])
            report(f"bare encoder / step, {where}", bare)
        size, batch = shapes["views"]
        ratio = fine_tuning(name, size, 4 * batch, precision, repeats, device)
        report(f"fine-tuning / plain loop, {size} px, batch {BATCH}, {precision}", ratio, "<= 1.05")
    for precision in precisions:
        Transform(name, options.image_size, options.images, precision, device).report(repeats)


if __name__ == "__main__":
    main()
