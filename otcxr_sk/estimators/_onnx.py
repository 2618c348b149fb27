"""A fitted encoder, alone or with what classifies its embedding, as one ONNX graph."""

from typing import Any

import torch

from otcxr_sk._files import replacing
from otcxr_sk._ordinary import ordinary
from otcxr_sk.estimators._graph import Graph, checked, graph_of

# Protocol buffers, and so single files, have no more bytes.
_MOST_BYTES = 2**31 - 2**20


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
    file = checked(path, ".onnx")
    with ordinary():
        graph = graph_of(model)
        content = _exported(graph, onnx)
        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        graph.verify(lambda images: session.run(None, {"images": images.numpy()}))
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


def _exported(graph: Graph, onnx: Any) -> bytes:
    """Export a module, with nothing in the file that names a place of this machine."""
    with graph.exporting("ONNX"):
        program = torch.onnx.export(
            graph,
            graph.example(),
            dynamo=True,
            input_names=["images"],
            output_names=graph.outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
        assert program is not None
        proto = program.model_proto
    if proto.ByteSize() > _MOST_BYTES:
        raise ValueError("the graph has more than 2 GB, which a single ONNX file cannot hold")
    # Where this library is installed, line by line.
    for part in [proto.graph, *proto.functions, *proto.graph.node]:
        del part.metadata_props[:]
        part.doc_string = ""
    for part in [*proto.graph.value_info, *proto.graph.input, *proto.graph.output]:
        del part.metadata_props[:]
    onnx.helper.set_model_props(proto, graph.facts)
    return proto.SerializeToString()
