"""What one process does for an embedding: read batches, encode them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from otcxr_sk.images import ImageSource
from otcxr_sk.images._problems import Unusable
from otcxr_sk.method.encoders import pool
from otcxr_sk.training.runtime import (
    choose_device,
    choose_precision,
    load_batches,
    load_usable,
)

if TYPE_CHECKING:
    from otcxr_sk.estimators._embedding import EncoderEstimator

Loaded = tuple[Tensor, list[Unusable]]


class Encoder:
    """A fitted encoder on its device."""

    def __init__(self, estimator: EncoderEstimator) -> None:
        self._device = choose_device(estimator.device)
        self._dtype = choose_precision(estimator.precision, self._device)
        self._encoder = estimator._model().encoder.to(self._device)
        self._mean, self._std = estimator.mean_, estimator.std_
        self._batch_size = estimator.batch_size

    @torch.inference_mode()
    def __call__(self, loaded: Loaded, start: int, dense: bool) -> NDArray[np.float32]:
        """Embed a batch whose first image is row `start`, with NaN for what cannot be used."""
        images, problems = loaded
        # Every batch is full: some kernels round differently for other batch sizes, and an
        # embedding must not depend on what it is computed beside.
        missing = self._batch_size - len(images)
        batch = torch.cat([images, images[-1:].expand(missing, -1, -1, -1)]).to(self._device)
        with torch.autocast(self._device.type, self._dtype, enabled=self._dtype != torch.float32):
            last = self._encoder((batch - self._mean) / self._std)[1]
        values = last.float().permute(0, 2, 3, 1) if dense else pool(last)
        embedded: NDArray[np.float32] = values[: len(images)].cpu().numpy()
        embedded[[problem.row - start for problem in problems]] = np.nan
        return embedded


def load(
    estimator: EncoderEstimator, source: ImageSource, start: int, stop: int, num_workers: int
) -> Iterator[Loaded]:
    """Read rows in batches; what cannot be used raises or is told of, as `on_error` says."""
    step, size = estimator.batch_size, estimator._architecture["image_size"]
    batches = [np.arange(first, min(first + step, stop)) for first in range(start, stop, step)]
    if estimator.on_error == "raise":
        return ((batch, []) for batch in load_batches(source, batches, size, num_workers))
    return load_usable(source, batches, size, num_workers)
