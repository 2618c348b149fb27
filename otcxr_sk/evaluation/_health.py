"""Measures of an embedding that need no labels."""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import pairwise_distances_chunked
from sklearn.preprocessing import normalize
from sklearn.utils import Bunch

from otcxr_sk._ordinary import ordinary
from otcxr_sk._quote import counted
from otcxr_sk._warning import keeping_filters
from otcxr_sk.evaluation._task import as_features, require_finite

_WORKING_MEMORY = 64  # MiB


@ordinary()
@keeping_filters()
def embedding_health(Z: ArrayLike, Z_view: ArrayLike | None = None) -> Bunch:
    r"""Measure collapse, uniformity on the sphere, and agreement of two views.

    Alignment and uniformity are those of Wang and Isola (2020), "Understanding contrastive
    representation learning through alignment and uniformity on the hypersphere", section 4.1,
    with :math:`\alpha = t = 2`, for embeddings `u` scaled to length 1:

    .. math::
        \mathrm{alignment} = \mathbb{E}_{(u, v)} \|u - v\|^2, \qquad
        \mathrm{uniformity} = \log \mathbb{E}_{u \neq u'} e^{-2 \|u - u'\|^2},

    with expectations over pairs of views of one image and over pairs of different images.

    Parameters
    ----------
    Z : array-like of shape (n, d)
        Embeddings of two or more images.
    Z_view : array-like of shape (n, d), optional
        Embeddings of other views of the same images, in the same order.

    Returns
    -------
    health : :class:`~sklearn.utils.Bunch`
        spread : float
            Standard deviation in units of the root mean square, in [0, 1]; 0 when collapsed.
        effective_rank : float
            Number of directions in use, in [1, min(n - 1, d)], or 0 when collapsed: the
            exponential of the entropy of `spectrum` (Roy and Vetterli 2007).
        spectrum : ndarray of shape (min(n, d),)
            Singular values of the centered embeddings divided by their sum, descending; all 0
            when collapsed.
        uniformity : float
            In [-8, 0]; 0 when all embeddings have the same direction, lower is more uniform.
        alignment : float or None
            In [0, 4]; 0 when the two views of each image have the same direction. None without
            `Z_view`. A collapsed embedding is perfectly aligned, so do not judge by it alone.

    Raises
    ------
    ValueError
        There are fewer than two images, a value is not finite, or `Z_view` has another shape.

    See Also
    --------
    otcxr_sk.plotting.EmbeddingHealthDisplay : Plot the spectra of several embeddings.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.evaluation import embedding_health
    >>> health = embedding_health(np.eye(4), 3 * np.eye(4))
    >>> round(health.effective_rank, 6), round(health.uniformity, 6), health.alignment
    (3.0, -4.0, 0.0)
    """
    import torch

    from otcxr_sk.method import effective_rank, spectrum, spread

    embedding = _embedding(Z, "Z")
    if len(embedding) < 2:
        raise ValueError(
            f"Z has {counted(len(embedding), 'row')}, and at least 2 images are needed"
        )
    directions, alignment = normalize(embedding), None
    if Z_view is not None:
        view = _embedding(Z_view, "Z_view")
        if view.shape != embedding.shape:
            raise ValueError(f"Z_view has shape {view.shape}, Z has {embedding.shape}")
        alignment = float(np.square(directions - normalize(view)).sum(1).mean())
    cloud = torch.tensor(embedding)
    shares = spectrum(cloud)
    return Bunch(
        spread=spread(cloud),
        effective_rank=effective_rank(shares),
        spectrum=shares.numpy(),
        uniformity=_uniformity(directions),
        alignment=alignment,
    )


def _embedding(Z: ArrayLike, name: str) -> NDArray[np.float64]:
    embedding = as_features(Z, name).astype(np.float64)
    require_finite(embedding, slice(None), name, "of it: {0}[np.isfinite({0}).all(1)]")
    return embedding


def _uniformity(directions: NDArray[np.float64]) -> float:
    n = len(directions)
    # One thread, whatever joblib's context offers: its threads exchange filters of warnings.
    blocks = pairwise_distances_chunked(
        directions, squared=True, working_memory=_WORKING_MEMORY, n_jobs=1
    )
    # Each image is also paired with itself, at distance 0.
    total = sum(float(np.exp(-2 * squared).sum(1).sum()) for squared in blocks) - n
    return float(np.log(total / (n * (n - 1))))
