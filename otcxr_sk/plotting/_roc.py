"""What a probe finds at which price, as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from numpy.typing import ArrayLike
from sklearn.utils import Bunch

from otcxr_sk.evaluation import probe_roc
from otcxr_sk.plotting._display import AxesDisplay, colour_of


class ProbeDisplay(AxesDisplay):
    """ROC curves of probes on test patients, with the area under each.

    Parameters
    ----------
    curves : mapping of str to Bunch
        Name of each embedding, and what `probe_roc` found for it.

    Attributes
    ----------
    ax_ : matplotlib.axes.Axes
    figure_ : matplotlib.figure.Figure
        Both are set by `plot`.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.plotting import ProbeDisplay
    >>> y = np.tile([0, 1], 20)
    >>> display = ProbeDisplay.from_features(
    ...     {"told": y[:, None]}, y, np.arange(40), train=range(20), test=range(20, 40)
    ... )
    >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
    ['told, AUC 1.000']
    """

    def __init__(self, curves: Mapping[str, Bunch]) -> None:
        self.curves = curves

    @classmethod
    def from_features(
        cls,
        features: Mapping[str, ArrayLike],
        y: ArrayLike,
        groups: ArrayLike,
        *,
        ax: Any = None,
        **options: Any,
    ) -> Self:
        """Probe several embeddings and plot their ROC curves.

        Parameters
        ----------
        features : mapping of str to array-like of shape (n, d)
            Embeddings by name.
        y, groups
            As for `probe_roc`.
        ax : matplotlib.axes.Axes, optional
            As for `plot`.
        **options
            `train`, `test` and `probe` of `probe_roc`.

        Returns
        -------
        display : ProbeDisplay
        """
        curves = {name: probe_roc(Z, y, groups, **options) for name, Z in features.items()}
        return cls(curves).plot(ax)

    def _size(self) -> tuple[float, float]:
        return 4.2, 4.2

    def _draw(self, ax: Any) -> None:
        ax.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        for index, (name, curve) in enumerate(self.curves.items()):
            label = f"{name}, AUC {curve.auc:.3f}"
            ax.plot(curve.fpr, curve.tpr, color=colour_of(index), label=label)
        ax.set(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        ax.set_xlabel("false positive rate on test patients")
        ax.set_ylabel("true positive rate")
        ax.grid(color="0.9")
        ax.legend(frameon=False, loc="lower right")
