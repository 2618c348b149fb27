"""Two views of every image of a batch, and the affine maps that made them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from otcxr_sk._parameters import ParameterGroup
from otcxr_sk._transfer import send
from otcxr_sk.method._geometry import axis_centers

HOLES = 4
# Largest aspect ratio of a hole, relative to the view's; the smallest is its inverse.
HOLE_ASPECT = 2.0
# Random numbers that make a view: crop (5), blur, contrast, brightness; place (2) and shape of
# every hole, and their area.
NUMBERS_PER_VIEW = 8 + 3 * HOLES + 1


@dataclass(repr=False)
class Views(ParameterGroup):
    """Random augmentation that makes two views of every image.

    A view is ``tone(blur(resize(crop(x))))``; parts of the first view are then hidden. All but the
    hiding is linear and separable, ``contrast * A_y @ x @ A_x.T + brightness`` with one small
    interpolation matrix per axis, so a batch takes two antialiased matrix products without an
    intermediate image. Crops are kept as affine maps: the place of every token in the original
    image is known.

    Parameters
    ----------
    crop_scale : tuple of float, default=(0.5, 1.0)
        Range, within (0, 1], of the share of the image's area that a view shows.
    horizontal_flip : float, default=0.0
        Probability that a view is mirrored. Off by default, since the heart is on one side.
    erase : float, default=0.5
        Largest share of the first view, in [0, 1], that four rectangles of equal area and random
        shape and place hide; the share is drawn uniformly, and 0 hides nothing. Hidden pixels
        take the mean of the view, so that what the second view shows there has to be inferred
        from the surroundings. This helped on radiographs of pneumonia and hurt on phantoms with
        small findings.
    aspect : float, default=4/3
        Aspect ratios of crops (width to height, relative to the image's) are drawn log-uniformly
        from ``[1 / aspect, aspect]``, as far as the image has room for them. At least 1.
    contrast : float, default=0.4
        Standardized pixels are multiplied by a factor from ``[1 - contrast, 1 + contrast]``. In
        [0, 1].
    brightness : float, default=0.4
        Then a value from ``[-brightness, brightness]``, in standard deviations of the pixels, is
        added. At least 0.
    blur : float, default=2.0
        Largest radius of the triangular smoothing kernel, in pixels of the view; a radius of 1 is
        plain linear interpolation. Half of the views stay sharp. At least 1.

    See Also
    --------
    otcxr_sk.OTCXRPretrainer : Takes this as its parameter `views`.

    Examples
    --------
    >>> from otcxr_sk import OTCXRPretrainer, Views
    >>> OTCXRPretrainer(views=Views(erase=0.25))
    OTCXRPretrainer(views=Views(erase=0.25))
    """

    crop_scale: tuple[float, float] = (0.5, 1.0)
    horizontal_flip: float = 0.0
    erase: float = 0.5
    aspect: float = 4 / 3
    contrast: float = 0.4
    brightness: float = 0.4
    blur: float = 2.0

    def __call__(self, images: Tensor, random: torch.Generator | Tensor) -> tuple[Tensor, Tensor]:
        """Draw two views of each image.

        Parameters
        ----------
        images : Tensor of shape (B, 1, H, W)
            Standardized images: zero mean and unit variance over the data set. On any device.
        random : torch.Generator or Tensor of shape (B, 2, NUMBERS_PER_VIEW)
            The only source of randomness, on the CPU: a generator, or random numbers in [0, 1) for
            every view, with which an image gets the same views in any batch and on any device.

        Returns
        -------
        views : Tensor of shape (2 * B, 1, H, W)
            The first views of all images, then their second views; on the device of `images`.
        affine : Tensor of shape (2 * B, 2, 3)
            Maps from normalized view coordinates (x, y) in [-1, 1] to those of the image, in the
            convention of `torch.nn.functional.affine_grid` with ``align_corners=False``.
        """
        n, sizes = 2 * len(images), images.shape[-2:]
        if isinstance(random, torch.Generator):
            draw = torch.rand(NUMBERS_PER_VIEW, n, generator=random)
        else:
            draw = random.permute(2, 1, 0).reshape(NUMBERS_PER_VIEW, n)
        views, places = self._draw(images[:, 0].repeat(2, 1, 1), draw)
        if self.erase:
            first = views[: len(images)]
            hidden = _hidden(places[: len(images), 14:], sizes)
            first.copy_(torch.where(hidden, first.mean((1, 2), keepdim=True), first))
        return views[:, None], places[:, :6].reshape(-1, 2, 3)

    def single(self, images: Tensor, random: Tensor) -> tuple[Tensor, Tensor]:
        """Draw one view of each image, of which nothing is hidden.

        Parameters
        ----------
        images : Tensor of shape (B, 1, H, W)
            Standardized images, on any device.
        random : Tensor of shape (B, NUMBERS_PER_VIEW)
            Random numbers in [0, 1), on the CPU.

        Returns
        -------
        views : Tensor of shape (B, 1, H, W)
        affine : Tensor of shape (B, 2, 3)
            As in a call.
        """
        views, places = self._draw(images[:, 0], random.T)
        return views[:, None], places[:, :6].reshape(-1, 2, 3)

    def _draw(self, images: Tensor, random: Tensor) -> tuple[Tensor, Tensor]:
        """Return a view of each image (n, H, W), and its row of `_places`."""
        sizes = images.shape[-2:]
        # A few numbers for each view are computed here and sent at once: a GPU would take longer
        # to be asked for each than to compute it.
        places = send(self._places(random.double(), sizes).float(), images.device)
        contrast, brightness, *lines = places[:, 6:14].T[:, :, None, None]
        rows = _interpolation(lines[0], lines[1], lines[2], sizes[0])
        columns = _interpolation(lines[3], lines[4], lines[5], sizes[1])
        views = torch.baddbmm(brightness, rows.mul_(contrast) @ images, columns.transpose(1, 2))
        return views, places

    def _places(self, draw: Tensor, sizes: Sequence[int]) -> Tensor:
        """Return the numbers that make views, in rows, from random numbers (NUMBERS_PER_VIEW, n).

        They are the affine map (6), contrast and brightness, three numbers for `_interpolation`
        of rows and three of columns, and for `HOLES` holes their centers and half their sizes, in
        the order y, x, y, x.
        """
        affine = self._crops(draw[:5])
        # Half of the draws fall below zero and leave the view sharp.
        radius = 1 + (self.blur - 1) * (2 * draw[5] - 1).clamp(min=0)
        contrast = 1 + self.contrast * (2 * draw[6] - 1)
        brightness = self.brightness * (2 * draw[7] - 1)
        lines = []
        for axis, size in zip((1, 0), sizes, strict=True):
            scale, shift = affine[:, axis, axis], affine[:, axis, 2]
            # The place of the first pixel, in pixels of the image.
            first = (1 + shift - scale * (1 - 1 / size)) * (size / 2) - 0.5
            # A kernel narrower than one source pixel would miss all of them.
            reach = (radius * scale.abs()).clamp(min=1)
            lines += [first / reach, scale / reach, 1 / reach]
        y, x, shape = (2 * draw[8:-1].T - 1).chunk(3, dim=1)
        area = self.erase * draw[-1][:, None] / HOLES
        ratio = HOLE_ASPECT**shape
        holes = [y, x, (area / ratio).sqrt(), (area * ratio).sqrt()]
        numbers = torch.stack([*affine.flatten(1).T, contrast, brightness, *lines], 1)
        return torch.cat([numbers, *holes], 1)

    def _crops(self, draw: Tensor) -> Tensor:
        low, high = self.crop_scale
        area = low + (high - low) * draw[0]
        # A large crop cannot be long and narrow and still keep its area.
        ratio = (self.aspect ** (2 * draw[1] - 1)).clamp(area, 1 / area)
        width = (area * ratio).sqrt().clamp(max=1)
        height = (area / ratio).sqrt().clamp(max=1)
        x = (1 - width) * (2 * draw[2] - 1)
        y = (1 - height) * (2 * draw[3] - 1)
        flipped = draw[4] < self.horizontal_flip
        zero = torch.zeros_like(x)
        scale_x = torch.where(flipped, -width, width)
        return torch.stack([scale_x, zero, x, zero, height, y], dim=1).view(-1, 2, 3)


def _interpolation(first: Tensor, step: Tensor, narrowness: Tensor, size: int) -> Tensor:
    """Return matrices (n, size, size) that resample one axis.

    Pixel i of a view is a mean of the pixels around ``(first + i * step) / narrowness``, with
    weights that fall to zero at a distance of ``1 / narrowness``; all (n, 1, 1).
    """
    pixels = torch.arange(size, device=first.device, dtype=first.dtype)
    places = torch.addcmul(first, step, pixels[:, None])
    weights = (narrowness * pixels - places).abs_().neg_().add_(1).clamp_(min=0)
    return weights.div_(weights.sum(2, keepdim=True))


def _hidden(holes: Tensor, sizes: Sequence[int]) -> Tensor:
    """Tell which pixels (n, height, width) lie in the holes of `Views._places`."""
    y, x, half_height, half_width = holes[:, :, None].chunk(4, 1)
    rows, columns = (
        (axis_centers(size, holes) - center).abs() < half
        for size, center, half in zip(sizes, (y, x), (half_height, half_width), strict=True)
    )
    return (rows[:, :, :, None] & columns[:, :, None, :]).any(1)
