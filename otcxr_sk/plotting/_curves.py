"""AUC as a function of the share of labels."""

from collections.abc import Mapping
from numbers import Integral
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.utils import Bunch, check_random_state

from otcxr_sk.evaluation import label_efficiency
from otcxr_sk.plotting._display import TaskDisplay, color_of, legend_beside, of_each, percent


class LabelEfficiencyDisplay(TaskDisplay):
    """AUC by share of labeled patients: the mean over draws, plus and minus a standard deviation.

    With all labels there is one draw, so nothing to deviate from, and no band. Intervals for other
    test patients are those of `probe_auc` and `compare`.

    Parameters
    ----------
    curves : mapping of str to Bunch
        Result of `label_efficiency` for each named embedding.

    See Also
    --------
    otcxr_sk.evaluation.label_efficiency : The function that `from_features` calls, with the same
        draws of patients for all embeddings.

    Examples
    --------
    >>> import numpy as np
    >>> from otcxr_sk.plotting import LabelEfficiencyDisplay
    >>> y = np.tile([0, 1], 100)
    >>> noise = np.random.default_rng(0).normal(size=(200, 5))
    >>> display = LabelEfficiencyDisplay.from_features(
    ...     {"noise": noise, "signal": noise + y[:, None]}, y, np.arange(200),
    ...     train=range(100), test=range(100, 200), draws=2, random_state=0,
    ... )
    >>> [text.get_text() for text in display.ax_.get_legend().get_texts()]
    ['noise', 'signal']
    """

    def __init__(self, curves: Mapping[str, Bunch]) -> None:
        self.curves = curves

    @classmethod
    def _evaluate(cls, features: Mapping[str, ArrayLike], *task: Any, **options: Any) -> Self:
        state = options.get("random_state")
        if not isinstance(state, Integral):
            options["random_state"] = check_random_state(state).randint(np.iinfo(np.int32).max)
        return cls(of_each(lambda Z: label_efficiency(Z, *task, **options), features))

    def _draw(self, ax: Any) -> None:
        for index, (name, curve) in enumerate(self.curves.items()):
            color = color_of(index)
            drawn = curve.fractions < 1
            low, high = curve.mean - curve.std, curve.mean + curve.std
            ax.fill_between(
                curve.fractions, low, high, where=drawn, color=color, alpha=0.15, linewidth=0
            )
            ax.plot(curve.fractions, curve.mean, "o-", color=color, markersize=5, label=name)
        ticks = {
            float(share): f"{percent(share)}\n{n:.0f}"
            for curve in self.curves.values()
            for share, n in zip(curve.fractions, curve.n_patients, strict=True)
        }
        ax.set(xscale="log", xlabel="labeled patients: share and number (band: other draws)")
        ax.set_xticks(list(ticks), list(ticks.values()))
        ax.set_xticks([], minor=True)
        ax.set_ylabel("AUC on test patients")
        ax.grid(axis="y", color="0.9")
        legend_beside(ax)
