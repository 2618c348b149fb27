"""
Few labels: pre-trained embedding, raw pixels, untrained encoder
================================================================

Pre-trains on the images of the training patients, without labels. Then fits a linear probe on the
labels of 1 %, 10 % and 100 % of these patients, and evaluates it on test patients. The test
patients are the same for every seed, so nothing is ever chosen on them. The seed decides the
pre-training and which patients are labeled. All features get the same probe.

    python examples/benchmarks/few_labels.py DATA --classes COLUMN [COLUMN ...]
        [--pair CLASS CLASS]

DATA is an ``.npz`` file with ``images``, ``patient_ids`` and the columns. Values of several columns
are joined by ``/`` to one class. ``--pair`` adds a task with two of the classes. ``--validate``
leaves the test patients out and evaluates on a quarter of the others: use it to choose a setting.
``--figure`` draws the last task of the first seed (needs the extra ``plots``).
"""

import argparse
import time
from pathlib import Path

import numpy as np
from results import write_csv
from study import class_tasks, read_npz, split_off

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.evaluation import compare, pixel_features

PIXELS = "pixels 16x16"
# Images whose views are matched, as one batch.
MATCHED = 256


def embed(images, train, test, settings, seed):
    """Return features of every image by name; encoders are trained on the training images."""
    started = time.perf_counter()
    encoder = OTCXRPretrainer(**settings, random_state=seed, verbose=1).fit(images[train])
    minutes = (time.perf_counter() - started) / 60
    found = encoder.match(images[test[:MATCHED]], random_state=seed)
    print(
        f"seed {seed}: {minutes:.1f} min, matching accuracy on unseen patients "
        f"{found.accuracy:.2f} (chance {found.chance:.2f})"
    )
    untrained = OTCXRPretrainer(**{**settings, "epochs": 0}, random_state=seed)
    return {
        PIXELS: pixel_features(images),
        "untrained": untrained.fit(images[train]).transform(images),
        "otcxr": encoder.transform(images),
    }


def draw(features, y, patients, parts, comparison):
    """Draw the probes of a task, and the health of the embeddings."""
    from matplotlib.figure import Figure

    from otcxr_sk.plotting import (
        ComparisonDisplay,
        EmbeddingHealthDisplay,
        LabelEfficiencyDisplay,
        ProbeDisplay,
    )

    figure = Figure(figsize=(12, 8), layout="constrained")
    (curves, differences), (roc, health) = figure.subplots(2, 2)
    task = features, y, patients
    LabelEfficiencyDisplay.from_features(*task, **parts, random_state=0, ax=curves)
    ComparisonDisplay(comparison).plot(differences)
    ProbeDisplay.from_features(*task, **parts, ax=roc)
    unseen = {name: Z[parts["test"]] for name, Z in features.items()}
    EmbeddingHealthDisplay.from_features(unseen, ax=health)
    return figure


def print_means(table, n_seeds):
    """Print mean and standard deviation over seeds of every score."""
    print(f"AUC on unseen patients, mean and standard deviation of {n_seeds} seeds")
    for key in dict.fromkeys((row["task"], row["fraction"], row["name"]) for row in table):
        rows = [row for row in table if (row["task"], row["fraction"], row["name"]) == key]
        scores = [row["score"] for row in rows]
        deviation = np.std(scores, ddof=1) if len(scores) > 1 else 0.0
        gain = np.mean([row["difference"] for row in rows])
        print(
            f"{key[0]:<24}{key[1]:>6.0%}  {key[2]:<14}{np.mean(scores):.3f} +- {deviation:.3f}"
            f"  over pixels {gain:+.3f}  ({' '.join(f'{score:.3f}' for score in scores)})"
        )


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Linear probes by share of labels.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--classes", nargs="+", required=True, metavar="COLUMN")
    parser.add_argument("--pair", nargs=2, metavar="CLASS")
    parser.add_argument("--validate", action="store_true", help="leave the test patients out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=LAPTOP["epochs"])
    parser.add_argument("--image-size", type=int, default=LAPTOP["image_size"])
    parser.add_argument("--out", type=Path, help="CSV file to write the results of every seed to")
    parser.add_argument("--figure", type=Path, help="file to draw the first seed to")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error("--epochs must be 1 or more; the untrained encoder is in the table anyway")

    images, patients, *columns = read_npz(options.data, *options.classes)
    classes = ["/".join(map(str, values)) for values in zip(*columns, strict=True)]
    tasks = class_tasks(classes, options.pair)
    train, test = split_off(np.arange(len(classes)), patients)
    if options.validate:
        train, test = split_off(train, patients)
    settings = {**LAPTOP, "epochs": options.epochs, "image_size": options.image_size}
    table = []
    for seed in range(options.seeds):
        features = embed(images, train, test, settings, seed)
        for task, y in reversed(tasks.items()):
            used = np.flatnonzero(~np.isnan(y))
            parts = {"train": np.intersect1d(train, used), "test": np.intersect1d(test, used)}
            comparison = compare(
                features, y, patients, **parts, reference=PIXELS, random_state=seed
            )
            print(f"\n{task}, seed {seed}\n{comparison}\n")
            table += [{"task": task, "seed": seed, **row} for row in comparison.rows()]
        if options.figure and seed == 0:
            draw(features, y, patients, parts, comparison).savefig(options.figure, dpi=120)

    print_means(table, options.seeds)
    if options.out:
        write_csv(table, options.out)


if __name__ == "__main__":
    main()
