"""What becomes of a score when regions are taken out of the image."""

from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch, check_random_state, check_scalar

from otcxr_sk._ordinary import ordinary
from otcxr_sk.evaluation._explain import explain, steps_of
from otcxr_sk.images import open_source, recognize

_FILLS = "blur", "mean"

# Standard deviation of the blur, as a share of the image's side.
_BLUR = 1 / 8


@ordinary()
def deletion_curves(
    model: Pipeline, X: Any, *, fill: str = "blur", n_steps: int = 10, random_state: Any = None
) -> Bunch:
    """Take regions out of images, step by step, and follow the score.

    If contributions say where the score comes from, it falls faster when the regions that
    contribute most are taken out first than when random ones are, and slower when those that
    contribute least are. Read from the right, the last of the three is the score as the regions
    that contribute most are put in. Such curves are those of Petsiuk, Das and Saenko (2018),
    "RISE", section 4.2, for scores instead of probabilities.

    Parameters
    ----------
    model, X
        As for `explain`; a few images, with none that cannot be used. Each is encoded ``3 *
        n_steps`` times.
    fill : {"blur", "mean"}, default="blur"
        What a region is replaced by: the blurred image (Gaussian, standard deviation an eighth of
        the side), or the mean of the image's pixels. Both are images of a kind that the encoder
        has never seen, so the random curve is the one to compare with.
    n_steps : int, default=10
        Number of steps from nothing to the whole image, at least 1.
    random_state : int, RandomState instance or None, default=None
        Draws an order of the regions for each image.

    Returns
    -------
    curves : :class:`~sklearn.utils.Bunch`
        removed : ndarray of shape (m,)
            Share of the regions that is taken out, from 0 to 1; m is ``n_steps + 1``, or less if
            there are fewer regions.
        most, least, random : ndarray of shape (m, n)
            Score of each image, as regions are taken out in order of what they contribute, most or
            least first, or in random order. With more than two classes, it is that of the class
            which the whole image has the highest score for.

    Raises
    ------
    TypeError, ValueError
        As for `explain`; or `fill` or `n_steps` is not as described.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.evaluation import deletion_curves
    >>> data = make_chest_phantoms(6, image_size=32, random_state=0)
    >>> encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=0, random_state=0)
    >>> model = make_pipeline(encoder, LogisticRegression())
    >>> model = model.fit(data.images, data.labels.any(axis=1))
    >>> deletion_curves(model, data.images[:3], n_steps=1, random_state=0).most.shape
    (2, 3)
    """
    if fill not in _FILLS:
        raise ValueError(f"fill must be 'blur' or 'mean', got {fill!r}")
    check_scalar(n_steps, "n_steps", Integral, min_val=1)
    random = check_random_state(random_state)
    encoder = steps_of(model)[0][1]
    source = open_source(recognize(X), resize=encoder.resize, image_shape=encoder.image_shape)
    images = source.read(np.arange(len(source)), encoder.image_size)[:, 0]
    filled = _blurred(images) if fill == "blur" else images.mean((1, 2), keepdims=True)

    found = explain(model, images)
    n, rows, columns = found.contributions.shape[:3]
    # For two classes, the only column.
    scores = found.score.reshape(n, -1)
    column = scores.argmax(1)
    contributions = found.contributions.reshape(n, rows * columns, -1)
    contributions = contributions[np.arange(n), :, column]
    region = _regions(images.shape[1], rows, columns)
    counts = np.unique(np.linspace(0, rows * columns, n_steps + 1).round().astype(int))

    def follow(importance: NDArray[Any]) -> NDArray[np.float64]:
        rank = importance.argsort(1)[:, ::-1].argsort(1)[:, region]
        curve = [scores[np.arange(n), column]]
        for count in counts[1:]:
            score = model.decision_function(np.where(rank < count, filled, images))
            curve.append(score.reshape(n, -1)[np.arange(n), column])
        return np.array(curve)

    return Bunch(
        removed=counts / (rows * columns),
        most=follow(contributions),
        least=follow(-contributions),
        random=follow(random.uniform(size=contributions.shape)),
    )


def _blurred(images: NDArray[np.float32]) -> NDArray[np.float32]:
    sigma = _BLUR * images.shape[1]
    return gaussian_filter(images, (0, sigma, sigma))


def _regions(size: int, rows: int, columns: int) -> NDArray[np.intp]:
    """Return the number of the region that each pixel (size, size) lies in."""
    row, column = (np.arange(size) * cells // size for cells in (rows, columns))
    return row[:, None] * columns + column
