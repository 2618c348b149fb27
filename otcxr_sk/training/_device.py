"""Devices, precision and random generators, for training and embedding."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

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
        raise ValueError(f"device={device!r} cannot be used on this machine: {error}") from error
    return chosen


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


@contextmanager
def private_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's default generators inside the block, and restore them after it.

    Initialization, dropout and stochastic depth draw from them and accept no other generator.
    """
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.default_generators[cuda[0]].manual_seed(seed)
        yield
