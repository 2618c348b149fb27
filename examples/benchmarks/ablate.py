"""
Ablation: what makes the embedding better
=========================================

Compares the laptop setting with variants in which one thing is changed, and with raw pixels. The
patients that `few_labels.py` and `compare_peers.py` test on are left out, so defaults can be chosen
by this table.

    python examples/benchmarks/ablate.py DATA --classes COLUMN [--pair CLASS CLASS]
    python examples/benchmarks/ablate.py --phantoms 1000

DATA is an ``.npz`` file with ``images``, ``patient_ids`` and the column. An encoder is trained
without labels on all images but those of the test patients. Linear probes are then fitted and
evaluated on the same images, in four folds that share no patient. The encoder has seen the images
that it is evaluated on, though not their labels: good enough to choose a setting, but no estimate
for unseen patients. On phantoms, all findings are evaluated together, and a linear head on the
dense maps segments lesions and lungs.

With ``--device cuda``, encoders are trained and images embedded on a GPU, with the same views as on
the CPU, which is the default.

Every result is kept in ``--cache``. Several processes can share it, each with its own
``--variants``.
"""

import dataclasses
import itertools
from functools import partial

import numpy as np
from devices import cost
from peers import choosing
from peers.cache import Cache, fingerprint
from peers.dense import dense_features, dice_of_head
from peers.features import FrozenEncoder, resized
from peers.protocol import MASK_FRACTIONS
from results import markdown_head, markdown_row, write_csv
from sklearn.model_selection import GroupKFold
from study import laptop, make_parser, read_study

from otcxr_sk import LAPTOP, PAPER
from otcxr_sk.evaluation import few_labels, pixel_features

PIXELS = "pixels 16x16"
AS_PRINTED = {
    name: getattr(PAPER["objective"], name)
    for name in ("transport", "cv_sim_depth", "global_weight")
}
VARIANTS = {
    PIXELS: None,
    "laptop": {},
    "nothing hidden": {"views__erase": 0.0},
    "half as much hidden": {"views__erase": 0.25},
    "no transport": {"objective__alpha": 0.0, "objective__beta": 0.0, "objective__eta": 0.0},
    "no image level": {"objective__global_weight": 0.0},
    "CV-SIM": {"objective__cv_sim_depth": 1},
    "read-out": {"objective__read_out": 40.0},
    "direct transport": {"objective__transport": "direct"},
    "the paper's loss": {f"objective__{key}": value for key, value in AS_PRINTED.items()},
    "tokens of stride 16": {"match_stride": 16},
    "flips": {"views__horizontal_flip": 0.5},
    "crops from 0.3": {"views__crop_scale": (0.3, 1.0)},
    "twice the epochs": {"epochs": 2 * LAPTOP["epochs"]},
}


def run(study, rows, estimator):
    """Fit an estimator without labels and probe it in folds; None stands for raw pixels."""
    images = study.images[rows]
    if estimator is None:
        return {"scores": choosing.scores_in_folds(study, rows, pixel_features(images))}
    name_of_cost, clock = cost(estimator.device)
    started = clock()
    estimator.fit(images)
    return {
        name_of_cost: round(clock() - started),
        "scores": choosing.scores_in_folds(study, rows, estimator.transform(images)),
        "dice": find_masks(study, rows, estimator) if study.masks else {},
        # On views of which nothing is hidden, so that variants can be compared.
        "matching": estimator.match(images[:256], random_state=0).accuracy,
    }


def find_masks(study, rows, estimator):
    """Return the Dice coefficient of each kind of mask by share of annotated patients."""
    patients, findings = study.patients[rows], np.column_stack(list(study.tasks.values()))[rows]
    features = dense_features(
        FrozenEncoder.of(estimator), resized(study.images[rows], estimator.image_size)
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
                    tested,
                ).mean()
                for fitted, tested in GroupKFold(choosing.FOLDS).split(rows, groups=patients)
                for draw in range(choosing.DRAWS)
            ]
            scores[kind][str(share)] = float(np.mean(found))
    return scores


def by_column(scores):
    """Flatten scores by task and share of labels, as columns of the table."""
    return {
        f"{task}, {100 * float(share):g} %": score
        for task, shares in scores.items()
        for share, score in shares.items()
    }


def print_table(table, columns):
    """Print means over seeds as Markdown."""
    heads = [column.replace("_", " ") for column in columns]
    print("", *markdown_head(["AUC, mean of seeds", *heads]), sep="\n")
    for name in dict.fromkeys(row["variant"] for row in table):
        rows = [row for row in table if row["variant"] == name]
        means = [np.mean([row.get(column, np.nan) for row in rows]) for column in columns]
        cells = [
            "" if np.isnan(mean) else f"{mean:.0f}" if mean > 1 else f"{mean:.3f}" for mean in means
        ]
        print(markdown_row([name, *cells]))


def main(arguments=None):
    parser = make_parser("The laptop setting with one thing changed.", seeds=2, out="ablation.csv")
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    options = parser.parse_args(arguments)
    study = read_study(options)
    if options.phantoms:
        together = {"findings": np.column_stack(list(study.tasks.values()))}
        study = dataclasses.replace(study, tasks=together)
    rows, _ = study.parts()
    cache = Cache(options.cache)
    data = fingerprint(study.images, study.patients, *study.tasks.values(), *study.masks.values())
    setting = {"encoder": options.encoder, "image_size": options.image_size}
    name_of_cost, _ = cost(options.device)
    table, columns = [], []
    for seed, name in itertools.product(range(options.seeds), options.variants):
        changes = VARIANTS[name]
        key = {"kind": "ablation", "method": name, "seed": seed, "data": data}
        key |= {"folds": choosing.FOLDS, "draws": choosing.DRAWS, "device": options.device}
        estimator = None
        if changes is not None:
            estimator = laptop(**{**setting, **changes}, random_state=seed)
            key["parameters"] = estimator.get_params()
            estimator.set_params(device=options.device)
        found = cache.get(key, partial(run, study, rows, estimator))
        numbers = by_column(found["scores"])
        numbers["mean"] = np.mean(list(numbers.values()))
        numbers |= by_column(found.get("dice", {}))
        numbers["matching"] = found.get("matching", np.nan)
        columns = max(columns, [*numbers, name_of_cost], key=len)
        table.append(
            {
                "variant": name,
                "seed": seed,
                **setting,
                **{word: round(value, 4) for word, value in numbers.items()},
                name_of_cost: found.get(name_of_cost, np.nan),
                "device": options.device,
                **found["made_by"],
            }
        )
        print(f"{name}, seed {seed}: mean AUC {numbers['mean']:.4f}", flush=True)
    write_csv(table, options.out)
    print_table(table, columns)


if __name__ == "__main__":
    main()
