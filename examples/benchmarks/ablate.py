"""
Ablation: what makes the embedding better
=========================================

Compares the laptop setting with variants in which one thing is changed, and with raw pixels. The
patients that `few_labels.py` and `compare_peers.py` test on are left out, so defaults can be chosen
by this table.

    python examples/benchmarks/ablate.py examples/benchmarks/radiographs.toml FOLDER \\
        --pool NAME [NAME ...]
    python examples/benchmarks/ablate.py --phantoms 1000

The ``.toml`` file describes collections of images in FOLDER. An encoder is trained without labels
on the collections that ``--pool`` names, less their test patients, and judged on each that has test
patients: linear probes are fitted and evaluated on its other images, in four folds that share no
patient. The encoder may have seen the images that it is evaluated on, though not their labels: good
enough to choose a setting, but no estimate for unseen patients. On phantoms, a linear head on the
dense maps segments lesions and lungs, too.

With ``--device cuda``, encoders are trained and images embedded on a GPU, with the same views as on
the CPU, which is the default.

Every result is kept in ``--cache``. Several processes can share it, each with its own
``--variants``.
"""

import itertools
from contextlib import nullcontext
from functools import partial

import numpy as np
from controls import mean_only, places_shuffled
from devices import cost
from peers import choosing
from peers.cache import Cache, fingerprint
from peers.dense import dense_features, dice_of_head
from peers.features import FrozenEncoder, resized
from peers.judging import MASK_SHARES
from results import markdown_head, markdown_row, write_csv
from sklearn.model_selection import GroupKFold
from study import laptop, make_parser, mean_of, read_study

from otcxr_sk import LAPTOP, PAPER
from otcxr_sk.evaluation import few_labels, pixel_features

PIXELS = "pixels 16x16"
VARIANTS = {
    PIXELS: None,
    "laptop": {},
    "no read-out": {"objective__read_out": 0.0},
    "places shuffled within the image": {},
    "the mean only": {},
    "nothing hidden": {"views__erase": 0.0},
    "half as much hidden": {"views__erase": 0.25},
    "no transport": {"objective__alpha": 0.0, "objective__beta": 0.0, "objective__eta": 0.0},
    "no image level": {"objective__global_weight": 0.0},
    "CV-SIM": {"objective__cv_sim_depth": 1},
    "direct transport": {"objective__transport": "direct"},
    "the paper's loss": PAPER,
    "crops from 0.3": {"views__crop_scale": (0.3, 1.0)},
    "twice the epochs": {"epochs": 2 * LAPTOP["epochs"]},
    "three times the epochs": {"epochs": 3 * LAPTOP["epochs"]},
}
# What the read-out learns from is taken from it in these variants.
CONTROLS = {"places shuffled within the image": places_shuffled, "the mean only": mean_only}


def run(study, name, estimator):
    """Fit an estimator without labels and probe it in folds; None stands for raw pixels."""
    rows, _ = study.parts()
    if estimator is None:
        features, facts = pixel_features(study.images), {}
    else:
        name_of_cost, clock = cost(estimator.device)
        started = clock()
        with CONTROLS.get(name, nullcontext)():
            estimator.fit(study.images[rows])
        facts = {
            name_of_cost: round(clock() - started),
            # On views of which nothing is hidden, so that variants can be compared.
            "matching": estimator.match(study.images[rows[:256]], random_state=0).accuracy,
        }
        features = estimator.transform(study.images)
    of_collections = study.split(features)
    found = {"scores": {}, "dice": {}, **facts}
    for collection, each in study.to_choose_on().items():
        found["scores"][collection] = choosing.scores_in_folds(each, of_collections[collection])
        if estimator is not None:
            found["dice"] |= find_masks(each, estimator)
    return found


def find_masks(collection, estimator):
    """Return the Dice coefficient of each kind of mask by share of annotated patients."""
    rows, _ = collection.parts()
    patients, scores = collection.patients[rows], {}
    for kind, masks in collection.masks.items():
        features = dense_features(
            FrozenEncoder.of(estimator), resized(collection.images[rows], estimator.image_size)
        )
        findings = np.column_stack(list(collection.tasks.values()))[rows]
        scores[kind] = {}
        for share in MASK_SHARES:
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


def numbers_of(study, found):
    """Return what `run` found as columns of the table, with means of each collection and of all."""
    numbers, means = {}, {}
    for name, each in study.to_choose_on().items():
        scores = found["scores"][name]
        for mean, tasks in each.overview().items():
            if mean not in each.masks:
                of_tasks = [scores[task] for task in tasks]
                shares = {share: np.mean([of[share] for of in of_tasks]) for share in of_tasks[0]}
                numbers |= by_column({mean: shares})
        means[mean_of(name)] = np.mean([list(shares.values()) for shares in scores.values()])
    means["mean"] = np.mean(list(means.values()))
    matching = {"matching": found.get("matching", np.nan)}
    return numbers | means | by_column(found["dice"]) | matching


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
    cache = Cache(options.cache)
    questions = [
        array
        for each in study.collections.values()
        for array in (each.patients, *each.tasks.values(), *each.masks.values())
    ]
    data = fingerprint(study.images, *questions)
    setting = {"encoder": options.encoder, "image_size": options.image_size}
    name_of_cost, _ = cost(options.device)
    table, columns = [], []
    for seed, name in itertools.product(range(options.seeds), options.variants):
        changes = VARIANTS[name]
        key = {"kind": "ablation", "method": name, "seed": seed, "data": data, "pool": study.pool}
        key |= {"folds": choosing.FOLDS, "draws": choosing.DRAWS, "device": options.device}
        estimator = None
        if changes is not None:
            estimator = laptop(**{**setting, **changes}, random_state=seed)
            key["parameters"] = estimator.get_params()
            estimator.set_params(device=options.device)
        found = cache.get(key, partial(run, study, name, estimator))
        numbers = numbers_of(study, found)
        columns = max(columns, [*numbers, name_of_cost], key=len)
        table.append(
            {
                "variant": name,
                "seed": seed,
                "pool": " ".join(study.pool),
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
