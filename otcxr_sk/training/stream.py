"""How far a stream has come, from one part of it to the next, in memory."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from otcxr_sk.training.checkpoint import Checkpoint

# Of the epoch that is under way: a new part of a stream begins its own.
_OF_AN_EPOCH = ("sums/", "watched/", "good/")


class Memory:
    """Takes the place of a folder of `Checkpoints` where a stream ends and later goes on.

    Attributes
    ----------
    folder : None
        There is none.
    """

    folder = None

    def __init__(self) -> None:
        self._kept: Checkpoint | None = None

    def is_due(self, epochs: int, steps: int) -> bool:
        """Never: the trainer saves at the end in any case."""
        return False

    def save(self, checkpoint: Checkpoint, place: int) -> None:
        """Keep weights, the optimiser's state, generators and scaler after `place` steps."""
        numbers: dict[str, Any] = {
            "earlier": place,
            "epoch": 0,
            "step": 0,
            "history": {},
            "seconds": 0.0,
            "precision": checkpoint.numbers["precision"],
        }
        tensors = {
            name: value
            for name, value in checkpoint.tensors.items()
            if not name.startswith(_OF_AN_EPOCH)
        }
        self._kept = Checkpoint(_copy(tensors), numbers)

    def load(self) -> Checkpoint | None:
        """Give what was kept last, as the start of another epoch; None if nothing was."""
        if self._kept is None:
            return None
        return Checkpoint(_copy(self._kept.tensors), self._kept.numbers)


def _copy(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    # Training changes in place what it saves, and what it starts from.
    return {name: value.clone() for name, value in tensors.items()}
