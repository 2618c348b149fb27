"""Rows of results as a CSV, as tables and as a picture."""

import csv
import itertools

import numpy as np

from .features import OURS, Setting

PROBES = {"linear": "", "knn": "kNN ", "dense": "Dice "}
# What else there is to say of a method: column and format.
FACTS = {
    "matching": ("matching_accuracy", ".2f"),
    "chance": ("matching_chance", ".2f"),
    "CPU s": ("cpu_seconds", ".0f"),
    "learning rate": ("learning_rate", "g"),
    "weight": ("weight", "g"),
}


def write_csv(rows, file):
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow(
                {k: float(f"{v:.5g}") if isinstance(v, float) else v for k, v in row.items()}
            )


def read_rows(file):
    """Read such a CSV again; what only has to be written again stays as it stands there."""
    with open(file, newline="", encoding="utf-8") as stream:
        rows = [
            {
                **{column: value or None for column, value in row.items()},
                "seed": int(row["seed"]),
                "labels": float(row["labels"]),
            }
            for row in csv.DictReader(stream)
        ]
    if not rows:
        raise ValueError("no rows")
    return rows


def read_settings(file):
    """Read from such a CSV what was chosen for each method, a `Setting` by its name."""
    return {
        row["method"]: Setting(
            *(float(row[word]) if row[word] else None for word in Setting._fields)
        )
        for row in read_rows(file)
    }


def unique(rows, column):
    """Values of a column in order of appearance."""
    return list(dict.fromkeys(row[column] for row in rows))


def values(rows, column, **where):
    """Values of a column, one a seed, where others have a value; without those not known."""
    found = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return np.array([row[column] for row in found if row[column] is not None], float)


def write_tables(rows, file, overview):
    """Write what was found in short, and then for every task with the differences from ours.

    `overview` names means of tasks, as `Study.overview`.
    """
    lines = [
        f"# Results: {file.stem}",
        "",
        f"AUC on test patients, mean ± standard deviation of {len(unique(rows, 'seed'))} seeds, by",
        "the share of the other patients whose labels are used; Dice of masks that a linear head",
        "finds on the dense maps, by the share of patients annotated. The best is bold. Matching:",
        "accuracy of the encoder's own tokens. CPU s: of pre-training and embedding. Learning rate",
        f"and weight: as chosen, not by test patients. [Every score]({file.stem}.csv).",
        *_table(rows, overview, ("linear", "dense"), FACTS),
        "",
        f"![The same as a picture]({file.stem}.png)",
    ]
    for task in unique(rows, "task"):
        lines += ["", f"## {task}", *_table(rows, {"": (task,)}, PROBES, {})]
        of_task = [row for row in rows if row["task"] == task]
        if len(values(of_task, "ours_less_it_difference")):
            fractions = unique(of_task, "labels")
            lines += [
                "",
                "Ours less it, linear probe, with 95 % intervals by patient (means over seeds of",
                "the difference and of the ends). Peers that go on from ImageNet's weights are",
                "compared with ours from there, all others with ours from a random start:",
                "",
                *_head(["", *(f"{100 * fraction:g} %" for fraction in fractions)]),
            ]
            for method in unique(of_task, "method"):
                if method != OURS:
                    cells = [_difference(of_task, method=method, labels=f) for f in fractions]
                    lines.append(_line([method, *cells]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _table(rows, means, probes, facts):
    """Methods by means of tasks, probes and shares of labels; the best of a column is bold."""
    columns, heads = [], []
    for name, tasks in means.items():
        of_mean = [row for row in rows if row["task"] in tasks and row["probe"] in probes]
        for probe, share in dict.fromkeys((row["probe"], row["labels"]) for row in of_mean):
            columns.append(
                [row for row in of_mean if (row["probe"], row["labels"]) == (probe, share)]
            )
            heads.append(f"{name} {PROBES[probe]}{100 * share:g} %".strip())
    methods = unique(itertools.chain(*columns), "method")
    scores = [[_mean_of_tasks(column, method) for column in columns] for method in methods]
    best = [
        max(score.mean() for score in of_column if len(score))
        for of_column in zip(*scores, strict=True)
    ]
    lines = ["", *_head(["", *heads, *facts])]
    for method, row in zip(methods, scores, strict=True):
        cells = [_cell(score, top) for score, top in zip(row, best, strict=True)]
        for fact, form in facts.values():
            found = values(rows, fact, method=method)
            cells.append(f"{found.mean():{form}}" if len(found) else "")
        lines.append(_line([method, *cells]))
    return lines


def _mean_of_tasks(column, method):
    """Mean over tasks, one a seed."""
    of_method = [row for row in column if row["method"] == method]
    of_tasks = [values(of_method, "score", task=task) for task in unique(of_method, "task")]
    return np.mean(of_tasks, axis=0) if of_tasks else np.array([])


def _cell(score, best):
    if not len(score):
        return ""
    cell = f"{score.mean():.3f} ± {score.std(ddof=1) if len(score) > 1 else 0:.3f}"
    return f"**{cell}**" if score.mean() >= best else cell


def _difference(rows, **where):
    parts = [values(rows, f"ours_less_it_{c}", **where) for c in ("difference", "low", "high")]
    if not len(parts[0]):
        return ""
    middle, low, high = (part.mean() for part in parts)
    return f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"


def _line(cells):
    return f"| {' | '.join(cells)} |"


def _head(cells):
    return [_line(cells), "|" + "---|" * len(cells)]


def write_figure(rows, file, overview):
    """A panel for each mean of tasks and share; a dot is a mean over seeds, a line their range."""
    from matplotlib.figure import Figure

    # Masks are not looked for by every method.
    judged = unique(rows, "task")
    overview = {name: tasks for name, tasks in overview.items() if {*tasks} & {*judged}}
    methods, columns = unique(rows, "method"), len(unique(rows, "labels"))
    size = 2 + 2.6 * columns, 0.8 + (0.5 + 0.24 * len(methods)) * len(overview)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(overview), columns, squeeze=False, sharey=True)
    for (name, tasks), panels in zip(overview.items(), axes, strict=True):
        of_tasks = [row for row in rows if row["task"] in tasks]
        for fraction, ax in itertools.zip_longest(unique(of_tasks, "labels"), panels):
            here = [row for row in of_tasks if row["labels"] == fraction]
            ax.set_visible(bool(here))
            for method, probe in itertools.product(unique(here, "method"), unique(here, "probe")):
                score = _mean_of_tasks([row for row in here if row["probe"] == probe], method)
                if not len(score):
                    continue
                place = methods.index(method)
                colour = "#d55e00" if method.startswith(OURS) else "#0072b2"
                fill = "white" if probe == "knn" else colour
                ax.plot([score.min(), score.max()], [place, place], color=colour, zorder=1)
                ax.plot(score.mean(), place, "o", color=colour, markerfacecolor=fill)
            ax.set_yticks(range(len(methods)), methods)
            if here:
                ax.set_title(f"{name}, {100 * fraction:g} % of labels", fontsize="small")
            ax.grid(axis="x", color="0.9")
            ax.set_axisbelow(True)
            ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    figure.supxlabel(
        "On test patients: AUC of a linear (filled) and a kNN (open) probe; Dice of masks"
    )
    figure.savefig(file, dpi=100)
