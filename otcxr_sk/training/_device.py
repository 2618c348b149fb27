"""Devices and precision, for training and embedding."""

from typing import TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)

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
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device={device!r} cannot be used on this machine; it has {', '.join(_devices())}"
        ) from error
    return chosen


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
