"""
What makes the embedding better
===============================

The laptop setting, the same with one thing changed, and raw pixels beside. The patients that
`few_labels.py` and `compare_peers.py` test on are left out, so that defaults can be chosen by this
table.

    python examples/benchmarks/ablate.py DATA --classes COLUMN [--pair CLASS CLASS]
    python examples/benchmarks/ablate.py --phantoms 1000

DATA is an ``.npz`` with ``images``, ``patient_ids`` and the column. An encoder learns from all
images but the test patients', without labels; linear probes are then fitted and judged on patients
apart, in four folds of the same images. The encoders have seen the pictures they are judged on, if
not their labels: good for choosing, no claim about unseen patients. Of phantoms, all findings are
judged together, and a linear head on the dense maps looks for the masks of lesions and lungs.

Every run is kept in ``--cache``, several may share it, each with its ``--variants``.
"""

import argparse
import csv
import dataclasses
import itertools
import time
from functools import partial
from pathlib import Path

import numpy as np
from compare_peers import read_study
from peers import choosing
from peers.cache import Cache, fingerprint
from peers.dense import dense_features, dice_of_head
from peers.features import encoder_of, resized
from peers.protocol import MASK_FRACTIONS
from sklearn.model_selection import GroupKFold

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.evaluation import few_labels

PIXELS = "pixels 16x16"
VARIANTS = {
    PIXELS: None,
    "laptop": {},
    "nothing hidden": {"erase": 0.0},
    "half as much hidden": {"erase": 0.25},
    "no transport": {"alpha": 0.0, "beta": 0.0, "eta": 0.0},
    "no image level": {"global_weight": 0.0},
    "CV-SIM": {"cv_sim_depth": 1},
    "direct transport": {"transport": "direct"},
    "tokens of stride 16": {"match_stride": 16},
    "flips": {"horizontal_flip": 0.5},
    "crops from 0.3": {"crop_scale": (0.3, 1.0)},
    "twice the epochs": {"epochs": 2 * LAPTOP["epochs"]},
}


def run(study, rows, parameters, seed):
    """Pre-train on images without labels and probe them by patient, in folds."""
    images = study.images[rows]
    if parameters is None:
        return {
            "scores": choosing.scores_in_folds(study, rows, resized(images, 16).flatten(1).numpy())
        }
    started = time.process_time()
    encoder = OTCXRPretrainer(**parameters, random_state=seed).fit(images)
    return {
        "cpu_seconds": round(time.process_time() - started),
        "scores": choosing.scores_in_folds(study, rows, encoder.transform(images)),
        "dice": find_masks(study, rows, encoder) if study.masks else {},
        # On views of which nothing is hidden, whatever the training hides.
        "matching": encoder.match(images[:256], random_state=0).accuracy,
    }


def find_masks(study, rows, estimator):
    """Dice by kind of mask and by share of annotated patients."""
    patients, findings = study.patients[rows], np.column_stack(list(study.tasks.values()))[rows]
    features = dense_features(
        encoder_of(estimator), resized(study.images[rows], estimator.image_size)
    )
    scores = {}
    for kind, masks in study.masks.items():
        scores[kind] = {}
        for share in MASK_FRACTIONS:
            found = [
                dice_of_head(
                    features,
                    masks[rows],
                    few_labels(findings, patients, train=fitted, fraction=share, random_state=draw),
                    judged,
                ).mean()
                for fitted, judged in GroupKFold(choosing.FOLDS).split(rows, groups=patients)
                for draw in range(choosing.DRAWS)
            ]
            scores[kind][str(share)] = float(np.mean(found))
    return scores


def main(arguments=None):
    parser = argparse.ArgumentParser(description="The laptop setting with one thing changed.")
    parser.add_argument("data", nargs="?", type=Path, help=".npz")
    parser.add_argument("--classes", default="labels", metavar="COLUMN")
    parser.add_argument("--pair", nargs=2, metavar="CLASS", help="two of the classes, a first task")
    parser.add_argument("--phantoms", type=int, metavar="N", help="N phantom patients, no DATA")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--encoder", default=LAPTOP["encoder"])
    parser.add_argument("--image-size", type=int, default=LAPTOP["image_size"])
    parser.add_argument("--cache", type=Path, default=Path("peers-cache"))
    parser.add_argument("--out", type=Path, default=Path("ablation.csv"))
    options = parser.parse_args(arguments)

    if (options.data is None) == (options.phantoms is None):
        parser.error("give DATA or --phantoms")
    study = read_study(argparse.Namespace(transfer=None, **vars(options)))
    setting = {**LAPTOP, "encoder": options.encoder, "image_size": options.image_size}
    if options.phantoms:
        together = {"findings": np.column_stack(list(study.tasks.values()))}
        study = dataclasses.replace(study, tasks=together)
    rows = study.parts()[0]
    cache = Cache(options.cache)
    data = fingerprint(study.images, study.patients, *study.tasks.values(), *study.masks.values())
    table, numbers_of = [], []
    for seed, name in itertools.product(range(options.seeds), options.variants):
        parameters = None if VARIANTS[name] is None else {**setting, **VARIANTS[name]}
        key = {"kind": "ablation", "method": name, "seed": seed, "data": data}
        key |= {"folds": choosing.FOLDS, "draws": choosing.DRAWS}
        if parameters:
            key["parameters"] = OTCXRPretrainer(**parameters).get_params()
        found = cache.get(key, partial(run, study, rows, parameters, seed))
        scores = {
            f"{task}, {100 * float(share):g} %": score
            for task, shares in found["scores"].items()
            for share, score in shares.items()
        }
        numbers = {**scores, "mean": np.mean(list(scores.values()))}
        for kind, shares in found.get("dice", {}).items():
            numbers |= {f"{kind}, {100 * float(k):g} %": dice for k, dice in shares.items()}
        numbers["matching"] = found.get("matching", np.nan)
        numbers_of.append(numbers)
        table.append(
            {
                "variant": name,
                "seed": seed,
                "encoder": options.encoder,
                "image_size": options.image_size,
                **{word: round(value, 4) for word, value in numbers.items()},
                "cpu_seconds": found.get("cpu_seconds", np.nan),
                **found["made_by"],
            }
        )
        print(f"{name}, seed {seed}: mean AUC {numbers['mean']:.4f}", flush=True)
    with open(options.out, "w", newline="", encoding="utf-8") as stream:
        # Raw pixels have no dense maps, and so fewer columns.
        writer = csv.DictWriter(stream, max(table, key=len), restval=np.nan)
        writer.writeheader()
        writer.writerows(table)

    columns = [*max(numbers_of, key=len), "cpu_seconds"]
    print("\n| AUC, mean of seeds |", " | ".join(columns).replace("_", " "), "|")
    print("|" + "---|" * (1 + len(columns)))
    for name in options.variants:
        of_name = [row for row in table if row["variant"] == name]
        means = [np.mean([row.get(column, np.nan) for row in of_name]) for column in columns]
        cells = [
            "" if np.isnan(mean) else f"{mean:.0f}" if mean > 1 else f"{mean:.3f}" for mean in means
        ]
        print(f"| {name} |", " | ".join(cells), "|")


if __name__ == "__main__":
    main()
