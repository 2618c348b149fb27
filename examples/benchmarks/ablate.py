"""
What makes the embedding better
===============================

The laptop setting, the same with one thing changed, and raw pixels beside. The patients that
`few_labels.py` and `compare_peers.py` test on are left out, so that defaults can be chosen by this
table.

    python examples/benchmarks/ablate.py DATA --classes COLUMN [--pair CLASS CLASS]

DATA is an ``.npz`` with ``images``, ``patient_ids`` and the column. An encoder learns from all
images but the test patients', without labels; linear probes are then fitted and judged on patients
apart, in four folds of the same images. The encoders have seen the pictures they are judged on, if
not their labels: good for choosing, no claim about unseen patients.

Every run is kept in ``--cache``, several may share it, each with its ``--variants``.
"""

import argparse
import csv
import itertools
import time
from pathlib import Path

import numpy as np
from compare_peers import read_study
from peers.cache import Cache, fingerprint
from peers.features import resized
from sklearn.model_selection import GroupKFold

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.evaluation import label_efficiency

PIXELS = "pixels 16x16"
VARIANTS = {
    PIXELS: None,
    "laptop": {},
    "nothing hidden": {"erase": 0.0},
    "no transport": {"alpha": 0.0, "beta": 0.0, "eta": 0.0},
    "no image level": {"global_weight": 0.0},
    "CV-SIM": {"cv_sim_depth": 1},
    "uniform marginals": {"marginals": "uniform"},
    "tokens of stride 16": {"match_stride": 16},
    "flips": {"horizontal_flip": 0.5},
    "crops from 0.3": {"crop_scale": (0.3, 1.0)},
    "twice the epochs": {"epochs": 2 * LAPTOP["epochs"]},
}
FOLDS, DRAWS = 4, 5


def run(study, rows, changed, seed):
    """Pre-train on images without labels and probe them by patient, in folds."""
    images = study.images[rows]
    if changed is None:
        return {"scores": probe(study, rows, resized(images, 16).flatten(1).numpy())}
    started = time.process_time()
    encoder = OTCXRPretrainer(**{**LAPTOP, **changed}, random_state=seed).fit(images)
    return {
        "cpu_seconds": round(time.process_time() - started),
        "scores": probe(study, rows, encoder.transform(images)),
        # On views of which nothing is hidden, whatever the training hides.
        "matching": encoder.match(images[:256], random_state=0).accuracy,
    }


def probe(study, rows, features):
    """AUC by task and by share of labelled patients."""
    patients, scores = study.patients[rows], {}
    for task, labels in study.tasks.items():
        y = labels[rows]
        known = np.flatnonzero(~np.isnan(y))
        found = [
            label_efficiency(
                features,
                y,
                patients,
                train=known[fitted],
                test=known[judged],
                draws=DRAWS,
                random_state=0,
            )
            for fitted, judged in GroupKFold(FOLDS).split(known, groups=patients[known])
        ]
        means = np.mean([fold.mean for fold in found], axis=0)
        scores[task] = dict(zip(map(str, found[0].fractions), means.tolist(), strict=True))
    return scores


def main(arguments=None):
    parser = argparse.ArgumentParser(description="The laptop setting with one thing changed.")
    parser.add_argument("data", type=Path, help=".npz")
    parser.add_argument("--classes", default="labels", metavar="COLUMN")
    parser.add_argument("--pair", nargs=2, metavar="CLASS", help="two of the classes, a first task")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--cache", type=Path, default=Path("peers-cache"))
    parser.add_argument("--out", type=Path, default=Path("ablation.csv"))
    options = parser.parse_args(arguments)

    study = read_study(argparse.Namespace(phantoms=None, **vars(options)))
    rows = np.union1d(*study.parts()[:2])
    cache = Cache(options.cache)
    data = fingerprint(study.images, study.patients, *study.tasks.values())
    table = []
    for seed, name in itertools.product(range(options.seeds), options.variants):
        changed = VARIANTS[name]
        key = {"kind": "ablation", "method": name, "seed": seed, "data": data}
        key |= {"folds": FOLDS, "draws": DRAWS}
        if changed is not None:
            key["parameters"] = OTCXRPretrainer(**{**LAPTOP, **changed}).get_params()
        found = cache.get(key, lambda changed=changed, seed=seed: run(study, rows, changed, seed))
        scores = {
            f"{task}, {100 * float(share):g} %": score
            for task, shares in found["scores"].items()
            for share, score in shares.items()
        }
        numbers = {**scores, "mean": np.mean(list(scores.values()))}
        numbers["matching"] = found.get("matching", np.nan)
        table.append(
            {
                "variant": name,
                "seed": seed,
                **{word: round(value, 4) for word, value in numbers.items()},
                "cpu_seconds": found.get("cpu_seconds", np.nan),
                **found["made_by"],
            }
        )
        print(f"{name}, seed {seed}: mean AUC {numbers['mean']:.4f}", flush=True)
    with open(options.out, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(table[0]))
        writer.writeheader()
        writer.writerows(table)

    columns = [*numbers, "cpu_seconds"]
    print("\n| AUC, mean of seeds |", " | ".join(columns).replace("_", " "), "|")
    print("|" + "---|" * (1 + len(columns)))
    for name in options.variants:
        of_name = [row for row in table if row["variant"] == name]
        means = [np.mean([row[column] for row in of_name]) for column in columns]
        cells = [
            "" if np.isnan(mean) else f"{mean:.0f}" if mean > 1 else f"{mean:.3f}" for mean in means
        ]
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
