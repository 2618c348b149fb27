"""`otcxr-sk demo`."""

import time
import warnings
from collections.abc import Iterable, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from otcxr_sk._files import create_folder, replacing, require_writable
from otcxr_sk._quote import brief, cell, counted, listed
from otcxr_sk.cli import _options as options
from otcxr_sk.cli._data import has_both_classes, read_labelled

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from sklearn.pipeline import Pipeline

    from otcxr_sk import OTCXRPretrainer
    from otcxr_sk.datasets import Radiographs

    Labels = Mapping[str, NDArray[Any]]

# What two cores without bfloat16 do in less than three minutes. So few images make too few steps in
# batches as large as those of LAPTOP.
DEMO_PATIENTS = 500
DEMO_SIZE = 96
DEMO = {"image_size": 48, "batch_size": 64, "epochs": 8}
# Steps by which the time of all is estimated.
_TIMED = 2


@click.command(
    short_help="Go the whole way on synthetic X-rays: pre-train, predict, save.",
    epilog=options.examples(
        "otcxr-sk demo",
        "otcxr-sk demo --data images/ --labels labels.csv --out results",
    ),
)
@options.path(
    "--data",
    metavar="DIR_OR_NPZ",
    help="Folder of images, or .npz; synthetic radiographs by default.",
)
@options.path("--labels", metavar="CSV", help="Columns path, patient_id, labels.")
@options.path("--out", default="otcxr_demo", help="Folder for the results.")
@click.option(
    "--epochs", type=click.IntRange(0), help="Training epochs.  [default: 8, or 12 with --data]"
)
@options.seed
def demo(data: Path | None, labels: Path | None, out: Path, epochs: int | None, seed: int) -> None:
    """Go the whole way on synthetic X-rays or your own (extra `plots`).

    Pre-trains on images without labels; predicts findings on unseen patients from the embedding,
    from raw pixels and from an untrained encoder; saves and reloads the model. Takes two to three
    minutes on two free cores.
    """
    if labels and not data:
        raise click.UsageError("--labels needs --data")
    from otcxr_sk.plotting import MatchingDisplay

    MatchingDisplay.require_matplotlib()
    import numpy as np
    from sklearn.model_selection import GroupShuffleSplit
    from sklearn.pipeline import Pipeline

    from otcxr_sk import LAPTOP, OTCXRPretrainer
    from otcxr_sk.evaluation import linear_probe, make_probe, pixel_features

    found = _read(data, labels, seed)
    X, groups = np.asarray(found.X), found.groups
    by_name = dict(zip(found.label_names, found.labels.T, strict=True))
    if len(np.unique(groups)) < 2:
        raise ValueError("the demo needs images of at least 2 patients, one for test")
    split = GroupShuffleSplit(1, test_size=0.3, random_state=seed)
    train, test = next(split.split(X, groups=groups))
    targets = {name: y for name, y in by_name.items() if has_both_classes(y[train])}
    if not targets:
        raise ValueError(
            "the demo needs a label that is 0 for some of the training images and 1 for others; "
            f"labels found: {listed(by_name) or 'none'}. Add labels (--labels) or images"
        )
    create_folder(out)
    require_writable(out)
    left_out = {name: "only one class in training" for name in by_name if name not in targets}
    options.note_left_out(found.get("ignored", {}) | left_out)

    settings = {**LAPTOP, "random_state": seed, "verbose": int(options.shows_progress())}
    if data is None:
        settings |= DEMO
    if epochs is not None:
        settings["epochs"] = epochs
    untrained = OTCXRPretrainer(**{**settings, "epochs": 0, "verbose": 0}).fit(X[train])
    options.note(
        f"{counted(len(X), 'image')} of {len(np.unique(groups))} patients. Pre-training on "
        f"{counted(len(train), 'image')} without labels{_time(settings, X[train])}; the other "
        f"{len(test)} are of unseen patients."
    )
    started = time.perf_counter()
    encoder = OTCXRPretrainer(**settings).fit(X[train])
    options.note(f"Pre-trained in {time.perf_counter() - started:.0f} s. {_matching(encoder)}")

    Z = encoder.transform(X)
    features = {"raw pixels": pixel_features(X), "untrained": untrained.transform(X), "otcxr": Z}
    scores = {
        name: [linear_probe(F, y, groups, train=train, test=test) for F in features.values()]
        for name, y in targets.items()
        if has_both_classes(y[test])
    }
    _print_table(features, {name: y[test] for name, y in targets.items()}, scores)

    pipelines, predictions = {}, {}
    for name, y in targets.items():
        known = train[~np.isnan(y[train])]
        probe = make_probe().fit(Z[known], y[known])
        pipelines[name] = Pipeline([("otcxr", encoder), ("probe", probe)])
        predictions[name] = probe.predict_proba(Z[test])[:, 1]
    _save(pipelines, out / "model.joblib", X[test], predictions)
    encoder.save_pretrained(out / "encoder", overwrite=True)
    _write(out / "predictions.csv", test, predictions, targets)
    display = MatchingDisplay.from_estimator(encoder, X[test[:3]], random_state=seed)
    with replacing(out / "matching.png") as file:
        display.figure_.savefig(file, format="png", dpi=120)

    options.show(
        "Saved and reloaded the model; its predictions are the same. Results:\n"
        f"  {out / 'model.joblib'}: a Pipeline for each finding, for joblib.load\n"
        f"  {out / 'encoder'}: the encoder, for `otcxr-sk embed` and from_pretrained\n"
        f"  {out / 'predictions.csv'}: predictions and truth of unseen patients, by row\n"
        f"  {out / 'matching.png'}: which parts of two views were matched"
    )


def _read(data: Path | None, labels: Path | None, seed: int) -> "Radiographs":
    from otcxr_sk.datasets import make_chest_phantoms

    if data:
        return read_labelled(data, labels)
    options.note(
        "Drawing synthetic chest radiographs; all takes two to three minutes on two free cores ..."
    )
    return make_chest_phantoms(DEMO_PATIENTS, image_size=DEMO_SIZE, random_state=seed)


def _time(settings: Mapping[str, Any], X: Any) -> str:
    """Say how long training will take, by a few steps of it."""
    from otcxr_sk import OTCXRPretrainer

    steps = -(-len(X) // settings["batch_size"]) * settings["epochs"]
    if steps <= 4 * _TIMED:
        return ""
    few = OTCXRPretrainer(**{**settings, "epochs": 1, "verbose": 0})
    with warnings.catch_warnings():
        # Of images that will be told of, and of a collapse in so few steps.
        warnings.simplefilter("ignore")
        # The first step of a program takes longer.
        few.fit(X[: settings["batch_size"]])
        started = time.perf_counter()
        few.fit(X[: _TIMED * settings["batch_size"]])
    seconds = (time.perf_counter() - started) / _TIMED * steps
    return f", for about {seconds:.0f} s" if seconds < 90 else f", for about {seconds / 60:.0f} min"


def _matching(encoder: "OTCXRPretrainer") -> str:
    if not encoder.n_epochs_:
        return "The encoder is untrained."
    accuracy, chance = (encoder.history_[f"matching_{name}"][-1] for name in ("accuracy", "chance"))
    return f"Matching accuracy {accuracy:.2f} (chance {chance:.2f})."


def _print_table(
    columns: Iterable[str], truth: "Labels", scores: Mapping[str, Sequence[float]]
) -> None:
    import numpy as np

    title = "AUC on unseen patients"
    shown = {name: brief(name) for name in truth}
    width = max(map(len, [title, *shown.values()]))
    click.echo(f"\n{title:<{width}}{'positive':>15}" + "".join(f"{name:>12}" for name in columns))
    for name, text in shown.items():
        known = truth[name][~np.isnan(truth[name])]
        count = f"{int(known.sum())} of {len(known)}"
        if name in scores:
            cells = "".join(f"{auc:>12.3f}" for auc in scores[name])
            click.echo(f"{text:<{width}}{count:>15}{cells}")
        else:
            click.echo(f"{text:<{width}}{count:>15}  no AUC: only one class in test")
    if scores:
        mean = np.mean(list(scores.values()), axis=0)
        click.echo(f"{'mean':<{width}}{'':>15}" + "".join(f"{auc:>12.3f}" for auc in mean) + "\n")


def _save(
    pipelines: "dict[str, Pipeline]", file: Path, X: Any, predictions: "Mapping[str, Any]"
) -> None:
    """Save pipelines and check that the first one, reloaded, predicts the same from `X`."""
    import joblib
    import numpy as np

    with replacing(file) as opened:
        joblib.dump(pipelines, opened, compress=1)
        opened.seek(0)
        # Before it has a name by which somebody could exchange it.
        name, reloaded = next(iter(joblib.load(opened).items()))
    if not np.allclose(reloaded.predict_proba(X)[:, 1], predictions[name], rtol=1e-4, atol=1e-6):
        raise RuntimeError("the predictions of the reloaded model differ")


def _write(file: Path, rows: "NDArray[Any]", predictions: "Labels", truth: "Labels") -> None:
    """Write probability and truth of each target, by rows of the input: its owner has the names."""
    import csv

    columns = {}
    for name, shares in predictions.items():
        columns[name] = [f"{share:.4f}" for share in shares]
        known = truth[name][rows].tolist()
        columns[f"{name} (truth)"] = ["" if value != value else f"{value:g}" for value in known]
    with replacing(file) as opened:
        text = TextIOWrapper(opened, "utf-8", newline="")
        writer = csv.writer(text)
        writer.writerow(["row", *map(cell, columns)])
        writer.writerows(zip(rows, *columns.values(), strict=True))
        # Closing it would close the file, too.
        text.detach()
