"""Contributions of regions to a score, over the X-rays."""

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch

from otcxr_sk._quote import brief
from otcxr_sk.evaluation import explain
from otcxr_sk.plotting._display import Display, new_figure
from otcxr_sk.plotting._images import INCHES, as_seen, show_image, show_over


class ExplanationDisplay(Display):
    """Images, and beside each what its regions contribute to a linear classifier's score.

    Red regions raise the score and blue ones lower it, the more so the less of the X-ray shines
    through. All images have the same scale. Of two classes, a positive score speaks for the one
    that is named; of several, each has a column.

    Parameters
    ----------
    explanation : Bunch
        Result of `explain`.
    images : array-like of shape (n, height, width)
        The images, as squares if the encoder was given squares.

    See Also
    --------
    otcxr_sk.evaluation.explain : The function that `from_estimator` calls.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.plotting import ExplanationDisplay
    >>> data = make_chest_phantoms(6, image_size=32, random_state=0)
    >>> encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=0, random_state=0)
    >>> model = make_pipeline(encoder, LogisticRegression())
    >>> model = model.fit(data.images, data.labels.any(axis=1))
    >>> display = ExplanationDisplay.from_estimator(model, data.images[:2])
    >>> display.explanation.contributions.shape
    (2, 1, 1)
    """

    def __init__(self, explanation: Bunch, images: ArrayLike) -> None:
        self.explanation = explanation
        self.images = images

    @classmethod
    def from_estimator(cls, model: Pipeline, X: Any) -> Self:
        """Explain the scores of a few images and draw the result.

        Parameters
        ----------
        model : Pipeline
            As for `explain`.
        X : array-like or sequence of paths
            Images, preferably two to six.

        Returns
        -------
        display : ExplanationDisplay
            The new display, drawn.
        """
        encoder: Any = model
        while isinstance(encoder, Pipeline):
            encoder = encoder[0]
        images = as_seen(encoder, X) if hasattr(encoder, "transform_dense") else X
        return cls(explain(model, images), images).plot()

    def plot(self) -> Self:
        """Draw the figure.

        Returns
        -------
        display : ExplanationDisplay
            The same display, with the attribute `figure_` (matplotlib's Figure).
        """
        found, images = self.explanation, np.asarray(self.images)
        shape = found.contributions.shape[:3]
        # A column for each class, and the only one of two.
        contributions = found.contributions.reshape(*shape, -1)
        scores = found.score.reshape(len(images), -1)
        classes = found.classes if scores.shape[1] > 1 else found.classes[1:]
        largest = np.nanmax(np.abs(contributions), initial=0) or 1.0
        self.figure_ = new_figure(
            INCHES * (1 + len(classes)) + 0.9, (INCHES + 0.2) * len(images) + 0.3
        )
        rows = self.figure_.subplots(len(images), 1 + len(classes), squeeze=False)
        for image, values, score, axes in zip(images, contributions, scores, rows, strict=True):
            show_image(axes[0], image)
            for column, ax in enumerate(axes[1:]):
                show_image(ax, image)
                part = values[..., column]
                drawn = show_over(
                    ax,
                    part,
                    cmap="bwr",
                    vmin=-largest,
                    vmax=largest,
                    alpha=0.8 * np.nan_to_num(np.abs(part)) / largest,
                )
                name = brief(classes[column])
                ax.set_title(f"{name}: score {score[column]:+.2f}", fontsize=8, parse_math=False)
        bar = self.figure_.colorbar(drawn, ax=rows, shrink=0.8, aspect=30)
        bar.set_label("contribution to the score", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        return self
