"""Devices, precision, randomness and batches: what training and embedding share."""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcxr_sk.images import ImageSource
from otcxr_sk.images._loading import read_ahead
from otcxr_sk.images._problems import Unusable

PRECISIONS = {"bf16": torch.bfloat16, "fp16": torch.float16, "float32": torch.float32}


def choose_device(device: str) -> torch.device:
    """Turn "auto" or a torch device name into a device that this machine has."""
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
    """Turn "auto" or one of `PRECISIONS` into the dtype of the encoder's arithmetic."""
    if precision == "auto":
        return torch.bfloat16 if _has_fast_bf16(device) else torch.float32
    return PRECISIONS[precision]


def _has_fast_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type != "cpu":
        return False
    # torch has no public name for these, and emulated bfloat16 is slower than float32.
    flags = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, flag, bool)() for flag in flags)


@contextmanager
def private_randomness(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's default generators inside the block and restore them after it.

    Initialisation, dropout and stochastic depth draw from them and take no other generator.
    """
    cuda = [device.index or 0] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.default_generator.manual_seed(seed)
        if cuda:
            torch.cuda.default_generators[cuda[0]].manual_seed(seed)
        yield


def uniform(key: tuple[int, int], start: int, stop: int, width: int) -> NDArray[np.float32]:
    """Rows `start` to `stop` of an endless table of random numbers in [0, 1).

    Parameters
    ----------
    key : tuple of int
        Two numbers below 2**64 that name the table.
    start, stop : int
        A row is the same whatever rows are drawn beside it.
    width : int
        Columns of the table.

    Returns
    -------
    ndarray of shape (stop - start, width), float32
    """
    # Philox makes four numbers of 64 bits at every count, that is eight of these.
    counts = math.ceil(width / 8)
    bits = np.random.Philox(key=np.array(key, np.uint64)).advance(start * counts)
    drawn = np.random.Generator(bits).random((stop - start, 8 * counts), np.float32)
    return np.ascontiguousarray(drawn[:, :width])


def load_batches(
    source: ImageSource, batches: Sequence[np.ndarray], size: int, num_workers: int
) -> Generator[Tensor, None, None]:
    """Yield images (b, 1, size, size) float32 for every index array, in order."""
    return read_ahead(partial(source.read, size=size), batches, num_workers)


def load_usable(
    source: ImageSource, batches: Sequence[np.ndarray], size: int, num_workers: int
) -> Generator[tuple[Tensor, list[Unusable]], None, None]:
    """Yield images as `load_batches` does, zeros for those that cannot be used, and these."""
    return read_ahead(partial(source.read_usable, size=size), batches, num_workers)
