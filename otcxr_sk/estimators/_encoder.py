"""A fitted encoder as a value, and at work on a device."""

from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor, nn

from otcxr_sk._files import replacing
from otcxr_sk._ordinary import ordinary
from otcxr_sk._paths import as_path
from otcxr_sk._torch_defaults import TorchDefaults, inference
from otcxr_sk._transfer import Arriving, send
from otcxr_sk._version import __version__
from otcxr_sk.estimators._state import Weights, part_of, unpack
from otcxr_sk.images import ImageSource, Unusable, read_batches, read_usable_batches, spread
from otcxr_sk.method import (
    Objective,
    OTCXRModel,
    Views,
    build_encoder,
    without_read_out,
)
from otcxr_sk.training import Draw, Randomness, choose_device, choose_precision, put_on

Loaded = tuple[Tensor, list[Unusable]]

# Embeddings, and what `spread` finds of their images.
Coming = tuple[Arriving, Arriving]

# Up to this size, in pixels, a CPU embeds several images at once: each by itself takes longer.
SMALL = 160


@dataclass(frozen=True, eq=False)
class FittedEncoder:
    """A trained network, and how images are given to it.

    Parameters
    ----------
    architecture : dict
        Parameters of the network and its training: ``encoder`` (name or module), ``image_size``,
        ``resize``, ``match_stride``, ``pooling``, and those of ``views`` and ``objective`` as
        dicts.
    weights : ndarray of uint8
        All weights in safetensors format.
    mean, std : float
        Images are standardized by them.
    device, precision, batch_size, on_error
        As in `OTCXRPretrainer`.
    """

    architecture: Mapping[str, Any]
    weights: Weights
    mean: float
    std: float
    device: str
    precision: str
    batch_size: int
    on_error: str

    @property
    def piece(self) -> int:
        """Images that a CPU embeds at once: 1, or 4 or 16 small ones.

        With 2 or 3, vector instructions would leave out the last numbers of some tensors, and the
        last image would be rounded differently.
        """
        return 4 ** min(2, (SMALL // int(self.architecture["image_size"])).bit_length())

    @property
    def step(self) -> int:
        """Images that are read at once: `batch_size` of them, up to a whole number of pieces."""
        return -(-self.batch_size // self.piece) * self.piece

    def load(self) -> OTCXRModel:
        """Build the network, in eval mode on the CPU."""
        with ordinary(), Randomness(0, torch.device("cpu")).given():
            model = build_network(self.architecture)
        model.load_state_dict(unpack(self.weights))
        return model.to(memory_format=torch.channels_last).eval()

    def draw(self, seed: int, **changes: Any) -> Draw:
        """Return the drawing of views that the network was trained on, some parameters changed."""
        views = Views(**{**self.architecture["views"], **changes})
        return Draw(views, self.mean, self.std, seed, choose_device(self.device))

    def read(
        self,
        source: ImageSource,
        start: int,
        stop: int,
        num_workers: int | str,
        device: torch.device | None = None,
    ) -> Generator[Loaded, None, None]:
        """Read rows in batches, each with its unusable images unless these are errors."""
        step, size = self.step, self.architecture["image_size"]
        batches = [np.arange(first, min(first + step, stop)) for first in range(start, stop, step)]
        given = source, batches, size, num_workers, device
        if self.on_error != "raise":
            yield from read_usable_batches(*given)
            return
        with closing(read_batches(*given)) as found:
            for images in found:
                yield images, []

    def unusable(self, source: ImageSource, num_workers: int | str) -> list[Unusable]:
        """Read all images to find those that cannot be used, unless these are errors."""
        if self.on_error == "raise":
            return []
        device = choose_device(self.device)
        with closing(self.read(source, 0, len(source), num_workers, device)) as loaded:
            return [problem for _, found in loaded for problem in found]

    def save(self, path: Any) -> None:
        """Write the backbone to a safetensors file.

        Raises
        ------
        ValueError
            `path` has another suffix, or its folder does not exist.
        """
        file = Path(as_path(path))
        if file.suffix != ".safetensors":
            raise ValueError(f"an encoder is saved as a .safetensors file, got {str(file)!r}")
        if not file.parent.is_dir():
            raise ValueError(f"there is no folder {str(file.parent)!r}; create it first")
        facts = {
            "format": "pt",
            "encoder": name_of(self.architecture["encoder"]),
            "image_size": self.architecture["image_size"],
            "resize": self.architecture["resize"],
            "pooling": self.architecture["pooling"],
            "mean": self.mean,
            "std": self.std,
            "otcxr_sk_version": __version__,
        }
        backbone = part_of(unpack(self.weights), "encoder.backbone")
        data = save(backbone, {name: str(value) for name, value in facts.items()})
        with replacing(file) as scratch:
            scratch.write(data)


class Embedder:
    """A fitted encoder on its device.

    Parameters
    ----------
    encoder : FittedEncoder
    model : OTCXRModel
        From `encoder.load()`.
    """

    def __init__(self, encoder: FittedEncoder, model: OTCXRModel) -> None:
        self.device = choose_device(encoder.device)
        self._dtype = choose_precision(encoder.precision, self.device)
        self._encoder = put_on(self.device, model.encoder)
        self._mean, self._std = encoder.mean, encoder.std
        self._piece = encoder.piece if self.device.type == "cpu" else encoder.step

    @inference()
    def __call__(self, images: Tensor, dense: bool) -> Coming:
        """Begin to embed a batch of images."""
        images = send(images, self.device)
        # One context for all pieces, because it keeps the weights that it converted.
        with torch.autocast(self.device.type, self._dtype, enabled=self._dtype != torch.float32):
            pieces = [self._embed(piece, dense) for piece in images.split(self._piece)]
        values = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
        return Arriving(values), Arriving(spread(images))

    def _embed(self, images: Tensor, dense: bool) -> Tensor:
        # Every piece is full: some kernels round differently for another number of images, and an
        # embedding must not depend on the images beside it.
        n = len(images)
        if n < self._piece:
            images = torch.cat([images, images[-1:].expand(self._piece - n, -1, -1, -1)])
        _, last, embedding = self._encoder((images - self._mean) / self._std)
        return (last.float().permute(0, 2, 3, 1) if dense else embedding)[:n]


def come(
    coming: Coming, start: int, problems: Sequence[Unusable]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return what an `Embedder` has made of a batch whose first image is row `start`.

    Returns
    -------
    values : ndarray of shape (b, C) or (b, h, w, C), float32
        NaN for images that cannot be used.
    seen : ndarray of shape (2, b)
        What `spread` has found.
    """
    values, seen = (one.read().numpy() for one in coming)
    values[[problem.row - start for problem in problems]] = np.nan
    return values, seen


def name_of(encoder: str | nn.Module) -> str:
    """Return the name of a timm model, or of the class of a module."""
    return encoder if isinstance(encoder, str) else type(encoder).__name__


def build_network(
    architecture: Mapping[str, Any], weights: Any = None, *, to_train: bool = False
) -> OTCXRModel:
    """Build the network that parameters describe; an encoder that is a module is copied.

    `weights` are a path or a state dict, of the encoder only. What serves training only is built
    for a network `to_train`.
    """
    given = architecture["encoder"]
    # Another thread may change the default dtype meanwhile.
    with TorchDefaults():
        encoder = build_encoder(
            deepcopy(given) if isinstance(given, nn.Module) else given,
            size=architecture["image_size"],
            match_stride=architecture["match_stride"],
            pooling=architecture["pooling"],
            weights=weights,
        )
        objective = Objective(**architecture["objective"])
        return OTCXRModel(encoder, objective if to_train else without_read_out(objective))
