"""A segmenting network: an encoder's maps, from coarse to fine."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import (
    affine_grid,
    binary_cross_entropy_with_logits,
    grid_sample,
    interpolate,
)

from otcxr_sk.estimators.supervised._training import TunedNetwork
from otcxr_sk.method import DenseEncoder, pool
from otcxr_sk.training import LabelledDraw

# Maps that are put together, and how wide they are there.
LEVELS, WIDTH = 4, 64
# The finest stride, in pixels: what is finer shows texture rather than structures.
FINEST = 4


class SegmentingNetwork(TunedNetwork):
    """An encoder and a small feature pyramid on its maps.

    Each map is brought to the same width and added to the next coarser one, enlarged (Lin et al.,
    "Feature pyramid networks for object detection", CVPR 2017); the finest sum tells each
    structure at each of its places.

    Parameters
    ----------
    encoder : DenseEncoder
    n_structures, size : int
        Number k of masks, and height and width S of masks and images.
    layer_decay : float
        See `TunedNetwork`.
    frozen : bool
        Whether the encoder stays as it is.
    """

    terms = ("dice", "cross_entropy")

    def __init__(
        self, encoder: DenseEncoder, n_structures: int, size: int, layer_decay: float, frozen: bool
    ) -> None:
        super().__init__(encoder, layer_decay)
        self._size, self._frozen = size, frozen
        self._stages = choose_stages(encoder.backbone)
        encoder.eval()
        with torch.no_grad():
            channels = [each.shape[1] for each in self._encode(torch.zeros(1, 1, size, size))[0]]
        self.lateral = nn.ModuleList(nn.Conv2d(width, WIDTH, 1) for width in channels)
        self.smooth = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.GroupNorm(8, WIDTH), nn.ReLU()
        )
        self.head = nn.Conv2d(WIDTH, n_structures, 1)
        if frozen:
            encoder.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set to training, but for an encoder that is frozen."""
        super().train(mode)
        if self._frozen:
            self.encoder.eval()
        return self

    def _encode(self, images: Tensor) -> tuple[list[Tensor], Tensor]:
        if self._stages is None:
            maps = [self.encoder.backbone(images)]
        else:
            maps = self.encoder.backbone.forward_intermediates(
                images, indices=self._stages, norm=True, output_fmt="NCHW", intermediates_only=True
            )
        return maps, pool(maps[-1])

    def losses(self, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return two losses of scores with masks (B, k, S, S) in [0, 1].

        They are one minus the Dice coefficient of each structure in the batch, averaged, and the
        cross-entropy of the pixels.
        """
        dice = 1 - soft_dice(scores.sigmoid(), labels).mean()
        return dice, binary_cross_entropy_with_logits(scores, labels)

    def _scores(self, encoded: list[Tensor]) -> Tensor:
        maps = zip(self.lateral, encoded, strict=True)
        levels = [lateral(each.float()) for lateral, each in maps]
        merged = levels[-1]
        for finer in levels[-2::-1]:
            merged = finer + interpolate(merged, finer.shape[2:], mode="bilinear")
        told = self.head(self.smooth(merged))
        return interpolate(told, (self._size, self._size), mode="bilinear")


def choose_stages(backbone: Any) -> list[int] | None:
    """Return the deepest stage of each stride, or stages evenly apart if all have the same."""
    if not hasattr(backbone, "forward_intermediates"):
        return None
    strides = [stage["reduction"] for stage in backbone.feature_info]
    deepest = {stride: index for index, stride in enumerate(strides) if stride >= FINEST}
    if len(deepest) > 1:
        return sorted(deepest.values())[-LEVELS:]
    last = len(strides) - 1
    return sorted({round(last * (level + 1) / LEVELS) for level in range(LEVELS)})


def soft_dice(told: Tensor, masks: Tensor) -> Tensor:
    """Return the Dice coefficient of each structure over a batch (B, k, S, S), in (0, 1].

    One pixel is added to both areas and to what they share, so that two empty masks agree.
    """
    both = (told * masks).sum((0, 2, 3))
    areas = told.sum((0, 2, 3)) + masks.sum((0, 2, 3))
    return (2 * both + 1) / (areas + 1)


def dice(truth: NDArray[np.bool_], found: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the Dice coefficient of each mask (n, k, H, W); 1 if both are empty."""
    both = 2.0 * (truth & found).sum((2, 3))
    areas = truth.sum((2, 3)) + found.sum((2, 3))
    return np.where(areas == 0, 1.0, both / np.maximum(areas, 1))


class MaskedDraw(LabelledDraw):
    """Draws one view of each image and cuts its masks, uint8 (n, k, S, S), like it."""

    def __call__(
        self, batch: Tensor, epoch: int, start: int, rows: NDArray[np.intp] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Draw views (b, 1, S, S), and return them with their masks (b, k, S, S) in [0, 1]."""
        views, affine = self.single(batch, epoch, start)
        masks = self.of(rows).float() / 255
        grid = affine_grid(affine, list(masks.shape), align_corners=False)
        return views, grid_sample(masks, grid, align_corners=False).clamp(0, 1)


class Segmentation:
    """To tell structures: the `Task` of a segmenter.

    Parameters
    ----------
    masks : ndarray of uint8, shape (n, k, S, S)
        0 to 255.
    layer_decay : float
    frozen : bool
    """

    draw: type[LabelledDraw] = MaskedDraw

    def __init__(self, masks: NDArray[np.uint8], layer_decay: float, frozen: bool) -> None:
        self.labels: NDArray[Any] = masks
        self.known = np.ones(len(masks), bool)
        self._layer_decay, self._frozen = layer_decay, frozen

    def network(self, encoder: DenseEncoder, training: NDArray[np.intp]) -> SegmentingNetwork:
        """Put a pyramid, at random, on the encoder."""
        n_structures, size = self.labels.shape[1:3]
        return SegmentingNetwork(encoder, n_structures, size, self._layer_decay, self._frozen)

    def validate(
        self, outputs: Tensor, rows: NDArray[np.intp], network: SegmentingNetwork
    ) -> dict[str, float]:
        """Return loss and mean Dice coefficient."""
        masks = torch.from_numpy(self.labels[rows]).float() / 255
        loss = torch.stack(network.losses(outputs, masks)).sum()
        found = dice((masks > 0.5).numpy(), (outputs > 0).numpy())
        return {"validation_loss": float(loss), "validation_dice": float(found.mean())}
