"""State of a fitted estimator: what is saved, and what lives no longer than the object."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.torch import load, save
from torch import Tensor, nn

from otcxr_sk.method import OTCXRModel
from otcxr_sk.training import InMemoryCheckpoint

# Names of parameters that no estimator keeps.
TRAINING_ONLY = "read_out."

Weights = NDArray[np.uint8]
History = dict[str, list[float]]


def pack(state: Mapping[str, Tensor]) -> Weights:
    """Return a state dict as safetensors bytes, in an array that joblib can map.

    What serves training only is left out.
    """
    kept = {
        name: value.cpu().contiguous()
        for name, value in state.items()
        if not name.startswith(TRAINING_ONLY)
    }
    return np.frombuffer(save(kept), dtype=np.uint8)


def unpack(weights: Weights) -> dict[str, Tensor]:
    """Return the state dict that `pack` was given; no code runs."""
    return load(weights.tobytes())


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `pack` kept into a network; what serves training only stays as it is.

    Raises
    ------
    RuntimeError
        It is the state of another network.
    """
    own = model.state_dict()
    kept = {name: value for name, value in own.items() if name.startswith(TRAINING_ONLY)}
    model.load_state_dict({**state, **kept})


def part_of(state: Mapping[str, Tensor], module: str) -> dict[str, Tensor]:
    """Return the state dict of one module of a network, from that of the network."""
    prefix = f"{module}."
    return {
        name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)
    }


@dataclass(frozen=True, eq=False)
class Learned:
    """What training has learned: the fitted attributes of `OTCXRPretrainer`.

    Parameters
    ----------
    _architecture : dict
        Parameters of the network and its training, see `FittedEncoder`.
    weights_, mean_, std_, history_, skipped_, n_epochs_, embedding_dim_, encoder_name_,
    patients_, n_images_, n_patients_
        As documented there.
    """

    _architecture: dict[str, Any]
    weights_: Weights
    mean_: float
    std_: float
    history_: History
    skipped_: list[dict[str, Any]]
    n_epochs_: int
    embedding_dim_: int
    encoder_name_: str
    patients_: dict[str, Any] | None
    n_images_: int | None
    n_patients_: int | None

    @classmethod
    def by(cls, estimator: Any) -> Learned:
        """Return what a fitted estimator has learned."""
        return cls(*(getattr(estimator, field.name) for field in fields(cls)))


@dataclass
class Stream:
    """What `partial_fit` keeps from call to call, for certain weights and an optimizer."""

    seed: int
    weights: Weights | None
    settings: tuple[Any, ...]
    memory: InMemoryCheckpoint = field(default_factory=InMemoryCheckpoint)


@dataclass
class Unsaved:
    """State of an estimator that is neither pickled nor copied.

    Attributes
    ----------
    network : tuple (ndarray of uint8, OTCXRModel) or None
        The network that was last used, and its packed weights.
    stream : Stream or None
    unusable : list of dict or None
        Images that the last `transform` or `score` could not use.
    training : lock
        Held while the estimator is trained.
    """

    network: tuple[Weights, OTCXRModel] | None = None
    stream: Stream | None = None
    unusable: list[dict[str, Any]] | None = None
    training: Any = field(default_factory=threading.RLock)
