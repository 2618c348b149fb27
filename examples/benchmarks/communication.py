"""
What processes send each other in a step
========================================

Counts exchanges and bytes; nothing is timed, and nothing is sent. They follow from the shapes of
tensors, and a forward and a backward pass on the "meta" device, where tensors are no more than
shapes, ask for what GPUs would exchange.

    python examples/benchmarks/communication.py [--encoder resnet18] [--size 224]

Printed is what each process has to share, and what it then sends if all pass the data around a
ring: of an all-reduce 2 (n - 1) / n times, of an all-gather n - 1 times its bytes. Processes on
CPUs also compare a number with every tenth iteration of Sinkhorn.
"""

import argparse
from collections import Counter
from contextlib import ExitStack
from unittest.mock import patch

import torch
import torch.distributed as dist
from asked import no_autocast
from one_step import OneStep
from torch.nn.modules.batchnorm import _BatchNorm

from otcxr_sk.training._shared_batch import SharedModel, SharedStatistics

# How often each of n processes sends its bytes in a ring.
SENT = {
    "all_reduce": lambda n: 2 * (n - 1) / n,
    "all_gather": lambda n: n - 1,
    "broadcast": lambda n: 1,
}
NORMS = "batch norms"
# Bytes after which `DistributedDataParallel` sends gradients: the first, and all others.
BUCKETS = [2**20, 25 * 2**20]


class Exchanges:
    """What a process shares with others, by what it is and when, and the function that does it.

    Attributes
    ----------
    calls, bytes : Counter
    """

    def __init__(self):
        self.calls, self.bytes = Counter(), Counter()
        self.when, self._what, self._shapes = "forward", NORMS, {}

    def add(self, what, function, *tensors, calls=1):
        self.calls[what, function] += calls
        self.bytes[what, function] += sum(one.numel() * one.element_size() for one in tensors)

    def all_reduce(self, values):
        # The gradient of a sum has its shape.
        if self.when == "forward":
            self._shapes[values.shape] = self._what
        what = self._shapes.get(values.shape, NORMS)
        self.add(f"{what}, {self.when}", "all_reduce", values)

    def all_gather(self, parts, own):
        self.add(f"{self._what}, {self.when}", "all_gather", own)

    def named(self, what, method):
        """Make a method whose exchanges have a name."""

        def call(*args):
            self._what = what
            try:
                return method(*args)
            finally:
                self._what = NORMS

        return call

    def watched(self):
        """Count instead of sending, in a `with` statement."""
        stack = ExitStack()
        stack.enter_context(patch.object(dist, "get_world_size", lambda: 2))
        for name in ("all_reduce", "all_gather"):
            stack.enter_context(patch.object(dist, name, getattr(self, name)))
        for what, name in {"means": "means", "covariances": "covariance"}.items():
            call = self.named(what, getattr(SharedStatistics, name))
            stack.enter_context(patch.object(SharedStatistics, name, call))
        # The only function that cannot do with shapes.
        stack.enter_context(patch.object(torch, "batch_norm_update_stats", shapes_of_statistics))
        return stack


def shapes_of_statistics(x, *_):
    return x.new_empty(2, x.shape[1]).unbind()


def exchanged(encoder, size):
    """Return the `Exchanges` of a step, and the model that makes it."""
    step = OneStep(encoder, size, 4, "float32", device="meta")
    model, found = SharedModel(step.model, step.objective, step.device), Exchanges()
    gradients = [value for value in model.parameters() if value.requires_grad]
    buckets, _ = dist._compute_bucket_assignment_by_size(gradients[::-1], BUCKETS)
    found.add("gradients", "all_reduce", *gradients, calls=len(buckets))
    running = [*model.buffers()]
    types = len({value.dtype for value in running})
    found.add("running means of batch norms", "broadcast", *running, calls=types)
    views, affine = step.draw()
    with found.watched(), no_autocast():
        terms, _ = model(views, affine)
        found.when = "backward"
        step.objective.total(terms).backward()
    found.add("whether to stop or save", "all_reduce", torch.zeros(2, dtype=torch.int32))
    return found, model


def main(arguments=None):
    parser = argparse.ArgumentParser(description="What processes send each other in a step.")
    parser.add_argument("--encoder", default="resnet18")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--processes", type=int, nargs="+", default=[8, 64])
    options = parser.parse_args(arguments)
    found, model = exchanged(options.encoder, options.size)
    parameters = sum(value.numel() for value in model.parameters())
    norms = sum(isinstance(module, _BatchNorm) for module in model.modules())
    print(f"{options.encoder}, {options.size} px: {parameters / 1e6:.2f} M parameters, ", end="")
    print(f"{norms} batch norms; kB of each process in a step")
    heads = "".join(f"{f'sent by 1 of {n}':>17}" for n in options.processes)
    print(f"{'what':<30}{'by':<11}{'calls':>6}{'shared':>12}{heads}")
    total = Counter()
    for (what, function), calls in found.calls.items():
        shared = found.bytes[what, function]
        sent = {n: SENT[function](n) * shared for n in options.processes}
        total.update({"calls": calls, "shared": shared, **sent})
        show(what, function, calls, shared, sent.values())
    show("all", "", total["calls"], total["shared"], [total[n] for n in options.processes])


def show(what, function, calls, shared, sent):
    numbers = f"{shared / 1e3:12.2f}" + "".join(f"{one / 1e3:17.2f}" for one in sent)
    print(f"{what:<30}{function:<11}{calls:6d}{numbers}")


if __name__ == "__main__":
    main()
