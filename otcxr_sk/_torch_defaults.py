"""Torch's usual device, dtype and kernels, where a program has chosen others."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.overrides import BaseTorchFunctionMode, TorchFunctionMode

# Functions that make tensors: floating ones, of what they are given, and of integers.
_FLOATING = {
    torch.bartlett_window,
    torch.blackman_window,
    torch.empty,
    torch.empty_permuted,
    torch.empty_strided,
    torch.eye,
    torch.fft.fftfreq,
    torch.fft.rfftfreq,
    torch.hamming_window,
    torch.hann_window,
    torch.kaiser_window,
    torch.linspace,
    torch.logspace,
    torch.ones,
    torch.rand,
    torch.randn,
    torch.zeros,
}
_COPYING = {torch.as_tensor, torch.asarray, torch.tensor}
_INFERRING = _COPYING | {torch.arange, torch.full, torch.range, torch.scalar_tensor}
_INTEGER = {torch.randint, torch.randperm, torch.tril_indices, torch.triu_indices}
_MAKING = _FLOATING | _INFERRING | _INTEGER

# Methods that are asked for the dtype of their result.
_CONVERTING = {"bfloat16", "double", "float", "half", "to", "type", "type_as"}


class TorchDefaults(TorchFunctionMode):
    """Within this mode, what torch makes by default is float32 and on the CPU, in this thread.

    Torch's own ``set_default_dtype`` changes all threads.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Call a function of torch."""
        kwargs = dict(kwargs or {})
        copies = func in _COPYING and _of(Tensor, args, kwargs)
        if func in _MAKING and not copies and kwargs.get("out") is None:
            if kwargs.get("device") is None and not _of(torch.device, args, {}):
                kwargs["device"] = "cpu"
            if func in _FLOATING and kwargs.get("dtype") is None:
                kwargs["dtype"] = torch.float32
        if func is torch.normal and not _of(Tensor, args, kwargs):
            kwargs.setdefault("dtype", torch.float32)
        result = func(*args, **kwargs)
        if not _is_by_default(func, result, args, kwargs):
            return result
        if func in _INFERRING:
            return func(*args, **{**kwargs, "dtype": torch.float32})
        # Torch computes with integers in the default dtype.
        return func(*_to_float32(args), **_to_float32(kwargs))


@contextmanager
def inference() -> Iterator[None]:
    """Compute without gradients, by the same kernels whether or not a mode is active outside."""
    # Within any mode, torch leaves out its short cuts for attention, which round differently.
    with torch.inference_mode(), BaseTorchFunctionMode():
        yield


def _is_by_default(func: Callable[..., Any], result: Any, args: Any, kwargs: Any) -> bool:
    """Tell whether only the program's default dtype explains the dtype of a result."""
    dtype = torch.get_default_dtype()
    if dtype == torch.float32 or not isinstance(result, Tensor) or result.dtype != dtype:
        return False
    if _of(torch.dtype, args, kwargs) or getattr(func, "__name__", "") in _CONVERTING:
        return False
    if func in _INFERRING:
        return not _of((Tensor, np.ndarray, np.generic), args, kwargs)
    given = _of(Tensor, args, kwargs)
    return bool(given) and not any(one.is_floating_point() or one.is_complex() for one in given)


def _of(kind: Any, args: Any, kwargs: Any) -> list[Any]:
    """Find the arguments of a type, also in lists of them."""
    return [one for one in _flat((*args, *kwargs.values())) if isinstance(one, kind)]


def _flat(values: Iterable[Any]) -> Iterator[Any]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _flat(value)
        else:
            yield value


def _to_float32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(torch.float32)
    if isinstance(value, list | tuple):
        return type(value)(map(_to_float32, value))
    if isinstance(value, dict):
        return {name: _to_float32(one) for name, one in value.items()}
    return value
