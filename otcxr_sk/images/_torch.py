"""Images of a map-style torch dataset."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._pillow import to_gray
from otcxr_sk.images._pixels import Resize, Squares, luma, to_float
from otcxr_sk.images._source import DEFAULT_RESIZE, ImageSource, Indices


class DatasetSource(ImageSource):
    """Images of a map-style torch dataset; their sizes may differ.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset or sequence
        Anything with `__len__` and `__getitem__`. Each item is a PIL image, or an array or tensor
        of shape (height, width), (1 or 3, height, width) or (height, width, 1 or 3), or a tuple
        or list whose first element is such an image; the other elements are ignored. Numbers are
        scaled as in `ArraySource`. Items must not change from one access to the next: leave out
        random transforms, since views are drawn later.
    resize : {"squash", "pad", "crop"}, default="squash"
        How a non-square image becomes square, see `ImageSource`.

    Raises
    ------
    ValueError
        If the dataset has no `__len__` or no `__getitem__`.

    See Also
    --------
    ArraySource : Images in an array.
    PathSource : Images in files.

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
                    f"{type(dataset).__name__} has no {method}; pass a map-style dataset, which "
                    "has a length and an image for every index"
                )
        self._dataset = dataset

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._dataset)

    def _squares(self, indices: Indices, size: int) -> Iterator[Squares]:
        for index in map(int, indices):
            try:
                pixels = _gray(first_member(self._dataset[index]))
            except ImageReadError as error:
                raise ImageReadError(f"row {index}: {error}") from error
            except Exception as error:
                raise ImageReadError(
                    f"row {index}: the dataset returned no image ({type(error).__name__}: {error})"
                ) from error
            yield self._fit(pixels[np.newaxis], [index], size, finite=False)


def first_member(item: Any) -> Any:
    """Return the image of a dataset's item: its first element if it is a tuple or list."""
    return item[0] if isinstance(item, tuple | list) and len(item) else item


def _gray(image: Any) -> NDArray[np.float32]:
    if isinstance(image, Image.Image):
        # `to_gray` works in place, but the image belongs to the dataset.
        return to_gray(ImageOps.exif_transpose(image)).pixels
    if hasattr(image, "detach"):
        # NumPy has no bfloat16.
        image = image.detach().cpu()
        image = image.float().numpy() if image.is_floating_point() else image.numpy()
    if not isinstance(image, np.ndarray) or image.dtype.kind not in "biuf":
        raise ImageReadError(
            f"items must be PIL images, arrays or tensors of numbers, got {image!r:.80}"
        )
    pixels = to_float(image)
    axes = [axis for axis in (0, 2) if pixels.ndim == 3 and pixels.shape[axis] in (1, 3)]
    if len(axes) == 1:
        pixels = luma(pixels, axes[0])
    if pixels.ndim != 2 or 0 in pixels.shape:
        raise ImageReadError(
            "the image must have shape (height, width), (1 or 3, height, width) or "
            f"(height, width, 1 or 3), got {image.shape}"
        )
    return pixels
