"""Results as tables and as a figure, and what earlier tables say."""

import itertools
import math
import textwrap

import numpy as np
from results import markdown_head, markdown_row, read_csv

from .features import OURS, Setting

PROBES = {"linear": "", "knn": "kNN ", "dense": "Dice "}
# Further columns of the overview: where the value stands in the rows, and its format.
FACTS = {
    "matching": ("matching_accuracy", ".2f"),
    "chance": ("matching_chance", ".2f"),
    "CPU s": ("cpu_seconds", ".0f"),
    "GPU s": ("gpu_seconds", ".0f"),
    "learning rate": ("learning_rate", "g"),
    "weight": ("weight", "g"),
}

# Panels in a row of the figure.
COLUMNS = 4


def read_rows(file):
    """Read rows back from a CSV file; values that are only copied remain strings."""
    return [
        {
            **{column: value or None for column, value in row.items()},
            "seed": int(row["seed"]),
            # Not of a mean over shares.
            "labels": float(row["labels"]) if row["labels"] else None,
            # Tables from before there was a choice are the CPU's.
            "device": row.get("device", "cpu"),
            "gpu_seconds": row.get("gpu_seconds") or None,
        }
        for row in read_csv(file)
    ]


def read_settings(file):
    """Read the `Setting` of each method from a CSV file."""
    return {
        row["method"]: Setting(
            *(float(row[word]) if row[word] else None for word in Setting._fields)
        )
        for row in read_rows(file)
    }


def unique(rows, column):
    """Return the values of a column in order of appearance."""
    return list(dict.fromkeys(row[column] for row in rows))


def values(rows, column, **where):
    """Return the known values of a column, one per seed, of rows where others have a value."""
    found = [row for row in rows if all(row[name] == value for name, value in where.items())]
    known = [row.get(column) for row in found]
    return np.array([value for value in known if value is not None], float)


def files_of(page):
    """Return the page, and its CSV file and figure in the folders ``data`` and ``figures``."""
    page = page.with_suffix(".md")
    name, folder = page.stem, page.parent
    return page, folder / "data" / f"{name}.csv", folder / "figures" / f"{name}.png"


def write_tables(rows, file, overview, caveats=()):
    """Write an overview, then a table for every task with the differences from OTCXR.

    `overview` names means of tasks, as `Study.overview` does; `caveats` are sentences.
    """
    on_gpu = len(values(rows, "gpu_seconds"))
    facts = {name: fact for name, fact in FACTS.items() if on_gpu or name != "GPU s"}
    seeds = len(unique(rows, "seed"))
    of_seeds = f"mean ± standard deviation of {seeds} seeds" if seeds > 1 else "one seed"
    lines = [
        f"# Results: {file.stem}",
        "",
        f"AUC on test patients, {of_seeds}, by",
        "the share of the training patients whose labels are used; in folds where a collection has",
        "no test patients. Dice of masks by a linear head on the dense maps, by the share of",
        "patients annotated. The mean of a collection is over tasks and shares. The best is bold.",
        "Matching: accuracy of the encoder's own tokens. CPU s: pre-training and embedding; GPU s:",
        "the same on a GPU, by the clock. Learning rate and weight: as chosen, without the test",
        "patients.",
        f"[Every score](data/{file.stem}.csv).",
        *(line for caveat in caveats for line in ("", *textwrap.wrap(caveat, 96))),
        *_table(rows, overview, ("linear", "dense"), facts),
        "",
        f"![The same as a figure](figures/{file.stem}.png)",
    ]
    for task in unique(rows, "task"):
        lines += ["", f"## {task}", *_table(rows, {"": (task,)}, PROBES, {})]
        of_task = [row for row in rows if row["task"] == task]
        if len(values(of_task, "ours_less_it_difference")):
            fractions = unique(of_task, "labels")
            lines += [
                "",
                "OTCXR minus the method, linear probe, with 95 % intervals by patient (means over",
                "seeds of the difference and of the ends). Peers that start from ImageNet weights",
                "are compared with OTCXR from these, all others with OTCXR from a random start:",
                "",
                *markdown_head(["", *map(_share, fractions)]),
            ]
            for method in unique(of_task, "method"):
                if method != OURS:
                    cells = [_difference(of_task, method=method, labels=f) for f in fractions]
                    lines.append(markdown_row([method, *cells]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _share(labels):
    return "all shares" if labels is None else f"{100 * labels:g} %"


def _table(rows, means, probes, facts):
    """Return lines: methods by task mean, probe and share of labels; the best are bold."""
    columns, heads = [], []
    for name, tasks in means.items():
        of_mean = [row for row in rows if row["task"] in tasks and row["probe"] in probes]
        for probe, share in dict.fromkeys((row["probe"], row["labels"]) for row in of_mean):
            here = [row for row in of_mean if (row["probe"], row["labels"]) == (probe, share)]
            columns.append((tasks, here))
            heads.append(f"{name} {PROBES[probe]}{_share(share)}".strip())
    methods = unique(itertools.chain(*(here for _, here in columns)), "method")
    scores = [[_mean_of_tasks(here, tasks, name) for tasks, here in columns] for name in methods]
    best = [
        max((score.mean() for score in of_column if len(score)), default=np.nan)
        for of_column in zip(*scores, strict=True)
    ]
    lines = ["", *markdown_head(["", *heads, *facts])]
    for method, row in zip(methods, scores, strict=True):
        cells = [_cell(score, top) for score, top in zip(row, best, strict=True)]
        for fact, form in facts.values():
            found = values(rows, fact, method=method)
            cells.append(f"{found.mean():{form}}" if len(found) else "")
        lines.append(markdown_row([method, *cells]))
    return lines


def _mean_of_tasks(column, tasks, method):
    """Return the mean over tasks, one per seed; nothing if there are not scores of all tasks."""
    found = [values(column, "score", method=method, task=task) for task in tasks]
    return np.mean(found, axis=0) if all(map(len, found)) else np.array([])


def _cell(score, best):
    if not len(score):
        return ""
    cell = f"{score.mean():.3f}" + (f" ± {score.std(ddof=1):.3f}" if len(score) > 1 else "")
    return f"**{cell}**" if score.mean() >= best else cell


def _difference(rows, **where):
    parts = [values(rows, f"ours_less_it_{c}", **where) for c in ("difference", "low", "high")]
    if not len(parts[0]):
        return ""
    middle, low, high = (part.mean() for part in parts)
    return f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"


def write_figure(rows, file, overview):
    """Draw a panel per task mean and share; dots are means over seeds, lines their range."""
    from matplotlib.figure import Figure

    methods = unique(rows, "method")
    panels = [
        (name, tasks, share)
        for name, tasks in overview.items()
        for share in unique([row for row in rows if row["task"] in tasks], "labels")
    ]
    columns = min(len(panels), COLUMNS)
    n = math.ceil(len(panels) / columns)
    figure = Figure(
        figsize=(2 + 2.6 * columns, 0.8 + (0.5 + 0.24 * len(methods)) * n), layout="constrained"
    )
    axes = figure.subplots(n, columns, squeeze=False, sharey=True)
    for ax in axes.flat[len(panels) :]:
        ax.set_visible(False)
    for (name, tasks, share), ax in zip(panels, axes.flat, strict=False):
        here = [row for row in rows if row["task"] in tasks and row["labels"] == share]
        for method, probe in itertools.product(unique(here, "method"), unique(here, "probe")):
            of_probe = [row for row in here if row["probe"] == probe]
            score = _mean_of_tasks(of_probe, tasks, method)
            if not len(score):
                continue
            place = methods.index(method)
            color = "#d55e00" if method.startswith(OURS) else "#0072b2"
            fill = "white" if probe == "knn" else color
            ax.plot([score.min(), score.max()], [place, place], color=color, zorder=1)
            ax.plot(score.mean(), place, "o", color=color, markerfacecolor=fill)
        ax.set_yticks(range(len(methods)), methods)
        of_labels = "" if share is None else " of labels"
        ax.set_title(f"{name}, {_share(share)}{of_labels}", fontsize="small")
        ax.grid(axis="x", color="0.9")
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    figure.supxlabel(
        "On test patients or in folds: AUC of a linear (filled) and kNN (open) probe; Dice of masks"
    )
    figure.savefig(file, dpi=100)
