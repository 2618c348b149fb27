"""Command line: `otcxr-sk demo` and `otcxr-sk info`."""

from __future__ import annotations

import argparse
import csv
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from sklearn.utils import Bunch

    from otcxr_sk import OTCXRPretrainer

# Enough for embeddings to pass raw pixels on most findings, in minutes on two cores: so few images
# need more passes than the laptop setting has.
DEMO_PATIENTS = 700
DEMO_SIZE = 96
DEMO_EPOCHS = 24


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="otcxr-sk", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="pre-train, embed, predict findings on unseen patients, save and reload",
        description="Pre-train on unlabelled images, predict findings on unseen patients from "
        "the embedding, from raw pixels and from the untrained encoder, save and reload the "
        "model. Without --data, on synthetic chest radiographs.",
    )
    demo.add_argument("--data", type=Path, metavar="DIR_OR_NPZ", help="folder of images, or .npz")
    demo.add_argument(
        "--labels", type=Path, metavar="CSV", help="columns path, patient_id, and one per label"
    )
    demo.add_argument("--out", type=Path, default=Path("otcxr_demo"), help="folder for the results")
    demo.add_argument("--epochs", type=int, default=None, help="passes over the training images")
    demo.add_argument("--seed", type=int, default=0, help="of the split and of the training")
    info = commands.add_parser(
        "info",
        help="tell what a run is and how far it has come, also while it goes on",
        description="Tell what a run is, how far it has come and whether its newest checkpoint is "
        "whole, also while it goes on; or what a saved encoder is. Changes nothing.",
    )
    info.add_argument(
        "run", type=Path, metavar="RUN", help="a checkpoint_dir, or a file of save_encoder"
    )
    options = parser.parse_args(argv)
    try:
        if options.command == "info":
            return _info(options)
        if options.labels and not options.data:
            demo.error("--labels goes with --data")
        return _demo(options)
    except (ValueError, OSError, ImportError) as error:
        print(f"otcxr-sk: {error}", file=sys.stderr)
        return 2


def _info(options: argparse.Namespace) -> int:
    from otcxr_sk.training.inspection import describe

    print(describe(options.run))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from otcxr_sk.plotting import MatchingDisplay

    MatchingDisplay.require_matplotlib()
    import joblib
    from sklearn.model_selection import GroupShuffleSplit
    from sklearn.pipeline import Pipeline

    from otcxr_sk import LAPTOP, OTCXRPretrainer
    from otcxr_sk.datasets import load_labelled, make_chest_phantoms
    from otcxr_sk.evaluation import make_probe

    options.out.mkdir(parents=True, exist_ok=True)
    if options.data:
        data = load_labelled(options.data, options.labels)
        images = data.X
    else:
        print("Drawing synthetic chest radiographs ...")
        data = make_chest_phantoms(DEMO_PATIENTS, image_size=DEMO_SIZE, random_state=options.seed)
        images = data.images
    split = GroupShuffleSplit(1, test_size=0.3, random_state=options.seed)
    train, test = next(split.split(data.groups, groups=data.groups))
    print(
        f"{len(data.groups)} images of {len(np.unique(data.groups))} patients; pre-training on "
        f"{len(train)} images without labels, patients of the other {len(test)} unseen"
    )

    settings = dict(LAPTOP, random_state=options.seed, verbose=1)
    if not options.data:
        settings["epochs"] = DEMO_EPOCHS
    if options.epochs is not None:
        settings["epochs"] = options.epochs
    started = time.perf_counter()
    encoder = OTCXRPretrainer(**settings).fit(_rows(images, train))
    print(f"Pre-trained in {time.perf_counter() - started:.0f} s. {_learnt(encoder)}")

    untrained = OTCXRPretrainer(**{**settings, "epochs": 0, "verbose": 0})
    features = {
        "raw pixels": _pixels(images),
        "untrained": untrained.fit(_rows(images, train)).transform(images),
        "otcxr": encoder.transform(images),
    }
    _print_table(data, features, train, test)

    pipelines = {}
    for name, y in zip(data.label_names, np.asarray(data.labels, float).T, strict=True):
        known = train[~np.isnan(y[train])]
        if len(np.unique(y[known])) == 2:
            probe = make_probe().fit(features["otcxr"][known], y[known])
            pipelines[name] = Pipeline([("otcxr", encoder), ("probe", probe)])
    model_file = options.out / "model.joblib"
    joblib.dump(pipelines, model_file, compress=1)
    reloaded = joblib.load(model_file)
    predictions = {
        name: pipeline["probe"].predict_proba(features["otcxr"][test])[:, 1]
        for name, pipeline in pipelines.items()
    }
    first = next(iter(reloaded))
    again = reloaded[first].predict_proba(_rows(images, test))[:, 1]
    if not np.allclose(again, predictions[first], rtol=1e-4, atol=1e-6):
        print("otcxr-sk: the reloaded model predicts something else", file=sys.stderr)
        return 1
    with open(options.out / "predictions.csv", "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["row", "patient_id", *predictions])
        for place, row in enumerate(test):
            values = (f"{column[place]:.4f}" for column in predictions.values())
            writer.writerow([row, data.groups[row], *values])
    display = MatchingDisplay.from_estimator(
        encoder, _rows(images, test[:3]), random_state=options.seed
    )
    display.figure_.savefig(options.out / "matching.png", dpi=120)

    print("Saved, reloaded, same predictions. Results:")
    print(f"  {model_file}: {model_file.stat().st_size / 1e6:.0f} MB, a Pipeline per finding")
    print(f"  {options.out / 'predictions.csv'}: findings of unseen patients")
    print(f"  {options.out / 'matching.png'}: what was matched with what")
    return 0


def _rows(images: Any, rows: np.ndarray) -> Any:
    return [images[row] for row in rows] if isinstance(images, list) else images[rows]


def _pixels(images: Any) -> np.ndarray:
    from otcxr_sk.images import ArraySource, PathSource

    source = PathSource(images) if isinstance(images, list) else ArraySource(images)
    return source.read(np.arange(len(source)), 16).reshape(len(source), -1)


def _learnt(encoder: OTCXRPretrainer) -> str:
    if not encoder.n_epochs_:
        return "The encoder is untrained."
    accuracy, chance = (
        encoder.history_[name][-1] for name in ("matching_accuracy", "matching_chance")
    )
    return f"Matching accuracy {accuracy:.2f} (chance {chance:.2f})."


def _print_table(
    data: Bunch, features: dict[str, np.ndarray], train: np.ndarray, test: np.ndarray
) -> None:
    from otcxr_sk.evaluation import linear_probe

    title = "AUC on unseen patients"
    width = max(map(len, [title, *data.label_names]))
    print(f"\n{title:<{width}}" + "".join(f"{name:>12}" for name in features))
    means = []
    for name, y in zip(data.label_names, np.asarray(data.labels, float).T, strict=True):
        known = [rows[~np.isnan(y[rows])] for rows in (train, test)]
        if any(len(np.unique(y[rows])) < 2 for rows in known):
            print(f"{name:<{width}}  one class only in train or test, left out")
            continue
        scores = [
            linear_probe(Z, y, data.groups, train=known[0], test=known[1])
            for Z in features.values()
        ]
        means.append(scores)
        print(f"{name:<{width}}" + "".join(f"{score:>12.3f}" for score in scores))
    if means:
        row = "".join(f"{score:>12.3f}" for score in np.mean(means, axis=0))
        print(f"{'mean':<{width}}{row}\n")


if __name__ == "__main__":
    sys.exit(main())
