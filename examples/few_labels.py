"""
Few labels: pre-trained embedding, raw pixels, untrained encoder
================================================================

Pre-trains on the images of the training patients without their labels, then fits a linear probe
on 1 %, 10 % and 100 % of those patients' labels and judges it on patients never seen. Everything
is repeated with three seeds, each of which draws the split, the pre-training and who is labelled.
Nothing is tuned: the laptop setting and one fixed probe for all features.

    python examples/few_labels.py DATA --classes COLUMN [COLUMN ...] [--pair CLASS CLASS]

DATA is an ``.npz`` with ``images``, ``patient_ids`` and the columns, or a folder with a CSV
(``--labels``, by default ``labels.csv`` in it) of ``path``, ``patient_id`` and the columns. Several
columns make one class together, joined by ``/``. ``--pair`` asks for two of the classes alone.
"""

import argparse
import csv
import itertools
import time
from pathlib import Path

import numpy as np
from sklearn.model_selection import GroupShuffleSplit

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.evaluation import few_labels, linear_probe
from otcxr_sk.images import ArraySource, PathSource

# Few labels depend on whose they are: share of the patients -> draws to average over.
DRAWS = {0.01: 20, 0.1: 5, 1.0: 1}


def read_data(data, labels, columns):
    """Images or paths, classes and patients of an .npz or of a folder with a CSV."""
    if data.suffix == ".npz":
        stored = np.load(data)
        table = {name: stored[name] for name in [*columns, "patient_ids"]}
        images, patients = stored["images"], table["patient_ids"]
    else:
        with open(labels or data / "labels.csv", newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        table = {name: [row[name] for row in rows] for name in columns}
        images = np.array([str(data / row["path"]) for row in rows], dtype=object)
        patients = np.array([row["patient_id"] for row in rows])
    parts = zip(*(table[name] for name in columns), strict=True)
    return images, np.array(["/".join(map(str, part)) for part in parts]), patients


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


def run_seed(seed, images, classes, patients, pair, settings):
    """One split and one pre-training: yields (task, share, features, AUC)."""
    split = GroupShuffleSplit(1, test_size=0.25, random_state=seed)
    train, test = next(split.split(images, groups=patients))
    started = time.perf_counter()
    encoder = OTCXRPretrainer(**settings, random_state=seed, verbose=1).fit(images[train])
    minutes = (time.perf_counter() - started) / 60
    matching = [encoder.history_[f"matching_{name}"][-1] for name in ("accuracy", "chance")]
    print(f"seed {seed}: {minutes:.1f} min, matching {matching[0]:.2f} (chance {matching[1]:.2f})")

    source = ArraySource(images) if images.ndim > 1 else PathSource(images)
    untrained = OTCXRPretrainer(**{**settings, "epochs": 0}, random_state=seed)
    features = {
        "pixels 16x16": source.read(np.arange(len(source)), 16).reshape(len(source), -1),
        "untrained": untrained.fit(images[train]).transform(images),
        "otcxr": encoder.transform(images),
    }
    for (task, rows), share in itertools.product(tasks(classes, pair).items(), DRAWS):
        asked = np.intersect1d(train, rows)
        judged = np.intersect1d(test, rows)
        drawn = [
            few_labels(classes, patients, train=asked, fraction=share, random_state=draw)
            for draw in range(DRAWS[share])
        ]
        for name, Z in features.items():
            scores = [linear_probe(Z, classes, patients, train=d, test=judged) for d in drawn]
            yield task, share, name, float(np.mean(scores))


def main():
    parser = argparse.ArgumentParser(description="Linear probes by share of labels.")
    parser.add_argument("data", type=Path)
    parser.add_argument("--labels", type=Path, help="CSV, by default labels.csv in the folder")
    parser.add_argument("--classes", nargs="+", required=True, metavar="COLUMN")
    parser.add_argument("--pair", nargs=2, metavar="CLASS")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=LAPTOP["epochs"])
    parser.add_argument("--image-size", type=int, default=LAPTOP["image_size"])
    parser.add_argument("--out", type=Path, help="CSV with the result of every seed")
    options = parser.parse_args()

    images, classes, patients = read_data(options.data, options.labels, options.classes)
    settings = {**LAPTOP, "epochs": options.epochs, "image_size": options.image_size}
    results = {}
    for seed in range(options.seeds):
        for *key, auc in run_seed(seed, images, classes, patients, options.pair, settings):
            results.setdefault(tuple(key), []).append(auc)

    print(f"\nAUC on unseen patients, mean and standard deviation of {options.seeds} seeds")
    for (task, share, name), scores in results.items():
        spread = np.std(scores, ddof=1) if len(scores) > 1 else 0.0
        each = " ".join(f"{score:.3f}" for score in scores)
        print(f"{task:<24}{share:>6.0%}  {name:<14}{np.mean(scores):.3f} +- {spread:.3f}  ({each})")
    if options.out:
        with open(options.out, "w", newline="", encoding="utf-8") as stream:
            writer = csv.writer(stream)
            writer.writerow(["task", "share_of_labels", "features", "seed", "auc"])
            for key, scores in results.items():
                writer.writerows([*key, seed, f"{score:.4f}"] for seed, score in enumerate(scores))


if __name__ == "__main__":
    main()
