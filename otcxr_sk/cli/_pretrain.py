"""`otcxr-sk pretrain`."""

import os
import time
from ast import literal_eval
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import click

from otcxr_sk._quote import counted, quoted
from otcxr_sk.cli import _options as options
from otcxr_sk.cli._data import find_images, near, only, read_labelled


@click.command(
    short_help="Learn an encoder from images without labels.",
    epilog=options.examples(
        "otcxr-sk pretrain images/ --out model",
        "otcxr-sk pretrain images/ --labels patients.csv --out model --epochs 20",
        "otcxr-sk pretrain images/ --out model --preset full --encoder resnet34 --cache cache/",
        "otcxr-sk pretrain images/ --out model --set views__erase=0.2 --set optimizer=lars",
    ),
)
@options.data
@options.path("--out", required=True, help="Folder for the model.")
@options.path(
    "--labels",
    metavar="CSV",
    help="Table with the columns path and patient_id: only its images are used, and its patients "
    "are remembered.  [default: all images, of unknown patients]",
)
@click.option(
    "--preset",
    type=click.Choice(["laptop", "full"]),
    default="laptop",
    help="Start from LAPTOP (a few thousand images, CPU) or from the library's defaults (GPU).",
)
@click.option("--encoder", metavar="NAME", help="A timm model.  [default: the preset's]")
@options.path("--weights", help="File or folder of weights to start from.")
@click.option("--image-size", type=click.IntRange(1), help="In pixels.  [default: the preset's]")
@click.option("--epochs", type=click.IntRange(0), help="[default: the preset's]")
@click.option("--batch-size", type=click.IntRange(2), help="[default: the preset's]")
@click.option(
    "--set",
    "others",
    multiple=True,
    metavar="NAME=VALUE",
    help="Any parameter of OTCXRPretrainer, also of its groups.",
)
@options.path("--cache", help="Folder that keeps decoded images.")
@options.path(
    "--checkpoint",
    help="Folder that the run is saved to.  [default: OUT.run]",
)
@options.on_error("Stop before training at images that cannot be used, or leave them out and warn.")
@options.overwrite
@options.seed
@options.device
@options.workers
@options.as_json
def pretrain(
    data: tuple[Path, ...],
    out: Path,
    labels: Path | None,
    preset: str,
    others: tuple[str, ...],
    checkpoint: Path | None,
    overwrite: bool,
    seed: int,
    workers: int | None,
    as_json: bool,
    **chosen: Any,
) -> None:
    """Pre-train an encoder on images without labels.

    DATA are folders, image files, one .npz, or - for paths on stdin, one a line. With --labels,
    the images are those of the table, and its patients are remembered by `seen`.

    The run is saved as it goes. After Ctrl-C, or a crash, the same command goes on with it. The
    model is a folder as save_pretrained writes it: no pickle, no name of a file or patient.
    """
    if os.path.lexists(out) and not _is_model(out):
        raise ValueError(f"{quoted(str(out))} is no model, so it is not replaced; choose another")
    options.require_output(out, overwrite)
    run = checkpoint or out.with_name(f"{out.name}.run")
    from otcxr_sk import LAPTOP, OTCXRPretrainer
    from otcxr_sk.training import join_processes

    given = {
        **(LAPTOP if preset == "laptop" else {}),
        **{name: value for name, value in chosen.items() if value is not None},
        "num_workers": "auto" if workers is None else workers,
        "random_state": seed,
        "checkpoint": run,
        "verbose": int(options.shows_progress()),
    }
    estimator = OTCXRPretrainer(**given)
    estimator.set_params(**_parse(others, estimator.get_params(deep=False)))
    X, groups = _read(data, labels)
    if len(X) < 2:
        raise ValueError(f"at least 2 images are needed, got {len(X)}")
    # Of those that torchrun has started, one writes and tells.
    is_first = join_processes(estimator.device).is_first
    if is_first:
        options.note(
            f"Pre-training on {len(X)} images for {counted(estimator.epochs, 'epoch')}; "
            f"`otcxr-sk info {run}` tells how far it is."
        )
    started = time.perf_counter()
    try:
        estimator.fit(X, groups=groups)
    except KeyboardInterrupt:
        if any(run.glob("checkpoint-*")):
            raise KeyboardInterrupt(
                f"interrupted; the run is saved in {run}: the same command goes on with it"
            ) from None
        raise
    if not is_first:
        return
    estimator.save_pretrained(out, overwrite=overwrite)
    result = {
        "model": str(out),
        "images": estimator.n_images_,
        "patients": estimator.n_patients_,
        "left_out": len(estimator.skipped_),
        "epochs": estimator.n_epochs_,
        "seconds": round(time.perf_counter() - started, 1),
        **{name: values[-1] for name, values in estimator.history_.items() if values},
    }
    if run.is_dir():
        options.note(f"The run in {run} is not needed any more, unless you train on.")
    if as_json:
        options.show_json(result)
    else:
        options.show(options.aligned(result))


def _is_model(out: Path) -> bool:
    """Whether save_pretrained would replace what is there, known before hours of training."""
    if not out.is_dir() or out.is_symlink():
        return False
    names = {one.name for one in out.iterdir() if one.suffix != ".safetensors"}
    return "config.json" in names and names <= {"config.json", "README.md", "SHA256SUMS"}


def _read(data: Sequence[Path], labels: Path | None) -> tuple[Any, Any]:
    if labels is None:
        return find_images(data), None
    found = read_labelled(only(data, "--labels"), labels)
    return found.X, found.groups


def _parse(others: Sequence[str], known: Collection[str]) -> dict[str, Any]:
    parsed = {}
    for text in others:
        name, sign, value = text.partition("=")
        if not sign:
            raise click.UsageError(f"--set takes NAME=VALUE, got {text!r}")
        if name.partition("__")[0] not in known:
            raise ValueError(
                f"--set knows no parameter {quoted(name)}{near(name, known)}; those of "
                "OTCXRPretrainer are in its documentation"
            )
        try:
            parsed[name] = literal_eval(value)
        except (ValueError, SyntaxError):
            parsed[name] = value
    return parsed
