"""How an embedding uses its space, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Bunch

from otcxr_sk.evaluation import embedding_health
from otcxr_sk.plotting._display import AxesDisplay, colour_of

# Embeddings come in float32: what is less was not there.
_ROUNDING = np.finfo(np.float32).eps


class EmbeddingHealthDisplay(AxesDisplay):
    """Spectra of embeddings: how much of the spread is along each direction, the widest first.

    A line that falls early belongs to an embedding that uses few of its dimensions; a dot stands
    at its effective rank.

    Parameters
    ----------
    health : mapping of str to Bunch
        Name of each embedding, and what `embedding_health` found for it.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure
        Both are set by `plot`.

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
        """Measure the health of several embeddings and plot it.

        Parameters
        ----------
        features : mapping of str to array-like of shape (n, d)
            Embeddings by name.
        ax : matplotlib.axes.Axes, optional
            As for `plot`.

        Returns
        -------
        display : EmbeddingHealthDisplay
        """
        return cls({name: embedding_health(Z) for name, Z in features.items()}).plot(ax)

    def _size(self) -> tuple[float, float]:
        return 6, 3.6

    def _draw(self, ax: Any) -> None:
        for index, (name, found) in enumerate(self.health.items()):
            shares = found.spectrum[found.spectrum > _ROUNDING]
            places = np.arange(1, len(shares) + 1)
            label = f"{name}, rank {found.effective_rank:.1f}"
            ax.plot(places, shares, color=colour_of(index), label=label)
            if len(shares):
                height = np.interp(found.effective_rank, places, shares)
                ax.plot(found.effective_rank, height, "o", color=colour_of(index), markersize=5)
        ax.set(xscale="log", yscale="log")
        ax.set_xlabel("direction, the widest first; the dot is the effective rank")
        ax.set_ylabel("share of the spread")
        ax.grid(color="0.9")
        ax.legend(frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
