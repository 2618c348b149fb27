"""Images in any wrapping as a source."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from otcxr_sk.images._cache import ImageCache
from otcxr_sk.images._pixels import Resize
from otcxr_sk.images.sources._arrays import ArraySource, as_array, is_lazy, layout_of, row_shape
from otcxr_sk.images.sources._content import Content, from_objects, recognize, unknown
from otcxr_sk.images.sources._items import DatasetSource
from otcxr_sk.images.sources._paths import PathSource
from otcxr_sk.images.sources._source import DEFAULT_RESIZE, ImageSource


def as_source(images: ImageSource | ArrayLike | Sequence[Any]) -> ImageSource:
    """Return images in any wrapping as a source.

    Parameters
    ----------
    images : ImageSource, array-like, sequence of paths, folder or data set
        Of any kind that `OTCXRPretrainer` takes. An `ImageSource` is returned unchanged. A missing
        path is an image that cannot be read.

    Returns
    -------
    ImageSource

    Raises
    ------
    ValueError
        There are no images, or nothing that is known.

    See Also
    --------
    ArraySource : Other layouts, flattened rows of other shapes, and other ways to resize.
    PathSource : Options for files.
    DatasetSource : Images of a data set.
    """
    content = recognize(images)
    return content.values if content.kind == "source" else open_source(content, allow_missing=True)


def open_source(
    content: Content,
    *,
    resize: Resize = DEFAULT_RESIZE,
    image_shape: tuple[int, int] | None = None,
    cache: ImageCache | None = None,
    allow_missing: bool = False,
) -> ImageSource:
    """Return what was recognized as a source."""
    kind, values = content
    if kind == "source":
        if values._resize != resize:
            raise ValueError(
                f"the images were given resize={values._resize!r}, but {resize!r} is needed here: "
                "pass them as they are, without a source"
            )
        return values
    if kind == "paths":
        return PathSource(values, resize=resize, cache=cache, allow_missing=allow_missing)
    if kind == "items":
        return DatasetSource(values, resize=resize)
    if kind == "stack":
        return ArraySource(values, layout=layout_of(values.shape), resize=resize)
    rows = values if is_lazy(values) else as_array(values)
    if len(rows.shape) != 2:
        raise unknown()
    if rows.dtype.kind == "O":
        rows = from_objects(rows)
    if 0 in rows.shape:
        raise ValueError(f"there are no images in an array of shape {rows.shape}")
    return ArraySource(rows, image_shape=row_shape(rows.shape[1], image_shape), resize=resize)
