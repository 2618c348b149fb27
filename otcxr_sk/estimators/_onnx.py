"""A fitted encoder, alone or at the head of a Pipeline, as one ONNX graph."""

import json
import os
import warnings
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted
from torch import Tensor, nn

from otcxr_sk._files import replacing
from otcxr_sk._ordinary import ordinary
from otcxr_sk._paths import as_path
from otcxr_sk._torch_defaults import inference
from otcxr_sk._version import __version__
from otcxr_sk._warning import keeping_filters
from otcxr_sk.estimators._encoder import FittedEncoder, name_of
from otcxr_sk.method import DenseEncoder, pool

TOLERANCE = 1e-4

# Protocol buffers, and so single files, have no more bytes.
_MOST_BYTES = 2**31 - 2**20
_NUMBERS_TRIED = (1, 3)
_SCALING = (
    "gray images in [0, 1]: integers of 8 and 16 bits are divided by 255 and 65535; the graph "
    "subtracts mean and divides by std"
)


class _Graph(nn.Module):
    """Images in [0, 1] to the embedding, and to the probabilities of a linear classifier on it."""

    def __init__(
        self, encoder: DenseEncoder, mean: float, std: float, linear: NDArray[Any] | None
    ) -> None:
        super().__init__()
        self.encoder, self._mean, self._std = encoder, mean, std
        if linear is not None:
            weight, bias = torch.from_numpy(linear[:-1].T.copy()), torch.from_numpy(linear[-1])
            self.register_buffer("weight", weight.float())
            self.register_buffer("bias", bias.float())
        self._classifies = linear is not None

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        embedding = pool(self.encoder((images - self._mean) / self._std)[1])
        if not self._classifies:
            return embedding
        return embedding, torch.softmax(embedding @ self.weight.T + self.bias, 1)


def export_onnx(model: Any, path: Any) -> None:
    """Write a fitted encoder, or a Pipeline that begins with one, as one ONNX graph.

    Needs the extra ``onnx``. The graph takes ``images`` (n, 1, size, size), float32, in the units
    that `transform` reads: [0, 1] for files and integers. It standardizes them itself. It returns
    ``embedding`` (n, d), and for a Pipeline ``probability`` (n, n_classes), as `predict_proba`. It
    computes in float32 on any device, and is made on the CPU. Before the file appears, it is
    compared with this library on random images, by onnxruntime, to 1e-4.

    Parameters
    ----------
    model : OTCXRPretrainer or Pipeline
        Fitted. The steps of a Pipeline are a pretrainer, steps that are affine, such as
        `StandardScaler` and `PCA`, and a `LogisticRegression`.
    path : path
        An ``.onnx`` file; an existing one is replaced. Its metadata, all text, are ``encoder``,
        ``image_size`` (pixels), ``resize``, ``scaling`` (how images become numbers), ``mean``,
        ``std``, ``otcxr_sk_version`` and, with a classifier, ``classes`` as JSON.

    Raises
    ------
    ImportError
        The extra is not installed.
    ValueError
        `path` has another suffix, or its folder does not exist; a step is of another kind; the
        encoder cannot be exported, or its graph gives other numbers.
    """
    onnx, onnxruntime = _packages()
    file = _checked(path)
    first, *steps = [step for _, step in model.steps] if isinstance(model, Pipeline) else [model]
    if not hasattr(first, "save_pretrained"):
        raise TypeError(
            "export_onnx takes a fitted OTCXRPretrainer or a Pipeline that begins with one, got "
            f"{type(first).__name__}"
        )
    encoder = first._encoder()
    linear, classes = _linear(steps, first.embedding_dim_) if steps else (None, None)
    with ordinary():
        network = encoder.load().encoder.to(memory_format=torch.contiguous_format)
        graph = _Graph(network, encoder.mean, encoder.std, linear).eval()
        content = _exported(graph, encoder, classes, onnx)
        _verify(content, graph, steps, _size(encoder), onnxruntime)
    with replacing(file) as scratch:
        scratch.write(content)


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


def _linear(steps: Sequence[Any], dim: int) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Return the steps after an encoder as one affine map to logits, its last row the constant."""
    *middle, last = steps
    if not isinstance(last, LogisticRegression):
        raise ValueError(
            f"the last step must be a LogisticRegression, got {type(last).__name__}; export the "
            "encoder alone, pipeline[0], and compute the rest where its embedding is used"
        )
    check_is_fitted(last)
    whole = np.vstack([np.eye(dim), np.zeros(dim)])
    for step in middle:
        if step is not None and step != "passthrough":
            whole = _through(step, whole)
    coef, intercept = last.coef_, last.intercept_
    if len(coef) == 1:
        # Of two classes, the first has the logit 0.
        coef, intercept = np.vstack([0 * coef, coef]), np.append(0.0, intercept)
    logits = whole @ coef.T
    logits[-1] += intercept
    return logits, last.classes_


def _through(step: Any, map_: NDArray[np.float64]) -> NDArray[np.float64]:
    """Follow an affine map, its last row the constant, by a step.

    An affine step is known by what it does to 0 and to the unit vectors.
    """
    n = map_.shape[1]
    rng = np.random.default_rng(0)
    with keeping_filters(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        constant = np.asarray(step.transform(np.zeros((1, n))), float)
        weight = np.asarray(step.transform(np.eye(n)), float) - constant
        for scale in (1e-2, 1.0, 1e2):
            given = scale * rng.standard_normal((8, n))
            error = np.asarray(step.transform(given), float) - (given @ weight + constant)
            if not np.abs(error).max() <= 1e-6 * (1 + scale) * (1 + np.abs(weight).max() * n):
                raise ValueError(
                    f"the step {type(step).__name__} is not affine, and only such steps become "
                    "part of the graph; export the encoder alone, pipeline[0]"
                )
    after = map_ @ weight
    after[-1] += constant[0]
    return after


def _exported(
    graph: _Graph, encoder: FittedEncoder, classes: NDArray[Any] | None, onnx: Any
) -> bytes:
    """Export a module, with nothing in the file that names a place of this machine."""
    size = _size(encoder)
    outputs = ["embedding"] + ["probability"] * (classes is not None)
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
    if classes is not None:
        facts["classes"] = json.dumps(classes.tolist())
    onnx.helper.set_model_props(proto, {name: str(value) for name, value in facts.items()})
    return proto.SerializeToString()


def _verify(
    content: bytes, graph: _Graph, steps: Sequence[Any], size: int, onnxruntime: Any
) -> None:
    """Compare what the graph gives with what it should."""
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    generator = torch.Generator().manual_seed(0)
    for n in _NUMBERS_TRIED:
        images = torch.rand(n, 1, size, size, generator=generator)
        found = session.run(None, {"images": images.numpy()})
        with inference():
            given = graph(images)
        embedding = (given[0] if steps else given).numpy()
        expected = [embedding, *([_probability(steps, embedding)] if steps else [])]
        for got, wanted in zip(found, expected, strict=True):
            if not np.allclose(got, wanted, rtol=TOLERANCE, atol=TOLERANCE):
                raise ValueError(
                    f"the graph differs by {np.abs(got - wanted).max():.2g} from what it should "
                    "give, so it was not written; if it is the probability, the classifier "
                    "computes it in another way than as the softmax of its scores"
                )


def _probability(steps: Sequence[Any], embedding: NDArray[np.float32]) -> NDArray[Any]:
    values: Any = embedding
    with keeping_filters(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for step in steps[:-1]:
            if step is not None and step != "passthrough":
                values = step.transform(values)
        return steps[-1].predict_proba(values)


@contextmanager
def _quiet() -> Any:
    """Keep what torch says of its own progress from the user."""
    with keeping_filters(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
