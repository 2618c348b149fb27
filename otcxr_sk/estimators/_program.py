"""A fitted encoder, alone or with what classifies its embedding, as one program of torch."""

import io
from typing import Any

import torch

from otcxr_sk._files import replacing
from otcxr_sk._ordinary import ordinary
from otcxr_sk._torch_defaults import inference
from otcxr_sk.estimators._graph import Graph, checked, graph_of


def export_torch(model: Any, path: Any) -> None:
    """Write a fitted encoder, or a classifier with its encoder, as one program of `torch.export`.

    The program takes and returns what the graph of :func:`export_onnx` does, with torch alone:
    neither this library nor the code of the network is needed. Before the file appears, it is
    compared with this library on random images, to 1e-4.

    Parameters
    ----------
    model : OTCXRPretrainer, OTCXRClassifier or Pipeline
        As of `export_onnx`.
    path : path
        A ``.pt2`` file; an existing one is replaced. The metadata of `export_onnx` are its extra
        files: ``torch.export.load(path, extra_files={"image_size": ""})`` fills in what is asked
        for.

    Raises
    ------
    TypeError
        `model` is something else.
    ValueError
        `path` has another suffix, or its folder does not exist; a step is of another kind; the
        encoder cannot be exported, or its program gives other numbers.

    See Also
    --------
    export_onnx : The same for other languages, viewers and servers.

    Examples
    --------
    ::

        export_torch(classifier, "classifier.pt2")
        embedding, probability = torch.export.load("classifier.pt2").module()(images)
    """
    file = checked(path, ".pt2")
    with ordinary():
        graph = graph_of(model)
        content = _exported(graph)
        module = torch.export.load(io.BytesIO(content)).module()
        graph.verify(lambda images: _run(module, images))
    with replacing(file) as scratch:
        scratch.write(content)


def _exported(graph: Graph) -> bytes:
    """Export a module, with nothing in the file that names a place of this machine."""
    content = io.BytesIO()
    with graph.exporting("torch.export"):
        batch = {0: torch.export.Dim("batch")}
        program = torch.export.export(graph, graph.example(), dynamic_shapes=(batch,))
        # Where this library is installed, line by line.
        for node in program.graph.nodes:
            node.meta.pop("stack_trace", None)
        torch.export.save(program, content, extra_files=graph.facts)
    return content.getvalue()


def _run(module: torch.nn.Module, images: torch.Tensor) -> list[Any]:
    with inference():
        found = module(images)
    return [one.numpy() for one in (found if isinstance(found, tuple) else [found])]
