"""Images from a map-style data set of torch."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._pillow import to_gray
from otcxr_sk.images._pixels import luma, to_float
from otcxr_sk.images._resize import Resize
from otcxr_sk.images._source import DEFAULT_RESIZE, ImageSource, Indices, Originals


class DatasetSource(ImageSource):
    """Images of a data set with `__len__` and `__getitem__`, as torch has them; sizes may differ.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset or sequence
        Gives for every row a PIL image, or an array or tensor (height, width), (1 or 3, h, w) or
        (h, w, 1 or 3); or a tuple that starts with one, whose rest is ignored. Numbers are scaled
        as in `ArraySource`. It should give the same image whenever it is asked: views are drawn
        later, so no random transforms.
    resize : {"squash", "pad", "crop"}, default="squash"
        How an image that is no square becomes one, see `ImageSource`.

    Examples
    --------
    >>> from PIL import Image
    >>> from otcxr_sk.images import DatasetSource
    >>> source = DatasetSource([(Image.new("L", (4, 3), 255), "label")])
    >>> source.read([0], size=2).tolist()
    [[[[1.0, 1.0], [1.0, 1.0]]]]
    """

    def __init__(self, dataset: Any, *, resize: Resize = DEFAULT_RESIZE) -> None:
        super().__init__(resize=resize)
        for method in ("__len__", "__getitem__"):
            if not hasattr(dataset, method):
                raise ValueError(
                    f"{type(dataset).__name__} has no {method}; wanted is a map-style data set, "
                    "with a length and an image for every row"
                )
        self._dataset = dataset

    def __len__(self) -> int:
        """Count the images."""
        return len(self._dataset)

    def _originals(self, indices: Indices) -> Iterator[Originals]:
        for index in map(int, indices):
            try:
                pixels = _gray(first(self._dataset[index]))
            except ImageReadError as error:
                raise ImageReadError(f"row {index}: {error}") from error
            except Exception as error:
                raise ImageReadError(
                    f"row {index}: the data set gives no image ({type(error).__name__}: {error})"
                ) from error
            yield Originals(pixels[np.newaxis], finite=False)


def first(item: Any) -> Any:
    """Give the image of an item, which may be the start of a tuple."""
    return item[0] if isinstance(item, tuple | list) and len(item) else item


def _gray(image: Any) -> NDArray[np.float32]:
    if isinstance(image, Image.Image):
        # Turned in a copy, since the image belongs to someone else.
        return to_gray(ImageOps.exif_transpose(image)).pixels
    if hasattr(image, "detach"):
        # NumPy has no bfloat16.
        image = image.detach().cpu()
        image = image.float().numpy() if image.is_floating_point() else image.numpy()
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "biuf":
        raise ImageReadError(
            f"a data set has to give PIL images, arrays or tensors of numbers, not {image!r:.80}"
        )
    pixels = to_float(image)
    axes = [axis for axis in (0, 2) if pixels.ndim == 3 and pixels.shape[axis] in (1, 3)]
    if pixels.ndim == 3 and len(axes) == 1:
        axis = axes[0]
        pixels = pixels.squeeze(axis) if pixels.shape[axis] == 1 else luma(pixels, axis)
    if pixels.ndim != 2 or 0 in pixels.shape:
        raise ImageReadError(
            f"an image of shape {image.shape} is not one of (height, width), (1 or 3, height, "
            "width) or (height, width, 1 or 3)"
        )
    return pixels
