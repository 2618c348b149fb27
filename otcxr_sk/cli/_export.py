"""`otcxr-sk export`."""

from pathlib import Path

import click

from otcxr_sk.cli import _options as options
from otcxr_sk.cli._data import load_model


@click.command(
    short_help="Write a model for ONNX, torch and timm.",
    epilog=options.examples(
        "otcxr-sk export model encoder.onnx",
        "otcxr-sk export classifier classifier.pt2",
        "otcxr-sk export model encoder.safetensors",
    ),
)
@options.model
@click.argument("out", type=options.PathType())
@options.overwrite
def export(model: Path, out: Path, overwrite: bool) -> None:
    """Write a model for other programs; the suffix of OUT decides for which.

    \b
    .onnx         one graph from image to embedding, and of a classifier to probabilities
    .pt2          the same as a program of torch.export
    .safetensors  the encoder's weights under timm's names, for timm and torch
    """  # noqa: D301
    options.require_output(out, overwrite, ".onnx", ".pt2", ".safetensors")
    from otcxr_sk import estimators

    fitted = load_model(model)
    if out.suffix.lower() == ".onnx":
        estimators.export_onnx(fitted, out)
    elif out.suffix.lower() == ".pt2":
        estimators.export_torch(fitted, out)
    else:
        getattr(fitted, "pretrainer_", fitted).save_encoder(out)
    options.note_size(out)
