"""
What the library adds to a plain loop
=====================================

In fine-tuning with labels, and in `transform`: of one image, of one image more than a batch, and of
many. `step_parts.py` tells what it adds to a step of pre-training.

Ratios of times measured side by side: medians and ranges over repeats, taken in turns.

    python examples/benchmarks/overhead.py [--repeats 5] [--encoder resnet18] [--device cuda]

`--image-size` and `--images` are those of `transform`. Fewer threads than the machine has:
`OMP_NUM_THREADS=1 python ...`.
"""

import argparse
from functools import partial

import numpy as np
import torch
from bare import Bare
from devices import add_device, autocast, name_of
from timing import report, time_in_turns

from otcxr_sk import OTCXRClassifier, OTCXRPretrainer
from otcxr_sk.training import choose_precision

# Images of a step of fine-tuning.
BATCH = 32


def fine_tuning(name, size, n_images, precision, repeats, device):
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

    alone = Bare(name, size, precision, device, n_classes=2)
    model = alone.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    batches = torch.from_numpy(images[:, None] / np.float32(255)).to(alone.device).split(BATCH)
    targets = torch.from_numpy(labels).to(alone.device).split(BATCH)

    def bare():
        for batch, target in [*zip(batches, targets, strict=True)] * 2:
            with alone.autocast():
                scores = model(batch)
            torch.nn.functional.cross_entropy(scores.float(), target).backward()
            optimizer.step()
            optimizer.zero_grad()

    # What comes before the first epoch and after the last is in both, and falls out.
    seconds = time_in_turns(repeats, device=device, one=ours(1), three=ours(3), bare=bare)
    return (seconds["three"] - seconds["one"]) / seconds["bare"]


def transform(name, size, n_images, precision, repeats, device):
    """Report times of `transform` of one image, of one more than a batch, and of many images.

    The bare model has the images on the device.
    """
    images = np.random.default_rng(0).random((n_images, size, size), np.float32)
    settings = {"image_size": size, "epochs": 0, "device": device, "precision": precision}
    estimator = OTCXRPretrainer(name, **settings).fit(images[:2])
    alone = Bare(name, size, precision, device)
    on_cpu = alone.device.type == "cpu"
    # A loop on the CPU is usually in float32 and in the layout that a model has by default.
    limit, layout = alone.dtype, torch.channels_last
    if on_cpu:
        limit, layout = torch.float32, torch.contiguous_format
    model = alone.model.eval().to(memory_format=layout)

    def ours(n):
        return lambda: estimator.transform(images[:n])

    def bare(n, dtype):
        batches = torch.from_numpy(images[:n, None]).to(alone.device).split(64)

        def loop():
            with torch.inference_mode(), autocast(alone.device, dtype):
                return [model(batch) for batch in batches]

        return loop

    times = partial(time_in_turns, device=device)
    label = f"transform, {size} px, {name_of(alone.dtype)}:"
    one = times(5 * repeats, bare=bare(1, alone.dtype), ours=ours(1))
    report(f"{label} 1 image / bare call", one["ours"] / one["bare"], "<= 2")
    batch = times(repeats, full=ours(64), more=ours(65))
    report(f"{label} 65 images / 64 images", batch["more"] / batch["full"], "<= 1.12")
    many = times(repeats, bare=bare(n_images, limit), ours=ours(n_images))
    target = ">= 0.95" if alone.dtype == torch.float32 else ">= 1.5"
    label += f" {n_images} images, images/s / bare {name_of(limit)}"
    report(label, many["bare"] / many["ours"], target if on_cpu else ">= 0.5")


def main(arguments=None):
    parser = argparse.ArgumentParser(description="What the library adds to a plain loop.")
    add_device(parser)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--quick", action="store_true", help="tiny, to try the script")
    options = parser.parse_args(arguments)
    size, n_images = 128, 512
    if options.quick:
        options.encoder, options.repeats, options.image_size, options.images = "resnet10t", 1, 32, 4
        size, n_images = 32, 16
    name, repeats, device = options.encoder, options.repeats, options.device
    print(f"{name} on {device}, torch {torch.__version__}, {torch.get_num_threads()} threads")
    precisions = sorted({"float32", name_of(choose_precision("auto", torch.device(device)))})
    for precision in precisions:
        ratio = fine_tuning(name, size, n_images, precision, repeats, device)
        report(f"fine-tuning / plain loop, {size} px, batch {BATCH}, {precision}", ratio, "<= 1.05")
        transform(name, options.image_size, options.images, precision, repeats, device)


if __name__ == "__main__":
    main()
