"""Two views of every image of a batch, and the affine maps that made them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from otcxr_sk.method.geometry import axis_centres

HOLES = 4
# Width to height of a hole lies between its inverse and this, relative to the view's.
HOLE_ASPECT = 2.0
# Random numbers that make a view: crop (5), blur, contrast, brightness; the holes' places and
# shapes, and their area.
NUMBERS = 8 + 3 * HOLES + 1


@dataclass(frozen=True)
class ViewSampler:
    """Random crop, tone, blur and holes for a batch; every crop is kept as coordinates.

    A view is ``tone(blur(resize(crop(x))))``, and of the first view parts are hidden. All but that
    is linear and separable: ``contrast * A_y @ x @ A_x.T + brightness`` with one small
    interpolation matrix per axis, two batched matrix products, antialiased, with no intermediate
    image.

    Parameters
    ----------
    crop_scale : tuple of float
        Range of the share of the image's area that a crop keeps, within (0, 1].
    aspect : float
        A crop's width to height ratio, relative to the image's, is drawn log-uniformly from
        ``[1 / aspect, aspect]``, as far as the image has room for it.
    flip : float
        Probability of a horizontal flip. The heart is on one side: 0 unless wanted.
    contrast : float
        Standardised pixels are multiplied by a factor from ``[1 - contrast, 1 + contrast]``.
    brightness : float
        And shifted by a value from ``[-brightness, brightness]`` standard deviations.
    blur : float
        Largest radius, in pixels of the view, of the triangular smoothing kernel; a radius of
        one pixel is plain linear interpolation. Half of the views are left sharp.
    erase : float
        Largest share of a first view's area, in [0, 1], that four rectangles of equal area and
        random shape and place hide; the share is drawn uniformly. They show the view's mean, so
        that what the second view shows has to be inferred from what is around it.
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    aspect: float = 4 / 3
    flip: float = 0.0
    contrast: float = 0.4
    brightness: float = 0.4
    blur: float = 2.0
    erase: float = 0.5

    def __call__(self, images: Tensor, random: torch.Generator | Tensor) -> tuple[Tensor, Tensor]:
        """Draw two views of each image.

        Parameters
        ----------
        images : Tensor of shape (B, 1, H, W)
            Standardised images (zero mean, unit variance over the data set).
        random : torch.Generator or Tensor of shape (B, 2, NUMBERS)
            The only source of randomness, on the device of `images`: a generator, or numbers
            drawn from it uniformly in [0, 1) for every view, where an image must get the same
            views whatever batch it is in.

        Returns
        -------
        views : Tensor of shape (2 * B, 1, H, W)
            The first views of all images, then the second views.
        affine : Tensor of shape (2 * B, 2, 3)
            Maps normalised view coordinates (x, y) in [-1, 1] to those of the image, in the
            convention of `torch.nn.functional.affine_grid` with ``align_corners=False``.
        """
        n = 2 * len(images)
        height, width = images.shape[-2:]
        if isinstance(random, torch.Generator):
            draw = torch.rand(NUMBERS, n, generator=random, device=images.device)
        else:
            draw = random.permute(2, 1, 0).reshape(NUMBERS, n)
        affine = self._crops(draw[:5])
        # Half of the draws fall below zero and leave the view sharp.
        radius = 1 + (self.blur - 1) * (2 * draw[5] - 1).clamp(min=0)
        contrast = 1 + self.contrast * (2 * draw[6] - 1)
        brightness = self.brightness * (2 * draw[7] - 1)
        rows = _interpolation(affine[:, 1, 1], affine[:, 1, 2], height, radius)
        columns = _interpolation(affine[:, 0, 0], affine[:, 0, 2], width, radius)
        both = images[:, 0].repeat(2, 1, 1)
        views = torch.baddbmm(
            brightness[:, None, None],
            rows.mul_(contrast[:, None, None]) @ both,
            columns.transpose(1, 2),
        )
        if self.erase:
            first = views[: len(images)]
            hidden = self._holes(first, draw[8:, : len(images)])
            first.copy_(torch.where(hidden, first.mean((1, 2), keepdim=True), first))
        return views[:, None], affine

    def _holes(self, views: Tensor, draw: Tensor) -> Tensor:
        sizes = views.shape[1:]
        y, x, shape = (2 * draw[:-1].T - 1).chunk(3, dim=1)
        area = self.erase * draw[-1][:, None] / HOLES
        ratio = HOLE_ASPECT**shape
        rows, columns = (
            (axis_centres(size, views) - centre[:, :, None]).abs() < reach.sqrt()[:, :, None]
            for size, centre, reach in zip(sizes, (y, x), (area / ratio, area * ratio), strict=True)
        )
        return (rows[:, :, :, None] & columns[:, :, None, :]).any(1)

    def _crops(self, draw: Tensor) -> Tensor:
        low, high = self.crop_scale
        area = low + (high - low) * draw[0]
        # A large crop cannot be long and narrow and still keep its area.
        ratio = (self.aspect ** (2 * draw[1] - 1)).clamp(area, 1 / area)
        width = (area * ratio).sqrt().clamp(max=1)
        height = (area / ratio).sqrt().clamp(max=1)
        x = (1 - width) * (2 * draw[2] - 1)
        y = (1 - height) * (2 * draw[3] - 1)
        flipped = draw[4] < self.flip
        zero = torch.zeros_like(x)
        scale_x = torch.where(flipped, -width, width)
        return torch.stack([scale_x, zero, x, zero, height, y], dim=1).view(-1, 2, 3)


def _interpolation(scale: Tensor, shift: Tensor, size: int, radius: Tensor) -> Tensor:
    """Rows of weights (n, size, size) that resample one axis under ``x -> scale * x + shift``."""
    place = scale[:, None] * axis_centres(size, scale) + shift[:, None]
    pixel = (place + 1) * (size / 2) - 0.5
    # A kernel narrower than one source pixel would miss all of them.
    reach = (radius * scale.abs()).clamp(min=1)[:, None]
    grid = torch.arange(size, device=scale.device, dtype=scale.dtype) / reach
    weights = (grid[:, None, :] - (pixel / reach)[:, :, None]).abs_().neg_().add_(1).clamp_(min=0)
    return weights.div_(weights.sum(2, keepdim=True))
