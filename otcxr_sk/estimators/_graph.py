"""What a fitted encoder, or a classifier with its encoder, computes, as one torch module."""

import json
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from otcxr_sk._affine import anywhere, composed
from otcxr_sk._paths import as_path
from otcxr_sk._torch_defaults import inference
from otcxr_sk._version import __version__
from otcxr_sk._warning import keeping_filters
from otcxr_sk.estimators._encoder import FittedEncoder, name_of
from otcxr_sk.estimators._pretrainer import OTCXRPretrainer
from otcxr_sk.estimators.supervised import OTCXRClassifier

TOLERANCE = 1e-4

_NUMBERS_TRIED = (1, 3)
_SCALING = (
    "gray images in [0, 1]: integers of 8 and 16 bits are divided by 255 and 65535; the graph "
    "subtracts mean and divides by std"
)


class _Linear(NamedTuple):
    """Scores of classes, ``(embedding - center) @ weight + bias``."""

    center: NDArray[Any]
    weight: NDArray[Any]
    bias: NDArray[Any]


class _Classifier(NamedTuple):
    """What follows an encoder: its scores, and the probabilities that they should give.

    Attributes
    ----------
    linear : _Linear
    classes : ndarray
    several : bool
        Whether each score tells of a label of its own, rather than all of one class.
    probability : callable
        Takes embeddings (n, d).
    """

    linear: _Linear
    classes: NDArray[Any]
    several: bool
    probability: Callable[[NDArray[Any]], NDArray[Any]]


class Graph(nn.Module):
    """Images in [0, 1] to the embedding, and to the probabilities of a linear classifier on it.

    Attributes
    ----------
    size : int
        Height and width of the images.
    outputs : list of str
        What is returned.
    facts : dict of str to str
        How images are to be read, and what the probabilities are of.
    """

    center: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, encoder: FittedEncoder, classifier: _Classifier | None) -> None:
        super().__init__()
        self.encoder = encoder.load().encoder.to(memory_format=torch.contiguous_format)
        self._mean, self._std, self._classifies = encoder.mean, encoder.std, classifier is not None
        self._several = classifier is not None and classifier.several
        self._probability = None if classifier is None else classifier.probability
        self.size = int(encoder.architecture["image_size"])
        self.outputs = ["embedding"] + ["probability"] * self._classifies
        facts = {
            "encoder": name_of(encoder.architecture["encoder"]),
            "image_size": self.size,
            "resize": encoder.architecture["resize"],
            "scaling": _SCALING,
            "mean": encoder.mean,
            "std": encoder.std,
            "otcxr_sk_version": __version__,
        }
        if classifier is not None:
            facts["labels" if self._several else "classes"] = json.dumps(
                classifier.classes.tolist()
            )
            for name, values in classifier.linear._asdict().items():
                self.register_buffer(name, torch.tensor(values, dtype=torch.float32))
        self.facts = {name: str(value) for name, value in facts.items()}

    def forward(self, images: Tensor) -> Any:
        *_, embedding = self.encoder((images - self._mean) / self._std)
        if not self._classifies:
            return embedding
        scores = (embedding - self.center) @ self.weight + self.bias
        return embedding, scores.sigmoid() if self._several else scores.softmax(1)

    def example(self) -> tuple[Tensor]:
        """Return what the module takes."""
        return (torch.zeros(2, 1, self.size, self.size),)

    @contextmanager
    def exporting(self, form: str) -> Iterator[None]:
        """Export in the block as torch does by default; its errors name the encoder."""
        try:
            with inference(), _quiet():
                yield
        except Exception as error:  # Of any kind, as modules are.
            raise ValueError(
                f"the encoder {self.facts['encoder']} cannot be exported to {form}; to_torch "
                "returns it as a torch module"
            ) from error

    def verify(self, run: Callable[[Tensor], Sequence[NDArray[Any]]]) -> None:
        """Raise ValueError unless what was exported gives on random images what it should."""
        generator = torch.Generator().manual_seed(0)
        for n in _NUMBERS_TRIED:
            images = torch.rand(n, 1, self.size, self.size, generator=generator)
            with inference():
                given = self(images)
            expected = [(given[0] if self._classifies else given).numpy()]
            if self._probability is not None:
                expected.append(self._probability(expected[0]))
            for got, wanted in zip(run(images), expected, strict=True):
                if not np.allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE):
                    raise ValueError(
                        f"the graph differs by {np.abs(got - wanted).max():.2g} from what it "
                        "should give, so it was not written; if it is the probability, the "
                        "classifier computes it in another way than as the softmax of its scores"
                    )


def graph_of(model: Any) -> Graph:
    """Return what an encoder, a classifier or a Pipeline computes, for the CPU."""
    return Graph(*_parts(model)).eval()


def _parts(model: Any) -> tuple[FittedEncoder, _Classifier | None]:
    first, *steps = [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]
    if isinstance(first, FrozenEstimator):
        first = first.estimator
    if isinstance(first, OTCXRClassifier) and not steps:
        check_is_fitted(first)
        return first.pretrainer_._encoder(), _tuned(first)
    if not isinstance(first, OTCXRPretrainer):
        raise TypeError(
            "what is exported is a fitted OTCXRPretrainer, an OTCXRClassifier, or a Pipeline that "
            f"begins with a pretrainer, got {type(first).__name__}"
        )
    encoder = first._encoder()
    if not steps:
        return encoder, None
    linear = _linear(steps, first.embedding_dim_)
    return encoder, _Classifier(linear, steps[-1].classes_, False, partial(_probability, steps))


def _tuned(model: OTCXRClassifier) -> _Classifier:
    coef, intercept = model.coef_, model.intercept_
    if not model._several:
        coef, intercept = _of_classes(coef, intercept)
    linear = _Linear(np.zeros(coef.shape[1]), coef.T, intercept)
    return _Classifier(linear, model.classes_, model._several, model._probability)


def checked(path: Any, suffix: str) -> str:
    """Return where a graph goes, if it can."""
    file = os.path.abspath(as_path(path))
    if not file.endswith(suffix):
        raise ValueError(f"such a graph is saved as {suffix}, got {file!r}")
    if not os.path.isdir(os.path.dirname(file)):
        raise ValueError(f"there is no folder {os.path.dirname(file)!r}; create it first")
    return file


def _linear(steps: Sequence[Any], dim: int) -> _Linear:
    """Return what the steps after an encoder compute, but for the last softmax."""
    *middle, last = steps
    if not isinstance(last, LogisticRegression):
        raise ValueError(
            f"the last step must be a LogisticRegression, got {type(last).__name__}; export the "
            "encoder alone, pipeline[0], and compute the rest where its embedding is used"
        )
    check_is_fitted(last)
    middle = _without_gaps(middle)
    for step in middle:
        check_is_fitted(step)
    weight, bias = composed([(step.transform, _refusal(step)) for step in middle], anywhere(dim))
    # Subtracted first, because float32 would lose a small difference of large numbers.
    center = np.linalg.lstsq(weight.T, -bias, rcond=None)[0]
    coef, intercept = _of_classes(last.coef_, last.intercept_)
    return _Linear(center, weight @ coef.T, (center @ weight + bias) @ coef.T + intercept)


def _of_classes(coef: NDArray[Any], intercept: NDArray[Any]) -> tuple[Any, Any]:
    if len(coef) > 1:
        return coef, intercept
    # Of two classes, the first has the score 0.
    return np.vstack([0 * coef, coef]), np.append(0.0, intercept)


def _refusal(step: Any) -> str:
    return (
        f"the step {type(step).__name__} is not affine, and only such steps become part of the "
        "graph; export the encoder alone, pipeline[0]"
    )


def _without_gaps(steps: Sequence[Any]) -> list[Any]:
    return [step for step in steps if step is not None and step != "passthrough"]


def _probability(steps: Sequence[Any], embedding: Any) -> NDArray[Any]:
    with _quiet():
        for step in _without_gaps(steps[:-1]):
            embedding = step.transform(embedding)
        return steps[-1].predict_proba(embedding)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep from the user what libraries warn of that is not the user's doing."""
    with keeping_filters(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
