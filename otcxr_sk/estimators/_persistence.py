"""Fitted state <-> bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import nn

M = TypeVar("M", bound=nn.Module)

_live: WeakKeyDictionary[Any, tuple[NDArray[np.uint8], nn.Module]] = WeakKeyDictionary()


def pack(model: nn.Module) -> NDArray[np.uint8]:
    """Weights of a module as safetensors bytes, in an array so that joblib can map them."""
    state = {name: value.contiguous() for name, value in model.state_dict().items()}
    return np.frombuffer(save(state), dtype=np.uint8)


def unpack(weights: NDArray[np.uint8], model: nn.Module) -> None:
    """Load what `pack` made into a module of the same structure; no code runs."""
    model.load_state_dict(load(weights.tobytes()))


def live_model(owner: object, weights: NDArray[np.uint8], build: Callable[[], M]) -> M:
    """Build the module behind fitted weights once for as long as its estimator lives.

    It is kept beside the estimator, not in it, so that what is pickled, copied and compared
    stays plain data.
    """
    known = _live.get(owner)
    if known is None or known[0] is not weights:
        model = build()
        unpack(weights, model)
        _live[owner] = known = (weights, model.eval())
    return cast(M, known[1])
