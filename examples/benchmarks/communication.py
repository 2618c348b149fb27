"""
What processes send each other in a step
========================================

Counts calls and bytes; nothing is timed. A training step of a single process in a group of one
makes the same calls as it would make with others. Gradients are not counted: they are exchanged by
`DistributedDataParallel`.

    python examples/benchmarks/communication.py [--encoder resnet18] [--size 224]
"""

import argparse
import tempfile
from collections import Counter
from pathlib import Path

import torch
import torch.distributed as dist

from otcxr_sk import Objective, Views
from otcxr_sk.method import OTCXRModel, build_encoder
from otcxr_sk.training._shared_batch import SharedModel, SharedNorm


class Counted:
    """Calls of a function of `torch.distributed`, and the bytes that each process passes to them.

    `place` is the position of the tensor among the arguments.
    """

    def __init__(self, name, place):
        self.calls, self.bytes, self.where = Counter(), Counter(), None
        original = getattr(dist, name)

        def counting(*args, **kwargs):
            tensor = args[place]
            self.calls[self.where] += 1
            self.bytes[self.where] += tensor.numel() * tensor.element_size()
            return original(*args, **kwargs)

        setattr(dist, name, counting)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="What processes send each other in a step.")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        store = f"file://{Path(folder) / 'store'}"
        dist.init_process_group("gloo", init_method=store, rank=0, world_size=1)
        objective = Objective()
        encoder = build_encoder(options.encoder, size=options.size, match_stride=16)
        model = SharedModel(OTCXRModel(encoder, objective), objective, torch.device("cpu")).train()
        counted = {"all_reduce": Counted("all_reduce", 0), "all_gather": Counted("all_gather", 1)}
        random = torch.Generator().manual_seed(0)
        images = torch.randn(4, 1, options.size, options.size, generator=random)
        views = Views()(images, random)
        for count in counted.values():
            count.where = "forward"
        terms, _ = model(*views)
        for count in counted.values():
            count.where = "backward"
        objective.total(terms).backward()
        parameters = sum(value.numel() for value in model.parameters())
        norms = sum(isinstance(module, SharedNorm) for module in model.modules())
        print(f"parameters {parameters / 1e6:.2f} M, gradients {4 * parameters / 1e6:.1f} MB")
        print(f"batch norms {norms}")
        for name, count in counted.items():
            for where, calls in count.calls.items():
                print(f"{name:<11} {where:<9} {calls:3d} calls {count.bytes[where] / 1e3:9.1f} kB")
        dist.destroy_process_group()


if __name__ == "__main__":
    main()
