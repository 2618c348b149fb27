"""`otcxr-sk report`."""

from pathlib import Path

import click

from otcxr_sk.cli._data import choose_labels, load_encoder, only, read_labelled
from otcxr_sk.cli._options import (
    PathType,
    data_argument,
    device_option,
    examples,
    labels_option,
    model_argument,
    note,
    overwrite_option,
    require_output,
    seed_option,
    workers_option,
)


@click.command(
    short_help="Write a page by which to judge an encoder.",
    epilog=examples(
        "otcxr-sk report model images/ --labels labels.csv --out report.html",
        "otcxr-sk report model data.npz --label effusion --label cardiomegaly",
    ),
)
@model_argument
@data_argument
@labels_option
@click.option("--label", "names", multiple=True, metavar="NAME", help="Only these labels.")
@click.option("--out", type=PathType(), default="report.html", help="The page, for a browser.")
@click.option("--title", default="Report on an encoder of chest X-rays", help="Its heading.")
@overwrite_option
@seed_option
@device_option
@workers_option
def report(
    model: Path,
    data: tuple[Path, ...],
    labels: Path | None,
    names: tuple[str, ...],
    out: Path,
    title: str,
    overwrite: bool,
    seed: int,
    device: str,
    workers: int | None,
) -> None:
    """Write one HTML page by which to judge an encoder (extra `plots`).

    DATA is a folder of images, or an .npz, with patients. The page names no patient and no file,
    but it shows X-rays.
    """
    require_output(out, overwrite, ".html")
    import numpy as np

    from otcxr_sk import plotting

    found = read_labelled(only(data, "report"), labels)
    targets = choose_labels(found, names)
    encoder = load_encoder(model, device, workers, "warn")
    plotting.report(
        encoder,
        found.X,
        np.stack([*targets.values()], axis=1) if targets else None,
        groups=found.groups,
        path=out,
        title=title,
        label_names=list(targets) or None,
        random_state=seed,
    )
    note(f"{out}: {out.stat().st_size / 1e6:.1f} MB")
