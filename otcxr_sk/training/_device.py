"""Devices, their memory and precision, for training and embedding."""

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)

# What torch says where its error has no class of its own.
_NO_MEMORY = re.compile(
    r"(CUDA|HIP|MPS|NCCL)\b.*out of memory|_STATUS_ALLOC_FAILED|DefaultCPUAllocator"
)

PRECISIONS = {name: getattr(torch, name) for name in ("bfloat16", "float16", "float32")}


def choose_device(device: str) -> torch.device:
    """Return the torch device of a name, or the best one of this machine for "auto".

    Raises
    ------
    ValueError
        If this machine has no such device.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        there = torch.empty(0, device=chosen).device
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={device!r} cannot be used on this machine; it has {', '.join(_devices())}"
        ) from error
    # Without an index, threads and libraries would choose a GPU each in their own way.
    return there if chosen.index is None else chosen


def _devices() -> list[str]:
    found = ["'cpu'", *(f"'cuda:{index}'" for index in range(torch.cuda.device_count()))]
    return found + ["'mps'"] * torch.backends.mps.is_available()


def put_on(device: torch.device, network: Network) -> Network:
    """Move a network, and return it; one that is there already is not touched.

    Other threads may be using it.
    """
    there = {value.device for value in (*network.parameters(), *network.buffers())}
    here = torch.empty(0, device=device).device
    return network if there <= {here} else network.to(device)


@contextmanager
def explained_memory(what: str) -> Iterator[None]:
    """Turn the many errors of a device without memory left into one that says what to lower.

    What was computed is let go, so that a smaller attempt has the memory.

    Raises
    ------
    MemoryError
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not _NO_MEMORY.search(str(error)):
            raise
        traceback.clear_frames(error.__traceback__)
        raise MemoryError(f"memory ran out on the device: {what}") from error


def choose_precision(precision: str, device: torch.device) -> torch.dtype:
    """Return the dtype that the encoder computes in.

    Parameters
    ----------
    precision : {"auto", "bfloat16", "float16", "float32"}
        "auto" is bfloat16 where `device` computes it fast, and float32 elsewhere.
    device : torch.device
    """
    if precision == "auto":
        return torch.bfloat16 if _has_fast_bf16(device) else torch.float32
    if precision not in PRECISIONS:
        known = ", ".join(map(repr, ("auto", *PRECISIONS)))
        raise ValueError(f"precision must be one of {known}, got {precision!r}")
    return PRECISIONS[precision]


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # Emulated bfloat16 is slower than float32. Torch has no public names for these flags.
    flags = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, flag, bool)() for flag in flags)
