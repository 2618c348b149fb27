"""A fitted encoder, alone or with what classifies its embedding, as one ONNX graph."""

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
from otcxr_sk._files import replacing
from otcxr_sk._ordinary import ordinary
from otcxr_sk._paths import as_path
from otcxr_sk._torch_defaults import inference
from otcxr_sk._version import __version__
from otcxr_sk._warning import keeping_filters
from otcxr_sk.estimators._encoder import FittedEncoder, name_of
from otcxr_sk.estimators._pretrainer import OTCXRPretrainer
from otcxr_sk.estimators.supervised import OTCXRClassifier

TOLERANCE = 1e-4

# Protocol buffers, and so single files, have no more bytes.
_MOST_BYTES = 2**31 - 2**20
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


class _Graph(nn.Module):
    """Images in [0, 1] to the embedding, and to the probabilities of a linear classifier on it."""

    center: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, encoder: FittedEncoder, classifier: _Classifier | None) -> None:
        super().__init__()
        self.encoder = encoder.load().encoder.to(memory_format=torch.contiguous_format)
        self._mean, self._std, self._classifies = encoder.mean, encoder.std, classifier is not None
        self._several = classifier is not None and classifier.several
        for name, values in () if classifier is None else classifier.linear._asdict().items():
            self.register_buffer(name, torch.tensor(values, dtype=torch.float32))

    def forward(self, images: Tensor) -> Any:
        *_, embedding = self.encoder((images - self._mean) / self._std)
        if not self._classifies:
            return embedding
        scores = (embedding - self.center) @ self.weight + self.bias
        return embedding, scores.sigmoid() if self._several else scores.softmax(1)


def export_onnx(model: Any, path: Any) -> None:
    """Write a fitted encoder, or a classifier with its encoder, as one ONNX graph.

    Needs the extra ``onnx``. The graph takes ``images`` (n, 1, size, size), float32, in the units
    that `transform` reads: [0, 1] for files and integers. It standardizes them itself. It returns
    ``embedding`` (n, d), and of a classifier ``probability`` (n, n_classes), as `predict_proba`. It
    computes in float32 on any device, and is made on the CPU. Before the file appears, it is
    compared with this library on random images, by onnxruntime, to 1e-4.

    Parameters
    ----------
    model : OTCXRPretrainer, OTCXRClassifier or Pipeline
        Fitted. The steps of a Pipeline are a pretrainer, or a `FrozenEstimator` of one, steps that
        are affine, such as `StandardScaler` and `PCA`, and a `LogisticRegression`.
    path : path
        An ``.onnx`` file; an existing one is replaced. Its metadata, all text, are ``encoder``,
        ``image_size`` (pixels), ``resize``, ``scaling`` (how images become numbers), ``mean``,
        ``std``, ``otcxr_sk_version`` and, of a classifier, ``classes`` as JSON; or, if it was
        fitted on several labels, ``labels``, their indices.

    Raises
    ------
    ImportError
        The extra is not installed.
    TypeError
        `model` is something else.
    ValueError
        `path` has another suffix, or its folder does not exist; a step is of another kind; the
        encoder cannot be exported, or its graph gives other numbers.

    Examples
    --------
    ::

        export_onnx(make_pipeline(encoder, StandardScaler(), LogisticRegression()).fit(X, y), path)
        session = onnxruntime.InferenceSession(path)
        embedding, probability = session.run(None, {"images": images})
    """
    onnx, onnxruntime = _packages()
    file = _checked(path)
    with ordinary():
        encoder, classifier = _parts(model)
        graph = _Graph(encoder, classifier).eval()
        content = _exported(graph, encoder, classifier, onnx)
        _verify(content, graph, classifier, _size(encoder), onnxruntime)
    with replacing(file) as scratch:
        scratch.write(content)


def _parts(model: Any) -> tuple[FittedEncoder, _Classifier | None]:
    first, *steps = [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]
    if isinstance(first, FrozenEstimator):
        first = first.estimator
    if isinstance(first, OTCXRClassifier) and not steps:
        check_is_fitted(first)
        return first.pretrainer_._encoder(), _tuned(first)
    if not isinstance(first, OTCXRPretrainer):
        raise TypeError(
            "export_onnx takes a fitted OTCXRPretrainer, an OTCXRClassifier, or a Pipeline that "
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


def _packages() -> tuple[Any, Any]:
    try:
        import onnx
        import onnxruntime
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(
            "export_onnx needs onnx, onnxscript and onnxruntime: pip install 'otcxr-sk[onnx]'"
        ) from error
    return onnx, onnxruntime


def _checked(path: Any) -> str:
    file = os.path.abspath(as_path(path))
    if not file.endswith(".onnx"):
        raise ValueError(f"a graph is saved as an .onnx file, got {file!r}")
    if not os.path.isdir(os.path.dirname(file)):
        raise ValueError(f"there is no folder {os.path.dirname(file)!r}; create it first")
    return file


def _size(encoder: FittedEncoder) -> int:
    return int(encoder.architecture["image_size"])


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


def _exported(
    graph: _Graph, encoder: FittedEncoder, classifier: _Classifier | None, onnx: Any
) -> bytes:
    """Export a module, with nothing in the file that names a place of this machine."""
    size = _size(encoder)
    outputs = ["embedding"] + ["probability"] * (classifier is not None)
    try:
        with inference(), _quiet():
            program = torch.onnx.export(
                graph,
                (torch.zeros(2, 1, size, size),),
                dynamo=True,
                input_names=["images"],
                output_names=outputs,
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
            assert program is not None
            proto = program.model_proto
    except Exception as error:  # Of any kind, as modules are.
        raise ValueError(
            f"the encoder {name_of(encoder.architecture['encoder'])} cannot be exported to ONNX, "
            "as the error above says; to_torch returns it as a torch module"
        ) from error
    if proto.ByteSize() > _MOST_BYTES:
        raise ValueError("the graph has more than 2 GB, which a single ONNX file cannot hold")
    # Where this library is installed, line by line.
    for part in [proto.graph, *proto.functions, *proto.graph.node]:
        del part.metadata_props[:]
        part.doc_string = ""
    for part in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]:
        del part.metadata_props[:]
    facts = {
        "encoder": name_of(encoder.architecture["encoder"]),
        "image_size": size,
        "resize": encoder.architecture["resize"],
        "scaling": _SCALING,
        "mean": encoder.mean,
        "std": encoder.std,
        "otcxr_sk_version": __version__,
    }
    if classifier is not None:
        name = "labels" if classifier.several else "classes"
        facts[name] = json.dumps(classifier.classes.tolist())
    onnx.helper.set_model_props(proto, {name: str(value) for name, value in facts.items()})
    return proto.SerializeToString()


def _verify(
    content: bytes, graph: _Graph, classifier: _Classifier | None, size: int, onnxruntime: Any
) -> None:
    """Compare what the graph gives with what it should."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for n in _NUMBERS_TRIED:
        images = torch.rand(n, 1, size, size, generator=generator)
        found = session.run(None, {"images": images.numpy()})
        with inference():
            given = graph(images)
        if classifier is None:
            expected = [given.numpy()]
        else:
            embedding = given[0].numpy()
            expected = [embedding, classifier.probability(embedding)]
        for got, wanted in zip(found, expected, strict=True):
            if not np.allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE):
                raise ValueError(
                    f"the graph differs by {np.abs(got - wanted).max():.2g} from what it should "
                    "give, so it was not written; if it is the probability, the classifier "
                    "computes it in another way than as the softmax of its scores"
                )


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
