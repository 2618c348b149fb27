"""`otcxr-sk report`."""

from pathlib import Path
from typing import Any

import click

from otcxr_sk.cli import _options as options
from otcxr_sk.cli._data import choose_labels, load_encoder, only, read_labelled


@click.command(
    short_help="Write a page by which to judge an encoder.",
    epilog=options.examples(
        "otcxr-sk report model images/ --labels labels.csv --out report.html",
        "otcxr-sk report model data.npz --label effusion --label cardiomegaly",
    ),
)
@options.model
@options.data
@options.labels
@options.names
@options.path("--out", default="report.html", help="The page, for a browser.")
@click.option("--title", default="Report on an encoder of chest X-rays", help="Its heading.")
@options.overwrite
@options.seed
@options.device
@options.workers
def report(
    model: Path,
    data: tuple[Path, ...],
    labels: Path | None,
    names: tuple[str, ...],
    out: Path,
    title: str,
    overwrite: bool,
    seed: int,
    **machine: Any,
) -> None:
    """Write one HTML page by which to judge an encoder (extra `plots`).

    DATA is a folder of images, or an .npz, with patients. The page names no patient and no file,
    but it shows X-rays.
    """
    options.require_output(out, overwrite, ".html")
    import numpy as np

    from otcxr_sk import plotting

    found = read_labelled(only(data, "report"), labels)
    targets = choose_labels(found, names)
    plotting.report(
        load_encoder(model, "warn", **machine),
        found.X,
        np.stack([*targets.values()], axis=1) if targets else None,
        groups=found.groups,
        path=out,
        title=title,
        label_names=list(targets) or None,
        random_state=seed,
    )
    options.note_size(out)
