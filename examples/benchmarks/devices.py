"""The device that a benchmark runs on."""

import argparse
import time

import torch

from otcxr_sk.training import choose_device


def add_device(parser):
    """Add ``--device`` to a parser."""
    parser.add_argument(
        "--device", type=usable, default="cpu", help='"cpu" (default), "cuda", or "auto": the best'
    )


def usable(name):
    """Return the name of a device that this machine has; "auto" becomes the best one's."""
    try:
        return str(choose_device(name))
    except ValueError as error:
        raise argparse.ArgumentTypeError(error) from None


def cost(device):
    """Return the name of the cost of a run, and the clock that shows it.

    On a GPU it is the time that passes: the processor mostly waits.
    """
    if device == "cpu":
        return "cpu_seconds", time.process_time
    return "gpu_seconds", time.perf_counter


def autocast(device, dtype):
    """Return a context in which a model computes with a dtype; float32 is as without it."""
    return torch.autocast(device.type, dtype, enabled=dtype != torch.float32)


def name_of(dtype):
    """Return the name of a dtype, as `precision` takes it."""
    return str(dtype).removeprefix("torch.")


def synchronize(device):
    """Wait until a device has done what it was told to."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)
