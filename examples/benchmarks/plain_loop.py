"""The loop that one would otherwise write, with lightly, as in a tutorial."""

import time

import timm
import torch
from lightly.loss import VICRegLoss
from lightly.models.modules.heads import VICRegProjectionHead
from lightly.transforms import SimCLRTransform
from PIL import Image
from torch.utils.data import DataLoader, Dataset


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
    """A loop on the CPU, in float32 or with bfloat16 and channels_last (`mixed`)."""

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
