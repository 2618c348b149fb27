"""Spectra of embeddings."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Bunch

from otcxr_sk.evaluation import embedding_health
from otcxr_sk.plotting._display import AxesDisplay, color_of, legend_beside, of_each

# Embeddings are float32: smaller shares are rounding errors.
_ROUNDING = np.finfo(np.float32).eps


class EmbeddingHealthDisplay(AxesDisplay):
    """Spectra of embeddings: the share of the spread along each direction, largest first.

    A line that falls early belongs to an embedding that uses few of its dimensions. The dot on
    each line marks the effective rank.

    Parameters
    ----------
    health : mapping of str to Bunch
        Result of `embedding_health` for each named embedding.

    See Also
    --------
    otcxr_sk.evaluation.embedding_health : The function that `from_features` calls.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.plotting import EmbeddingHealthDisplay
    >>> Z = np.random.default_rng(0).normal(size=(500, 4))
    >>> display = EmbeddingHealthDisplay.from_features({"round": Z, "flat": Z * [1, 1, 0, 0]})
    >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
    ['round, rank 4.0', 'flat, rank 2.0']
    """

    def __init__(self, health: Mapping[str, Bunch]) -> None:
        self.health = health

    @classmethod
    def from_features(cls, features: Mapping[str, ArrayLike], *, ax: Any = None) -> Self:
        """Measure the health of several embeddings and draw it.

        Parameters
        ----------
        features : dict of str to array-like of shape (n, d)
            Embeddings by name. No labels are needed.
        ax : matplotlib axes, default=None
            Where to draw. None makes a new figure.

        Returns
        -------
        display : EmbeddingHealthDisplay
            With `figure_` and `ax_`.
        """
        return cls(of_each(embedding_health, features)).plot(ax)

    def _draw(self, ax: Any) -> None:
        for index, (name, found) in enumerate(self.health.items()):
            shares = found.spectrum[found.spectrum > _ROUNDING]
            ranks = np.arange(1, len(shares) + 1)
            label = f"{name}, rank {found.effective_rank:.1f}"
            ax.plot(ranks, shares, color=color_of(index), label=label)
            if len(shares):
                height = np.interp(found.effective_rank, ranks, shares)
                ax.plot(found.effective_rank, height, "o", color=color_of(index), markersize=5)
        ax.set(xscale="log", yscale="log")
        ax.set_xlabel("direction, sorted by spread (dot: effective rank)")
        ax.set_ylabel("share of the spread")
        ax.grid(color="0.9")
        legend_beside(ax)
