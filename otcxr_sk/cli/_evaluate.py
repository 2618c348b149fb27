"""`otcxr-sk evaluate`."""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otcxr_sk._quote import brief
from otcxr_sk.cli._data import choose_labels, column, load_encoder, only, read_labelled
from otcxr_sk.cli._options import (
    data_argument,
    device_option,
    examples,
    json_option,
    labels_option,
    model_argument,
    note,
    seed_option,
    shows_progress,
    workers_option,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from otcxr_sk.datasets import Radiographs


@click.command(
    short_help="Judge an embedding by labels of unseen patients.",
    epilog=examples(
        "otcxr-sk evaluate model images/ --labels labels.csv",
        "otcxr-sk evaluate model data.npz --label effusion --json | jq '.labels[].auc'",
        "otcxr-sk evaluate model images/ --labels labels.csv --split part",
    ),
)
@model_argument
@data_argument
@labels_option
@click.option("--label", "names", multiple=True, metavar="NAME", help="Only these labels.")
@click.option(
    "--split",
    metavar="COLUMN",
    help="Column of the table that says train or test; other rows are not used.  [default: a "
    "third of the patients is drawn for test]",
)
@seed_option
@device_option
@workers_option
@json_option
def evaluate(
    model: Path,
    data: tuple[Path, ...],
    labels: Path | None,
    names: tuple[str, ...],
    split: str | None,
    seed: int,
    device: str,
    workers: int | None,
    as_json: bool,
) -> None:
    """Tell how good an embedding is for labels, beside raw pixels, on patients kept apart.

    DATA is a folder of images, or an .npz. For each label, a logistic regression on the embedding
    is fitted on training patients and judged on test patients by the area under the ROC curve
    (AUC), and so is one on 16 x 16 pixels; the interval (95 %) of the difference is over test
    patients. Do not evaluate on patients that the encoder was pre-trained on.
    """
    import numpy as np

    from otcxr_sk.evaluation import pixel_features

    found = read_labelled(only(data, "evaluate"), labels)
    parts = _parts(found, split, seed)
    chosen = choose_labels(found, names)
    if split:
        chosen = {name: y for name, y in chosen.items() if name.split("=")[0] != split}
    judged = {name: y for name, y in chosen.items() if not _one_class(y, parts)}
    if not judged:
        raise ValueError(
            "no label is 0 for some and 1 for other images in both training and test: "
            + ("add labels or images" if chosen else "the table has no label; add a column of one")
        )
    encoder = load_encoder(model, device, workers, "raise")
    note(
        f"{len(found.groups)} images, {len(parts['train'])} of them for training and "
        f"{len(parts['test'])} for test"
    )
    encoder.set_params(verbose=int(shows_progress()))
    # First, as it refuses what cannot be read.
    embedding = encoder.transform(found.X)
    features = {"pixels": pixel_features(found.X), "embedding": embedding}
    rows = [_judge(name, y, features, found.groups, parts, seed) for name, y in judged.items()]
    left_out = {
        name: _one_class(y, parts) for name, y in chosen.items() if name not in judged
    } | dict(found.get("ignored", {}))
    if as_json:
        whole = {
            **{part: len(kept) for part, kept in parts.items()},
            "test_patients": len(np.unique(found.groups[parts["test"]])),
            "labels": rows,
            "left_out": left_out,
        }
        click.echo(json.dumps(whole))
        return
    click.echo(_table(rows))
    for name, why in left_out.items():
        note(f"left out: {brief(name)}: {why}")


def _parts(data: "Radiographs", split: str | None, seed: int) -> "dict[str, NDArray[Any]]":
    import numpy as np

    from otcxr_sk.evaluation import MultilabelStratifiedGroupKFold

    if split is None:
        y = data.labels if data.labels.size else np.zeros((len(data.groups), 1))
        folds = MultilabelStratifiedGroupKFold(3, shuffle=True, random_state=seed)
        with warnings.catch_warnings():
            # Of classes that a part lacks: such labels are told of by name.
            warnings.simplefilter("ignore", UserWarning)
            train, test = next(folds.split(y, y, data.groups))
        return {"train": train, "test": test}
    values = np.array([value.strip().lower() for value in column(data, split)])
    parts = {part: np.flatnonzero(values == part) for part in ("train", "test")}
    for part, rows in parts.items():
        if not len(rows):
            raise ValueError(f"no row of column {split!r} is {part!r}; write train and test there")
    return parts


def _one_class(y: "NDArray[Any]", parts: "Mapping[str, NDArray[Any]]") -> str:
    """Return why a label cannot be judged; "" if it can."""
    for part, rows in parts.items():
        if not {0, 1} <= set(y[rows].tolist()):
            return f"only one class in {part}"
    return ""


def _judge(
    name: str,
    y: "NDArray[Any]",
    features: "Mapping[str, NDArray[Any]]",
    groups: "NDArray[Any]",
    parts: "Mapping[str, NDArray[Any]]",
    seed: int,
) -> dict[str, Any]:
    import numpy as np

    from otcxr_sk.evaluation import compare

    found = compare(
        features,
        y,
        groups,
        train=parts["train"],
        test=parts["test"],
        reference="pixels",
        fractions=(1.0,),
        random_state=seed,
    )
    pixels, embedding = found.rows()
    counts = {
        f"{part}_{what}": int((y[rows] == value).sum())
        for part, rows in parts.items()
        for what, value in (("positive", 1), ("negative", 0))
    }
    numbers = {
        "auc": embedding["score"],
        "auc_pixels": pixels["score"],
        **{key: embedding[key] for key in ("difference", "low", "high")},
    }
    return {
        "label": name,
        **counts,
        # JSON knows no NaN.
        **{key: value if np.isfinite(value) else None for key, value in numbers.items()},
    }


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    names = [brief(row["label"]) for row in rows]
    width = max(map(len, ["label", *names]))
    lines = [
        f"{'label':<{width}}  {'positive in test':>16}  pixels  embedding  difference "
        "(95 % interval)"
    ]
    for name, row in zip(names, rows, strict=True):
        positive, negative = row["test_positive"], row["test_negative"]
        low, high = (math.nan if row[key] is None else row[key] for key in ("low", "high"))
        lines.append(
            f"{name:<{width}}  {f'{positive} of {positive + negative}':>16}  "
            f"{row['auc_pixels']:>6.3f}  {row['auc']:>9.3f}  "
            f"{row['difference']:+.3f} ({low:+.3f} to {high:+.3f})"
        )
    return "\n".join(lines)
