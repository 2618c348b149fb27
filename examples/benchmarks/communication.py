"""
What processes tell each other in a step
========================================

Counted, not timed: a training step of one process that is a group of its own makes all the calls
that it would make beside others. Gradients are told beside these, by `DistributedDataParallel`.

    python examples/benchmarks/communication.py [--encoder resnet18] [--size 224]
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist

from otcxr_sk.method.encoders import build_encoder
from otcxr_sk.method.model import OTCXRModel
from otcxr_sk.method.objective import Objective
from otcxr_sk.method.views import ViewSampler
from otcxr_sk.training.shared_batch import SharedNorm, Spread


class Counted:
    """Calls of a function of `torch.distributed`, and bytes that every process gives to them."""

    def __init__(self, name, given):
        self.calls, self.bytes, self.where = Counter(), Counter(), None
        usual = getattr(dist, name)

        def counting(*args, **kwargs):
            tensor = args[given]
            self.calls[self.where] += 1
            self.bytes[self.where] += tensor.numel() * tensor.element_size()
            return usual(*args, **kwargs)

        setattr(dist, name, counting)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{Path(folder) / 'store'}"
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        encoder = build_encoder(options.encoder, size=options.size, match_stride=16)
        objective = Objective(1.0, 2.0, 0.1, 10.0)
        spread = Spread(OTCXRModel(encoder), objective, torch.device("cpu")).train()
        counted = [Counted("all_reduce", 0), Counted("all_gather", 1)]
        random = torch.Generator().manual_seed(0)
        images = torch.randn(4, 1, options.size, options.size, generator=random)
        views = ViewSampler()(images, random)
        for count in counted:
            count.where = "forward"
        terms, _ = spread(*views)
        for count in counted:
            count.where = "backward"
        objective.total(terms).backward()
        parameters = sum(value.numel() for value in spread.parameters())
        norms = sum(isinstance(module, SharedNorm) for module in spread.modules())
        print(f"parameters {parameters / 1e6:.2f} M, gradients {4 * parameters / 1e6:.1f} MB")
        print(f"batch norms {norms}")
        for name, count in zip(("all_reduce", "all_gather"), counted, strict=True):
            for where, calls in count.calls.items():
                print(f"{name:<11} {where:<9} {calls:3d} calls {count.bytes[where] / 1e3:9.1f} kB")
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
