"""
Few labels: pre-trained embedding, raw pixels, untrained encoder
================================================================

Pre-trains on the images of the training patients without their labels, then fits a linear probe
on 1 %, 10 % and 100 % of those patients' labels and judges it on patients never seen: the same
for every seed, so that nothing need ever be chosen on them. A seed draws the pre-training and who
is labelled. The probe is one and fixed for all features.

    python examples/few_labels.py DATA --classes COLUMN [COLUMN ...] [--pair CLASS CLASS]

DATA is an ``.npz`` with ``images``, ``patient_ids`` and the columns, or a folder with a CSV
(``--labels``, by default ``labels.csv`` in it) of ``path``, ``patient_id`` and the columns. Several
columns make one class together, joined by ``/``. ``--pair`` asks for two of the classes alone.
``--validate`` leaves the test patients out and judges on a quarter of the others instead: for
choosing a setting. ``--figure`` draws the last task of the first seed (extra ``plots``).
"""

import argparse
import csv
import time
from pathlib import Path

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.evaluation import compare
from otcxr_sk.images import ArraySource, PathSource

TEST_SPLIT = 2024
PIXELS = "pixels 16x16"
# Images whose views are matched, as one batch.
MATCHED = 256


def read_data(data, labels, columns):
    """Images or paths, classes and patients of an .npz or of a folder with a CSV."""
    if data.suffix == ".npz":
        stored = np.load(data)
        require(["images", "patient_ids", *columns], stored, data)
        table = {name: stored[name] for name in [*columns, "patient_ids"]}
        images, patients = stored["images"], table["patient_ids"]
    else:
        file = labels or data / "labels.csv"
        with open(file, newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            require(["path", "patient_id", *columns], reader.fieldnames or (), file)
            rows = list(reader)
        table = {name: [row[name] for row in rows] for name in columns}
        images = np.array([str(data / row["path"]) for row in rows], dtype=object)
        patients = np.array([row["patient_id"] for row in rows])
    parts = zip(*(table[name] for name in columns), strict=True)
    return images, np.array(["/".join(map(str, part)) for part in parts]), patients


def require(names, found, file):
    """End with a message if a file lacks a column."""
    for name in names:
        if name not in found:
            raise SystemExit(f"{file} has no {name!r}; it has {', '.join(found)}")


def split_off(rows, patients, seed):
    """Rows of three quarters of the patients, and rows of the other patients."""
    split = GroupShuffleSplit(1, test_size=0.25, random_state=seed)
    kept, apart = next(split.split(rows, groups=patients[rows]))
    return rows[kept], rows[apart]


def tasks(classes, pair):
    """Name of each task -> rows that it is about."""
    known = np.unique(classes)
    found = {f"{len(known)} classes": np.arange(len(classes))}
    if pair:
        missing = set(pair) - set(known)
        if missing:
            raise SystemExit(f"no class {missing.pop()!r}; there are {', '.join(known)}")
        found[" vs ".join(pair)] = np.flatnonzero(np.isin(classes, pair))
    return found


def embed(images, train, test, settings, seed):
    """Every feature of every image, by name, from encoders that saw training images alone."""
    started = time.perf_counter()
    encoder = OTCXRPretrainer(**settings, random_state=seed, verbose=1).fit(images[train])
    minutes = (time.perf_counter() - started) / 60
    found = encoder.match(images[test[:MATCHED]], random_state=seed)
    print(
        f"seed {seed}: {minutes:.1f} min, matching on patients never seen {found.accuracy:.2f} "
        f"(chance {found.chance:.2f})"
    )

    source = ArraySource(images) if images.ndim > 1 else PathSource(images)
    untrained = OTCXRPretrainer(**{**settings, "epochs": 0}, random_state=seed)
    return {
        PIXELS: source.read(np.arange(len(source)), 16).reshape(len(source), -1),
        "untrained": untrained.fit(images[train]).transform(images),
        "otcxr": encoder.transform(images),
    }


def draw(features, classes, patients, parts, comparison):
    """Figure of the probes of a task, and of how the embeddings use their space."""
    from matplotlib.figure import Figure

    from otcxr_sk.plotting import (
        ComparisonDisplay,
        EmbeddingHealthDisplay,
        LabelEfficiencyDisplay,
        ProbeDisplay,
    )

    figure = Figure(figsize=(12, 8), layout="constrained")
    (curves, differences), (roc, health) = figure.subplots(2, 2)
    task = features, classes, patients
    LabelEfficiencyDisplay.from_features(*task, **parts, random_state=0, ax=curves)
    ComparisonDisplay(comparison).plot(differences)
    ProbeDisplay.from_features(*task, **parts, ax=roc)
    unseen = {name: Z[parts["test"]] for name, Z in features.items()}
    EmbeddingHealthDisplay.from_features(unseen, ax=health)
    return figure


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Linear probes by share of labels.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--labels", type=Path, help="CSV, by default labels.csv in the folder")
    parser.add_argument("--classes", nargs="+", required=True, metavar="COLUMN")
    parser.add_argument("--pair", nargs=2, metavar="CLASS")
    parser.add_argument("--validate", action="store_true", help="leave the test patients out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=LAPTOP["epochs"])
    parser.add_argument("--image-size", type=int, default=LAPTOP["image_size"])
    parser.add_argument("--out", type=Path, help="CSV with the result of every seed")
    parser.add_argument("--figure", type=Path, help="picture of the first seed")
    options = parser.parse_args(arguments)
    if options.epochs < 1:
        parser.error("--epochs must be 1 or more; the untrained encoder is in the table anyway")

    images, classes, patients = read_data(options.data, options.labels, options.classes)
    train, test = split_off(np.arange(len(classes)), patients, TEST_SPLIT)
    if options.validate:
        train, test = split_off(train, patients, TEST_SPLIT)
    settings = {**LAPTOP, "epochs": options.epochs, "image_size": options.image_size}
    table = []
    for seed in range(options.seeds):
        features = embed(images, train, test, settings, seed)
        for task, asked in tasks(classes, options.pair).items():
            parts = {
                "train": np.intersect1d(train, asked),
                "test": np.intersect1d(test, asked),
            }
            comparison = compare(
                features, classes, patients, **parts, reference=PIXELS, random_state=seed
            )
            print(f"\n{task}, seed {seed}\n{comparison}\n")
            table += [{"task": task, "seed": seed, **row} for row in comparison.rows()]
        if options.figure and seed == 0:
            draw(features, classes, patients, parts, comparison).savefig(options.figure, dpi=120)

    print(f"AUC on unseen patients, mean and standard deviation of {options.seeds} seeds")
    for key in dict.fromkeys((row["task"], row["fraction"], row["name"]) for row in table):
        rows = [row for row in table if (row["task"], row["fraction"], row["name"]) == key]
        scores = [row["score"] for row in rows]
        spread = np.std(scores, ddof=1) if len(scores) > 1 else 0.0
        gain = np.mean([row["difference"] for row in rows])
        print(
            f"{key[0]:<24}{key[1]:>6.0%}  {key[2]:<14}{np.mean(scores):.3f} +- {spread:.3f}"
            f"  over pixels {gain:+.3f}  ({' '.join(f'{score:.3f}' for score in scores)})"
        )
    if options.out:
        with open(options.out, "w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, table[0])
            writer.writeheader()
            writer.writerows(table)


if __name__ == "__main__":
    main()
