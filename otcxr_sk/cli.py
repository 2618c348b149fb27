"""The commands `otcxr-sk demo` and `otcxr-sk info`."""

from __future__ import annotations

import argparse
import csv
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from otcxr_sk._files import create_folder, replacing
from otcxr_sk._paths import as_path
from otcxr_sk._quote import brief, cell, listed, plain_text

if TYPE_CHECKING:
    from sklearn.pipeline import Pipeline

    from otcxr_sk import OTCXRPretrainer
    from otcxr_sk.datasets import Radiographs

# Enough for the embedding to beat raw pixels on most findings, in minutes on two cores. So few
# images make too few steps in batches as large as those of LAPTOP.
DEMO_PATIENTS = 700
DEMO_SIZE = 96
DEMO_BATCH = 64


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = argparse.ArgumentParser(prog="otcxr-sk", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="pre-train, embed, predict findings on unseen patients, save and reload",
        description="Pre-train on unlabeled images; predict findings on unseen patients from the "
        "embedding, from raw pixels and from an untrained encoder; save and reload the model. "
        "Without --data, synthetic chest radiographs are used.",
    )
    demo.add_argument("--data", type=_path, metavar="DIR_OR_NPZ", help="folder of images, or .npz")
    demo.add_argument(
        "--labels", type=_path, metavar="CSV", help="columns path, patient_id, labels"
    )
    demo.add_argument(
        "--out", type=_path, default=Path("otcxr_demo"), help="folder for the results"
    )
    demo.add_argument("--epochs", type=int, help="training epochs")
    demo.add_argument("--seed", type=int, default=0, help="random seed")
    info = commands.add_parser(
        "info",
        help="describe a training run, even while it is running, or a saved encoder",
        description="Describe a training run, its progress and the state of its newest checkpoint, "
        "even while it is running; or describe a saved encoder. Nothing is changed.",
    )
    info.add_argument("run", type=_path, metavar="RUN", help="checkpoint folder, or saved encoder")
    options = parser.parse_args(argv)
    if options.command == "demo" and options.labels and not options.data:
        demo.error("--labels needs --data")
    try:
        run = _info if options.command == "info" else _demo
        run(options)
        # A closed pipe must be noticed here, not at exit.
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader, such as `head`, has left. Without this, the flush at exit would fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f"{error.filename!r}: " if error.filename else ""
        print(plain_text(f"otcxr-sk: {where}{error.strerror or error}"), file=sys.stderr)
        return 2
    except (ValueError, ImportError) as error:
        print(plain_text(f"otcxr-sk: {error}"), file=sys.stderr)
        return 2
    return 0


def _path(text: str) -> Path:
    # Shells leave the sign alone in `--out=~/folder`.
    return Path(as_path(text))


def _info(options: argparse.Namespace) -> None:
    from otcxr_sk.training import describe

    print(plain_text(describe(options.run)))


def _demo(options: argparse.Namespace) -> None:
    from otcxr_sk.plotting import MatchingDisplay

    MatchingDisplay.require_matplotlib()
    from sklearn.model_selection import GroupShuffleSplit
    from sklearn.pipeline import Pipeline

    from otcxr_sk import LAPTOP, OTCXRPretrainer
    from otcxr_sk.evaluation import linear_probe, make_probe, pixel_features

    create_folder(options.out)
    data = _read(options)
    X, groups = np.asarray(data.X), data.groups
    labels = dict(zip(data.label_names, data.labels.T, strict=True))
    split = GroupShuffleSplit(1, test_size=0.3, random_state=options.seed)
    train, test = next(split.split(X, groups=groups))
    targets = {name: y for name, y in labels.items() if _has_both_classes(y[train])}
    if not targets:
        raise ValueError(
            "the demo needs a label that is 0 for some of the training images and 1 for others; "
            f"labels found: {listed(labels) or 'none'}. Add labels (--labels) or images"
        )
    print(
        f"{len(X)} images of {len(np.unique(groups))} patients. Pre-training on {len(train)} "
        f"images without labels; the other {len(test)} are of unseen patients."
    )

    settings = {**LAPTOP, "random_state": options.seed}
    if not options.data:
        settings["batch_size"] = DEMO_BATCH
    if options.epochs is not None:
        settings["epochs"] = options.epochs
    started = time.perf_counter()
    encoder = OTCXRPretrainer(**settings, verbose=1).fit(X[train])
    print(f"Pre-trained in {time.perf_counter() - started:.0f} s. {_matching(encoder)}")

    untrained = OTCXRPretrainer(**{**settings, "epochs": 0}).fit(X[train])
    Z = encoder.transform(X)
    features = {"raw pixels": pixel_features(X), "untrained": untrained.transform(X), "otcxr": Z}
    scores = {
        name: [linear_probe(F, y, groups, train=train, test=test) for F in features.values()]
        for name, y in targets.items()
        if _has_both_classes(y[test])
    }
    _print_table(features, labels, scores)

    pipelines, predictions = {}, {}
    for name, y in targets.items():
        known = train[~np.isnan(y[train])]
        probe = make_probe().fit(Z[known], y[known])
        pipelines[name] = Pipeline([("otcxr", encoder), ("probe", probe)])
        predictions[name] = probe.predict_proba(Z[test])[:, 1]
    model_file = options.out / "model.joblib"
    _save(pipelines, model_file, X[test], predictions)
    columns = [[f"{share:.4f}" for share in column] for column in predictions.values()]
    table = StringIO(newline="")
    writer = csv.writer(table)
    # Rows of the input, from which its owner knows the patients.
    writer.writerow(["row", *map(cell, predictions)])
    writer.writerows(zip(test, *columns, strict=True))
    with replacing(options.out / "predictions.csv") as file:
        file.write(table.getvalue().encode())
    display = MatchingDisplay.from_estimator(encoder, X[test[:3]], random_state=options.seed)
    with replacing(options.out / "matching.png") as file:
        display.figure_.savefig(file, format="png", dpi=120)

    print("Saved and reloaded the model; its predictions are the same. Results:")
    print(f"  {model_file}: a Pipeline for each finding, {model_file.stat().st_size / 1e6:.0f} MB")
    print(f"  {options.out / 'predictions.csv'}: predicted findings of unseen patients")
    print(f"  {options.out / 'matching.png'}: which parts of two views were matched")


def _read(options: argparse.Namespace) -> Radiographs:
    from otcxr_sk.datasets import load_labelled, make_chest_phantoms

    if options.data:
        return load_labelled(options.data, options.labels)
    print("Drawing synthetic chest radiographs ...")
    return make_chest_phantoms(DEMO_PATIENTS, image_size=DEMO_SIZE, random_state=options.seed)


def _has_both_classes(y: np.ndarray) -> bool:
    return {0, 1} <= set(y)


def _matching(encoder: OTCXRPretrainer) -> str:
    if not encoder.n_epochs_:
        return "The encoder is untrained."
    accuracy, chance = (encoder.history_[f"matching_{name}"][-1] for name in ("accuracy", "chance"))
    return f"Matching accuracy {accuracy:.2f} (chance {chance:.2f})."


def _print_table(
    columns: Iterable[str], labels: Iterable[str], scores: Mapping[str, Sequence[float]]
) -> None:
    title = "AUC on unseen patients"
    shown = {name: brief(name) for name in labels}
    width = max(map(len, [title, *shown.values()]))
    print(f"\n{title:<{width}}" + "".join(f"{name:>12}" for name in columns))
    for name, text in shown.items():
        if name in scores:
            print(f"{text:<{width}}" + "".join(f"{auc:>12.3f}" for auc in scores[name]))
        else:
            print(f"{text:<{width}}  skipped: only one class in train or in test")
    if scores:
        mean = np.mean(list(scores.values()), axis=0)
        print(f"{'mean':<{width}}" + "".join(f"{auc:>12.3f}" for auc in mean) + "\n")


def _save(
    pipelines: dict[str, Pipeline], file: Path, X: np.ndarray, predictions: dict[str, np.ndarray]
) -> None:
    """Save pipelines and check that the first one, reloaded, predicts the same from `X`."""
    import joblib

    with replacing(file) as opened:
        joblib.dump(pipelines, opened, compress=1)
        opened.seek(0)
        # Before it has a name by which somebody could exchange it.
        name, reloaded = next(iter(joblib.load(opened).items()))
    if not np.allclose(reloaded.predict_proba(X)[:, 1], predictions[name], rtol=1e-4, atol=1e-6):
        sys.exit("otcxr-sk: the predictions of the reloaded model differ")


if __name__ == "__main__":
    sys.exit(main())
