"""Weights of a fitted estimator: where another starts, and a file for timm and torch."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save
from sklearn.exceptions import NotFittedError
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

_HEADS = ("dense_head", "cv_sim", "projector")


def state_of(estimator: Any) -> dict[str, Tensor]:
    """State dict of the network of a fitted estimator."""
    try:
        check_is_fitted(estimator)
    except (NotFittedError, TypeError) as error:
        raise NotFittedError(
            f"weights= is a {type(estimator).__name__} that is not fitted. clone() and all that "
            "clones, as cross-validation does, forget what a parameter has learnt: give "
            "sklearn.frozen.FrozenEstimator(pretrainer), or the file that its save_encoder writes"
        ) from error
    return load(estimator.weights_.tobytes())


def part_of(state: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    """State dict of one module of a network, from that of the network."""
    prefix = f"{module}."
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


def take_heads(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load into a network those heads of another that have the same shapes as its own."""
    for name in _HEADS:
        head, theirs = model.get_submodule(name), part_of(state, name)
        ours = {key: value.shape for key, value in head.state_dict().items()}
        if ours == {key: value.shape for key, value in theirs.items()}:
            head.load_state_dict(theirs)


def write_encoder(path: Any, weights: NDArray[np.uint8], facts: Mapping[str, Any]) -> None:
    """Write the backbone of packed weights as a safetensors file, whole or not at all."""
    file = Path(path)
    if file.suffix != ".safetensors":
        raise ValueError(f"an encoder is saved as a .safetensors file, got {str(file)!r}")
    state = part_of(load(weights.tobytes()), "encoder.backbone")
    data = save(state, {"format": "pt", **{name: str(value) for name, value in facts.items()}})
    scratch = file.with_name(f".{file.stem}.{uuid.uuid4().hex}")
    try:
        scratch.write_bytes(data)
        os.replace(scratch, file)
    finally:
        scratch.unlink(missing_ok=True)
