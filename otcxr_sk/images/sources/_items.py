"""Images that are items of a data set, alone or beside labels and names."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from otcxr_sk.images._errors import ImageReadError
from otcxr_sk.images._pillow import to_gray
from otcxr_sk.images._pixels import Resize, Squares, gray_pixels
from otcxr_sk.images._values import is_path, shown
from otcxr_sk.images.sources._arrays import as_array
from otcxr_sk.images.sources._source import DEFAULT_RESIZE, ImageSource, Indices

# Names of the image in items that are mappings.
NAMES = ("image", "img", "pixel_values")


class DatasetSource(ImageSource):
    """Images of a map-style data set, such as one of torch; their sizes may differ.

    Parameters
    ----------
    dataset : torch.utils.data.Dataset or sequence
        Anything with `__len__` and `__getitem__`. Each item is a PIL image, or an array or tensor
        of shape (height, width), (1 or 3, height, width) or (height, width, 1 or 3); or a tuple
        or list whose first element is such an image; or a mapping with one, which is called
        "image", "img" or "pixel_values" unless it is the only one. The rest is ignored. Numbers
        are scaled as in `ArraySource`. Items must not change from one access to the next: leave
        out random transforms, since views are drawn later.
    resize : {"squash", "pad", "crop"}, default="squash"
        How a non-square image becomes square, see `ImageSource`.

    Raises
    ------
    ValueError
        If the data set has no `__len__` or no `__getitem__`.

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
        if not hasattr(dataset, "__len__") or not hasattr(dataset, "__getitem__"):
            raise ValueError(
                "the data set has no length, or no item for an index; pass a map-style data set, "
                "which has both"
            )
        self._dataset = dataset

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._dataset)

    def _squares(self, indices: Indices, size: int) -> Iterator[Squares]:
        for index in map(int, indices):
            try:
                pixels = _gray(image_of(self._dataset[index]))
            except ImageReadError as error:
                raise ImageReadError(f"row {index}: {error}") from error
            except MemoryError as error:
                raise ImageReadError(
                    f"row {index}: there is not enough memory for it; lower num_workers, or leave "
                    "it out"
                ) from error
            except Exception as error:
                raise ImageReadError(
                    f"row {index}: the data set fails to return this item; look at it alone, and "
                    "repair it or leave it out (or, if it fails in workers only, use num_workers=0)"
                ) from error
            yield self._fit(pixels[np.newaxis], [index], size, finite=False)


def image_of(item: Any) -> Any:
    """Return the image of an item of a data set, see `DatasetSource`.

    Raises
    ------
    ImageReadError
        A mapping has several images, or none.
    """
    if isinstance(item, tuple | list) and len(item):
        item = item[0]
    if not isinstance(item, Mapping):
        return item
    names = [name for name in NAMES if name in item]
    names = names or [name for name, value in item.items() if is_image(value)]
    if len(names) == 1:
        return item[names[0]]
    if names:
        raise ImageReadError(
            f"the item has several images, {', '.join(map(shown, names))}; keep one of them"
        )
    raise ImageReadError(
        f"none of {', '.join(map(shown, item)) or 'nothing'} in the item is an image; "
        "call it 'image'"
    )


def is_image(value: Any) -> bool:
    """Return whether a value is a PIL image, or an array or tensor with the axes of one."""
    if isinstance(value, Image.Image):
        return True
    shape = as_array(value).shape if is_array(value) else getattr(value, "shape", ())
    return isinstance(shape, tuple) and len(shape) > 1


def is_array(value: Any) -> bool:
    """Return whether a value can be converted to an array, but does not tell its shape."""
    return not hasattr(value, "shape") and (
        hasattr(value, "__array__") or hasattr(value, "__dlpack__")
    )


def _gray(image: Any) -> NDArray[np.float32]:
    if isinstance(image, Image.Image):
        return to_gray(ImageOps.exif_transpose(image)).pixels
    if is_path(image):
        raise ImageReadError(
            f"items must be PIL images, arrays or tensors of numbers, got {shown(image)}; for "
            "images in files, pass a list of their paths alone"
        )
    # Nested lists come from mappings only: `image_of` takes the first member of other lists.
    known = isinstance(image, list) or hasattr(image, "shape") or is_array(image)
    array = as_array(image) if known else None
    if array is None or array.dtype.kind not in "biuf":
        raise ImageReadError(
            f"items must be PIL images, arrays or tensors of numbers, got {shown(image)}"
        )
    if 0 in array.shape:
        raise ImageReadError(f"the image has no pixels, its shape is {array.shape}")
    return gray_pixels(array)
