"""X-rays in figures."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils.validation import check_is_fitted

from otcxr_sk.images import open_source, recognize

# Height and width of a small image in inches, and of one that is read to be shown in pixels.
INCHES, SIZE = 1.8, 192

# Left, right, bottom and top: places in an image are shares of its width and height.
_EXTENT = (0, 1, 1, 0)


def as_seen(encoder: Any, X: Any) -> NDArray[np.float32]:
    """Read images (n, size, size) as squares, as a fitted encoder sees them.

    Raises
    ------
    ValueError
        One cannot be used.
    """
    check_is_fitted(encoder)
    source = open_source(recognize(X), resize=encoder.resize, image_shape=encoder.image_shape)
    return source.read(np.arange(len(source)), encoder.image_size)[:, 0]


def show_image(ax: Any, image: NDArray[Any]) -> None:
    """Draw an X-ray in axes of its own."""
    ax.imshow(image, **gray(image), extent=_EXTENT)
    ax.set_axis_off()


def gray(image: NDArray[Any]) -> dict[str, Any]:
    """Return the style of an X-ray; its darkest and brightest pixels do not set the contrast."""
    low, high = np.percentile(image, [0.5, 99.5])
    return {"cmap": "gray", "vmin": low, "vmax": high}


def show_over(ax: Any, values: NDArray[Any], **style: Any) -> Any:
    """Draw one value, or color, for each of the regions (h, w) of an image over it."""
    return ax.imshow(values, extent=_EXTENT, **style)
