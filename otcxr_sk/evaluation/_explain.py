"""What each region of an image adds to a linear classifier's score."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.pipeline import Pipeline
from sklearn.utils import Bunch
from sklearn.utils.validation import check_is_fitted

from otcxr_sk._affine import Affine, anywhere, composed
from otcxr_sk._ordinary import ordinary


@ordinary()
def explain(model: Pipeline, X: Any) -> Bunch:
    """Split the score of a linear classifier into contributions of the regions of each image.

    By default, the embedding is the mean of the encoder's last map over its places, and what
    follows is affine up to the score. So the score is exactly an intercept plus a sum over places.
    What a place contributes may come from beyond it: the vector there depends on what the encoder
    sees around. A class token (``pooling="token"``) is no such sum, and is refused.

    Parameters
    ----------
    model : Pipeline
        Fitted: an `OTCXRPretrainer`, affine steps such as `StandardScaler` or `PCA`, if any, and a
        classifier whose `decision_function` is affine, such as `LogisticRegression`. An encoder
        and a classifier that were fitted apart become one by
        ``make_pipeline(encoder, classifier)``.
    X : array-like or sequence of paths
        Images, as for the encoder. Their dense maps are in memory together.

    Returns
    -------
    explanation : :class:`~sklearn.utils.Bunch`
        contributions : ndarray of shape (n, h, w), or (n, h, w, k) for k > 2 classes, float64
            What each place adds to the score. NaN for images that cannot be used.
        intercept : float or ndarray of shape (k,)
            The score of an embedding of zeros.
        score : ndarray of shape (n,) or (n, k)
            The sum of both, which is ``model.decision_function(X)``.
        classes : ndarray
            The classes. Of two, a positive score speaks for the second.

    Raises
    ------
    TypeError
        `model` is no such pipeline.
    ValueError
        A step is not affine, or the encoder has ``pooling="token"``. The message names it, mostly
        before images are read.

    See Also
    --------
    deletion_curves : How much the score depends on the regions that contribute most.
    otcxr_sk.plotting.ExplanationDisplay : Contributions over the X-rays.

    Examples
    --------
    >>> import numpy as np
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> from otcxr_sk import OTCXRPretrainer
    >>> from otcxr_sk.datasets import make_chest_phantoms
    >>> from otcxr_sk.evaluation import explain
    >>> data = make_chest_phantoms(6, image_size=32, random_state=0)
    >>> encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=0, random_state=0)
    >>> model = make_pipeline(encoder, LogisticRegression())
    >>> model = model.fit(data.images, data.labels.any(axis=1))
    >>> found = explain(model, data.images)
    >>> total = found.contributions.sum((1, 2)) + found.intercept
    >>> bool(np.allclose(total, model.decision_function(data.images), atol=1e-4))
    True
    """
    (_, encoder), *steps = steps_of(model)
    weights, intercept = _affine(steps, anywhere(encoder.embedding_dim_))
    dense = encoder.transform_dense(X)
    # Near the training data, where kernels show.
    embedding = dense.mean((1, 2))
    _affine(steps, embedding[np.isfinite(embedding).all(1)])
    _, rows, columns, _ = dense.shape
    # One by one, because in float64 all maps would take twice their memory.
    contributions = np.stack([image @ weights for image in dense]) / (rows * columns)
    return Bunch(
        contributions=contributions,
        intercept=intercept,
        score=contributions.sum((1, 2)) + intercept,
        classes=steps[-1][1].classes_,
    )


def steps_of(model: Any) -> list[tuple[str, Any]]:
    """Return the fitted steps of a pipeline and of those within it, an encoder first."""
    if not isinstance(model, Pipeline):
        raise TypeError(
            f"model must be a Pipeline of an encoder and a classifier, got {type(model).__name__}: "
            "pass make_pipeline(encoder, classifier), or the best_estimator_ of a search"
        )
    steps = _flat(model)
    for name, step in steps:
        check_is_fitted(step, msg=f"the step {name!r} is not fitted; call fit of it or of model")
    (first, encoder), (last, classifier) = steps[0], steps[-1]
    if not hasattr(encoder, "transform_dense"):
        raise TypeError(f"the first step must be an OTCXRPretrainer, got {_named(first, encoder)}")
    if getattr(encoder, "_architecture", {}).get("pooling") == "token":
        raise ValueError(
            f"the step {_named(first, encoder)} embeds an image as its class token, which is not a "
            "sum over regions; only pooling='mean' can be explained"
        )
    if not hasattr(classifier, "decision_function"):
        raise TypeError(
            "the last step must be a linear classifier, such as LogisticRegression, got "
            f"{_named(last, classifier)}, which has no decision_function"
        )
    return steps


def _flat(model: Pipeline) -> list[tuple[str, Any]]:
    steps: list[tuple[str, Any]] = []
    for name, step in model.steps:
        if isinstance(step, Pipeline):
            steps += _flat(step)
        elif step is not None and not isinstance(step, str):
            steps.append((name, step))
    return steps


def _affine(steps: list[tuple[str, Any]], points: NDArray[Any]) -> Affine:
    """Return weights (width,) or (width, k), and the intercept, of what the steps compute."""
    computed = [step.transform for _, step in steps[:-1]] + [steps[-1][1].decision_function]
    refusals = [
        f"the step {_named(name, step)} is not affine, so the score is not a sum over regions; "
        "leave the step out"
        for name, step in steps
    ]
    return composed(zip(computed, refusals, strict=True), points)


def _named(name: str, step: Any) -> str:
    return f"{name!r} ({type(step).__name__})"
