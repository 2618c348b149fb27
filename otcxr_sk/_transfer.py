"""Tensors on their way to a device and back, without waiting for what the device is doing."""

import torch
from torch import Tensor


def send(values: Tensor, device: torch.device) -> Tensor:
    """Copy a tensor to a device.

    A GPU gets it by way of pinned memory, from which it fetches it when its turn has come.
    """
    if device.type != "cuda" or values.is_cuda:
        return values.to(device)
    return pinned(values).to(device, non_blocking=True)


def pinned(values: Tensor) -> Tensor:
    """Copy a tensor on the CPU to memory that a GPU reads by itself, unless it is there."""
    return values if values.is_pinned() else values.pin_memory()


class Arriving:
    """A tensor on its way from a device to the CPU.

    Parameters
    ----------
    values : Tensor
        On any device.
    """

    def __init__(self, values: Tensor) -> None:
        self._values, self._here = values, None
        if values.device.type == "cuda":
            self._values = torch.empty_like(values, device="cpu", pin_memory=True)
            self._values.copy_(values, non_blocking=True)
            self._here = torch.cuda.Event()
            self._here.record(torch.cuda.current_stream(values.device))

    def read(self) -> Tensor:
        """Return it on the CPU, once all that the device had to do before is done.

        What the device was asked to do since is not waited for.
        """
        if self._here is not None:
            self._here.synchronize()
        return self._values.cpu()
