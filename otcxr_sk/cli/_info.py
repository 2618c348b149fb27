"""`otcxr-sk info`."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import platform, python_version

import click

from otcxr_sk._quote import plain_text
from otcxr_sk._version import __version__
from otcxr_sk.cli._data import load_model, require_existing
from otcxr_sk.cli._options import PathType, examples

_PACKAGES = (
    "torch", "timm", "scikit-learn", "numpy", "pydicom", "pillow", "imagecodecs", "onnxruntime",
    "matplotlib", "pyarrow",
)  # fmt: skip


@click.command(
    short_help="Describe a run, a model, or this installation.",
    epilog=examples("otcxr-sk info", "otcxr-sk info model.run", "otcxr-sk info model"),
)
@click.argument("run", type=PathType(), required=False)
def info(run: Path | None) -> None:
    """Describe a training run, even while it is running, or a saved model or encoder.

    RUN is a checkpoint folder, a folder of save_pretrained, or a file of save_encoder. Nothing is
    changed. Without RUN, versions are told: put them into a report of a problem.
    """
    if run is None:
        click.echo(_versions())
        return
    require_existing(run)
    if (run / "config.json").exists():
        click.echo(plain_text(_model(run)))
        return
    from otcxr_sk.training import describe

    click.echo(plain_text(describe(run)))


def _versions() -> str:
    rows = {"otcxr-sk": __version__, "python": python_version(), "system": platform()}
    for name in _PACKAGES:
        try:
            rows[name] = version(name)
        except PackageNotFoundError:
            rows[name] = "not installed"
    return _table(rows)


def _model(folder: Path) -> str:
    model = load_model(folder)
    encoder = getattr(model, "pretrainer_", model)
    rows = {
        "estimator": type(model).__name__,
        "encoder": encoder.encoder_name_,
        "embedding": f"{encoder.embedding_dim_} numbers",
        "images": f"{_known(encoder.n_images_)} of {_known(encoder.n_patients_)} patients",
        "epochs": str(encoder.n_epochs_),
        **{name: f"{values[-1]:.4g}" for name, values in encoder.history_.items() if values},
    }
    return f"{folder}\n{_table(rows, '  ')}\n\n{model!r}"


def _known(number: int | None) -> str:
    return "unknown number" if number is None else str(number)


def _table(rows: dict[str, str], indent: str = "") -> str:
    width = max(map(len, rows))
    return "\n".join(f"{indent}{name:<{width}}  {text}" for name, text in rows.items())
