"""The settings of NumPy, scikit-learn and torch that decide results, as they are by default."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

_SKLEARN = {
    "array_api_dispatch": False,
    "assume_finite": False,
    "enable_cython_pairwise_dist": True,
    "pairwise_dist_chunk_size": 256,
    "transform_output": "default",
    "working_memory": 1024,
}


@contextmanager
def ordinary() -> Iterator[None]:
    """Compute as in a program that has changed no settings.

    Sets only what every thread has for itself, and sets it back after the block. Torch's default
    dtype is one for all threads, so it stays, and functions are told the usual one instead. What
    torch computes with in the whole process, such as the number of threads, the precision of
    matrix products and the libraries that it calls, is left to the program.
    """
    with ExitStack() as stack:
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        # A library that is not loaded has its default settings.
        if "sklearn" in sys.modules:
            from sklearn import config_context

            stack.enter_context(config_context(**_SKLEARN))
        if "torch" in sys.modules:
            _enter_torch(stack)
        yield


def _enter_torch(stack: ExitStack) -> None:
    import torch

    stack.enter_context(torch.inference_mode(False))
    stack.enter_context(torch.enable_grad())
    for device in ("cpu", "cuda", "mps"):
        if torch.is_autocast_enabled(device):
            stack.enter_context(torch.autocast(device, enabled=False))
    _enter_outermost_autocast(stack)
    made = torch.tensor([])
    if made.dtype != torch.float32 or made.device.type != "cpu":
        from otcxr_sk._torch_defaults import TorchDefaults

        stack.enter_context(TorchDefaults())
    if sys.float_info.min * _half() == 0:
        torch.set_flush_denormal(False)
        stack.callback(torch.set_flush_denormal, True)


def _enter_outermost_autocast(stack: ExitStack) -> None:
    """Count the next autocast as the outermost, at whose end torch forgets what it has cast.

    Otherwise training would go on with the weights of its first step.
    """
    import torch

    torch.autocast_increment_nesting()
    while torch.autocast_decrement_nesting():
        stack.callback(torch.autocast_increment_nesting)


def _half() -> float:
    # Python computes products of constants when it compiles them.
    return 0.5
