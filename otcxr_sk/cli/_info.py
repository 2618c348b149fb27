"""`otcxr-sk info`."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from platform import platform, python_version
from typing import Any

import click

from otcxr_sk._version import __version__
from otcxr_sk.cli import _options as options
from otcxr_sk.cli._data import load_model, read_config, require_existing

_PACKAGES = (
    "torch", "timm", "scikit-learn", "numpy", "pydicom", "pillow", "imagecodecs", "onnxruntime",
    "matplotlib", "pyarrow",
)  # fmt: skip


@click.command(
    short_help="Describe a run, a model, or this installation.",
    epilog=options.examples(
        "otcxr-sk info",
        "otcxr-sk info model.run",
        "otcxr-sk info model --json | jq .history.loss",
    ),
)
@click.argument("run", type=options.PathType(), required=False)
@options.as_json
def info(run: Path | None, as_json: bool) -> None:
    """Describe a training run, even while it is running, or a saved model or encoder.

    RUN is a checkpoint folder, a folder of save_pretrained, or a file of save_encoder. Nothing is
    changed. Without RUN, versions are told: put them into a report of a problem.
    """
    if run is None:
        versions = _versions()
        found, text = versions, options.aligned(versions)
    elif (require_existing(run) / "config.json").exists():
        found, text = _model(run)
    else:
        from otcxr_sk.training import describe, facts

        found, text = facts(run), describe(run)
    if as_json:
        options.show_json(found)
    else:
        options.show(text)


def _versions() -> dict[str, Any]:
    versions = {"otcxr-sk": __version__, "python": python_version(), "system": platform()}
    for name in _PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _model(folder: Path) -> tuple[dict[str, Any], str]:
    model = load_model(folder)
    encoder = getattr(model, "pretrainer_", model)
    rows = {
        "estimator": type(model).__name__,
        "encoder": encoder.encoder_name_,
        "embedding": f"{encoder.embedding_dim_} numbers",
        "images": encoder.n_images_,
        "patients": encoder.n_patients_,
        "epochs": encoder.n_epochs_,
        **{name: values[-1] for name, values in encoder.history_.items() if values},
    }
    text = f"{folder}\n{options.aligned(rows, '  ')}\n\n{model!r}"
    return {"folder": str(folder), **read_config(folder)}, text
