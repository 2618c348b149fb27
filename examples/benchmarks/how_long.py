"""
How long to train, and what a run looks like
============================================

Trains the laptop setting for several lengths, and in ways that fail, on some images of a pool. A
fifth of their patients is held out. Shown are the curves of `history_` that tell a healthy run from
another, and what the embedding is worth at the end: the mean of AUCs of linear probes in folds of
patients, as in `ablate.py`. Test patients are left out.

    python examples/benchmarks/how_long.py radiographs.toml FOLDER --pool kermany
    python examples/benchmarks/how_long.py --phantoms 1000

Every run is kept in ``--cache``. The script writes ``--out`` with a row for each epoch, and next to
it a figure.
"""

import warnings
from functools import partial

import numpy as np
from devices import cost
from peers import choosing
from peers.cache import Cache, fingerprint
from results import markdown_head, markdown_row, write_csv
from study import laptop, make_parser, mean_of, read_study

from otcxr_sk import LAPTOP
from otcxr_sk.training import CollapseWarning, NonFiniteLossError

EPOCHS = LAPTOP["epochs"]
FEW = 200
LENGTHS = {f"{k * EPOCHS} epochs": {"epochs": k * EPOCHS} for k in (1, 3, 9)}
FAILING = {
    "learning rate 20 times as high": {"learning_rate": 20 * LAPTOP["learning_rate"]},
    f"{FEW} images": {},
    "nothing keeps images apart": {
        "objective__beta": 0.0,
        "objective__eta": 0.0,
        "objective__global_weight": 0.0,
        "objective__read_out": 0.0,
        "objective__transport": "direct",
    },
}
RUNS = LENGTHS | FAILING
COLORS = ("#56b4e9", "#0072b2", "#000000", "#d55e00", "#e69f00", "#cc79a7")
CURVES = {
    "loss": "loss",
    "validation_loss": "loss, held-out patients",
    "validation_read_out": "error of the read-out, held-out patients",
    "matching_accuracy": "matching accuracy",
    "effective_rank": "effective rank",
}


def run(study, estimator, rows, patients):
    """Fit an estimator and return its history, and what its embedding is worth."""
    name_of_cost, clock = cost(estimator.device)
    started = clock()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            estimator.fit(study.images[rows], groups=patients)
        except NonFiniteLossError as error:
            return {"history": error.history, "warned": str(error), "scores": {}}
    warned = [str(each.message) for each in caught if each.category is CollapseWarning]
    seconds = round(clock() - started)
    features = study.split(estimator.transform(study.images))
    scores = {
        collection: choosing.mean_in_folds(each, features[collection])
        for collection, each in study.to_choose_on().items()
    }
    history = estimator.history_
    return {"history": history, "warned": " ".join(warned), "scores": scores, name_of_cost: seconds}


def draw(found, file):
    """Draw a panel for each curve: lengths as lines, failing runs dashed."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 6.4), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for (curve, title), ax in zip(CURVES.items(), axes, strict=False):
        for name, each in found.items():
            values = each["history"].get(curve, [])
            color = COLORS[list(RUNS).index(name)]
            style = "--" if name in FAILING else "-"
            ax.plot(range(1, len(values) + 1), values, style, color=color, label=name)
        ax.set_title(title, fontsize="medium")
        ax.set_xlabel("epoch")
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
        ax.spines[["top", "right"]].set_visible(False)
    # A loss that explodes would make lines of all others.
    highest = np.median([each["history"]["loss"][0] for each in found.values()])
    for ax in axes[:2]:
        ax.set_ylim(0, 1.3 * highest)
    axes[-1].set_axis_off()
    axes[-1].legend(*axes[0].get_legend_handles_labels(), loc="center", frameon=False)
    figure.savefig(file, dpi=100)


def main(arguments=None):
    parser = make_parser("How long to train.", seeds=1, out="how-long.csv")
    parser.add_argument("--runs", nargs="+", choices=RUNS, default=list(RUNS))
    parser.add_argument("--images", type=int, default=2000, help="trained on or held out")
    options = parser.parse_args(arguments)
    study = read_study(options)
    rows, _ = study.parts()
    rows = np.random.default_rng(0).permutation(rows)[: options.images]
    patients = np.concatenate([each.patients.astype(str) for each in study.collections.values()])
    cache = Cache(options.cache)
    data = fingerprint(study.images[rows], patients[rows].astype("S"))
    found, table = {}, []
    for name in options.runs:
        kept = rows[:FEW] if name.startswith(f"{FEW} ") else rows
        estimator = laptop(
            encoder=options.encoder,
            image_size=options.image_size,
            validation_fraction=0.2,
            random_state=0,
        ).set_params(**RUNS[name])
        key = {"kind": "how long", "method": name, "data": data, "device": options.device}
        key |= {"parameters": estimator.get_params(), "images": len(kept)}
        estimator.set_params(device=options.device)
        make = partial(run, study, estimator, kept, patients[kept])
        found[name] = cache.get(key, make)
        print(f"{name}: {found[name]['scores']} {found[name]['warned']}", flush=True)
    name_of_cost, _ = cost(options.device)
    for name, each in found.items():
        history = each["history"]
        for epoch in range(len(history["loss"])):
            numbers = {curve: history[curve][epoch] for curve in CURVES if curve in history}
            table.append({"run": name, "epoch": epoch + 1, **numbers})
    write_csv(table, options.out, digits=5)
    draw(found, options.out.with_suffix(".png"))
    collections = list(study.to_choose_on())
    print("", *markdown_head(["", *map(mean_of, collections), name_of_cost, "warning"]), sep="\n")
    for name, each in found.items():
        scores = [f"{each['scores'].get(collection, np.nan):.3f}" for collection in collections]
        cells = [name, *scores, str(each.get(name_of_cost, "")), each["warned"]]
        print(markdown_row(cells))


if __name__ == "__main__":
    main()
