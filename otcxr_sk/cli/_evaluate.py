"""`otcxr-sk evaluate`."""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otcxr_sk._quote import brief, counted
from otcxr_sk.cli import _options as options
from otcxr_sk.cli._data import (
    choose_labels,
    column,
    has_both_classes,
    load_encoder,
    only,
    read_labelled,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from otcxr_sk.datasets import Radiographs

    Parts = Mapping[str, NDArray[Any]]


@click.command(
    short_help="Judge an embedding by labels of unseen patients.",
    epilog=options.examples(
        "otcxr-sk evaluate model images/ --labels labels.csv",
        "otcxr-sk evaluate model data.npz --label effusion --json | jq '.labels[].auc'",
        "otcxr-sk evaluate model images/ --labels labels.csv --split part",
    ),
)
@options.model
@options.data
@options.labels
@options.names
@click.option(
    "--split",
    metavar="COLUMN",
    help="Column of the table that says train or test; other rows are not used.  [default: a "
    "third of the patients is drawn for test]",
)
@options.seed
@options.device
@options.workers
@options.as_json
def evaluate(
    model: Path,
    data: tuple[Path, ...],
    labels: Path | None,
    names: tuple[str, ...],
    split: str | None,
    seed: int,
    as_json: bool,
    **machine: Any,
) -> None:
    """Tell how good an embedding is for labels, beside raw pixels, on patients kept apart.

    DATA is a folder of images, or an .npz. For each label, a logistic regression on the embedding
    is fitted on training patients and judged on test patients by the area under the ROC curve
    (AUC), and so is one on 16 x 16 pixels; the interval (95 %) of the difference is over test
    patients. Do not evaluate on patients that the encoder was pre-trained on.
    """
    from otcxr_sk.evaluation import pixel_features

    found = read_labelled(only(data, "evaluate"), labels)
    parts = _parts(found, split, seed)
    chosen = {
        name: y for name, y in choose_labels(found, names).items() if name.split("=")[0] != split
    }
    left_out = {name: why for name, y in chosen.items() if (why := _one_class(y, parts))}
    if len(left_out) == len(chosen):
        raise ValueError(
            "no label is 0 for some and 1 for other images in both training and test: "
            + ("add labels or images" if chosen else "the table has no label; add a column of one")
        )
    encoder = load_encoder(model, "raise", **machine)
    options.note(
        f"{counted(len(found.groups), 'image')}, {len(parts['train'])} of them for training and "
        f"{len(parts['test'])} for test"
    )
    encoder.set_params(verbose=int(options.shows_progress()))
    # First, as it refuses what cannot be read.
    embedding = encoder.transform(found.X)
    features = {"pixels": pixel_features(found.X), "embedding": embedding}
    result = {
        **{part: len(rows) for part, rows in parts.items()},
        "test_patients": len({*found.groups[parts["test"]].tolist()}),
        "labels": [
            _judge(name, y, features, found, parts, seed)
            for name, y in chosen.items()
            if name not in left_out
        ],
        "left_out": left_out | found.get("ignored", {}),
    }
    if as_json:
        options.show_json(result)
        return
    options.show(_table(result["labels"]))
    options.note_left_out(result["left_out"])


def _parts(data: "Radiographs", split: str | None, seed: int) -> "Parts":
    import numpy as np

    from otcxr_sk.datasets import check_leakage
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
    check_leakage(data.groups, [(parts["train"], parts["test"])])
    return parts


def _one_class(y: "NDArray[Any]", parts: "Parts") -> str:
    """Return why a label cannot be judged; "" if it can."""
    lacking = [part for part, rows in parts.items() if not has_both_classes(y[rows])]
    return f"only one class in {lacking[0]}" if lacking else ""


def _judge(
    name: str,
    y: "NDArray[Any]",
    features: "Mapping[str, NDArray[Any]]",
    data: "Radiographs",
    parts: "Parts",
    seed: int,
) -> dict[str, Any]:
    from otcxr_sk.evaluation import compare

    found = compare(
        features,
        y,
        data.groups,
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
    return {
        "label": name,
        **counts,
        "auc": embedding["score"],
        "auc_pixels": pixels["score"],
        **{key: embedding[key] for key in ("difference", "low", "high")},
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
        lines.append(
            f"{name:<{width}}  {f'{positive} of {positive + negative}':>16}  "
            f"{row['auc_pixels']:>6.3f}  {row['auc']:>9.3f}  "
            f"{row['difference']:+.3f} ({row['low']:+.3f} to {row['high']:+.3f})"
        )
    return "\n".join(lines)
