"""ROC curves of probes."""

from collections.abc import Mapping
from typing import Any, Self

from numpy.typing import ArrayLike
from sklearn.utils import Bunch

from otcxr_sk.evaluation import probe_roc
from otcxr_sk.plotting._display import TaskDisplay, color_of, of_each, show_as_written


class ProbeDisplay(TaskDisplay):
    """ROC curves of probes on test patients, with the area under each.

    Intervals of the areas are those of `probe_auc` and `compare`.

    Parameters
    ----------
    curves : mapping of str to Bunch
        Result of `probe_roc` for each named embedding.

    See Also
    --------
    otcxr_sk.evaluation.probe_roc : The function that `from_features` calls.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.plotting import ProbeDisplay
    >>> y = np.tile([0, 1], 20)
    >>> display = ProbeDisplay.from_features(
    ...     {"perfect": y[:, None]}, y, np.arange(40), train=range(20), test=range(20, 40)
    ... )
    >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
    ['perfect, AUC 1.000']
    """

    def __init__(self, curves: Mapping[str, Bunch]) -> None:
        self.curves = curves

    @classmethod
    def _evaluate(cls, features: Mapping[str, ArrayLike], *task: Any, **options: Any) -> Self:
        return cls(of_each(lambda Z: probe_roc(Z, *task, **options), features))

    def _size(self) -> tuple[float, float]:
        return 4.2, 4.2

    def _draw(self, ax: Any) -> None:
        ax.plot([0, 1], [0, 1], color="0.8", linewidth=1)
        for index, (name, curve) in enumerate(self.curves.items()):
            label = f"{name}, AUC {curve.auc:.3f}"
            ax.plot(curve.fpr, curve.tpr, color=color_of(index), label=label)
        ax.set(aspect="equal", xlim=(-0.01, 1.01), ylim=(-0.01, 1.01))
        ax.set_xlabel("false positive rate on test patients")
        ax.set_ylabel("true positive rate on test patients")
        ax.grid(color="0.9")
        show_as_written(ax.legend(frameon=False, loc="lower right"))
