"""Rows of results as a CSV, as tables and as a picture."""

import csv
import itertools

import numpy as np

from .features import OURS

PROBES = {"linear": "", "knn": "kNN ", "dense": "Dice "}


def write_csv(rows, file):
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        for row in rows:
            writer.writerow({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})


def unique(rows, column):
    """Values of a column in order of appearance."""
    return list(dict.fromkeys(row[column] for row in rows))


def values(rows, column, **where):
    """Values of a column, one a seed, where others have a value; without those not known."""
    found = [row for row in rows if all(row[name] == value for name, value in where.items())]
    return np.array([row[column] for row in found if row[column] is not None], float)


def write_tables(rows, file):
    """For every task the scores, and the differences from ours."""
    chance = values(rows, "matching_chance")
    lines = [
        f"AUC on test patients, mean ± standard deviation of {len(unique(rows, 'seed'))} seeds, by",
        "the share of the other patients whose labels are used. Matching: accuracy of the",
        "encoder's own tokens. CPU s: of pre-training and embedding.",
        *([f"Matching chance: {chance.mean():.2f}."] if len(chance) else []),
    ]
    for task in unique(rows, "task"):
        of_task = [row for row in rows if row["task"] == task]
        methods, fractions = unique(of_task, "method"), unique(of_task, "labels")
        columns = [(p, f) for p in unique(of_task, "probe") for f in fractions]
        scores = {
            method: [values(of_task, "score", method=method, probe=p, labels=f) for p, f in columns]
            for method in methods
        }
        best = np.max([[auc.mean() for auc in row] for row in scores.values()], axis=0)
        heads = [f"{PROBES[probe]}{100 * fraction:g} %" for probe, fraction in columns]
        lines += ["", *_head([task, *heads, "matching", "CPU s"])]
        for method, row in scores.items():
            cells = [_score(auc, auc.mean() >= top) for auc, top in zip(row, best, strict=True)]
            matching = values(of_task, "matching_accuracy", method=method)
            seconds = values(of_task, "cpu_seconds", method=method).mean()
            cells += [f"{matching.mean():.2f}" if len(matching) else "", f"{seconds:.0f}"]
            lines.append(_line([method, *cells]))
        if len(values(of_task, "ours_less_it_difference")):
            lines += [
                "",
                "Ours less it, linear probe, with 95 % intervals by patient (means over seeds of",
                "the difference and of the ends):",
                "",
                *_head([task, *(f"{100 * fraction:g} %" for fraction in fractions)]),
            ]
            for method in methods:
                if method != OURS:
                    cells = [_difference(of_task, method=method, labels=f) for f in fractions]
                    lines.append(_line([method, *cells]))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _score(auc, best):
    cell = f"{auc.mean():.3f} ± {auc.std(ddof=1) if len(auc) > 1 else 0:.3f}"
    return f"**{cell}**" if best else cell


def _difference(rows, **where):
    parts = (values(rows, f"ours_less_it_{c}", **where) for c in ("difference", "low", "high"))
    middle, low, high = (part.mean() for part in parts)
    return f"{middle:+.3f} ({low:+.3f} to {high:+.3f})"


def _line(cells):
    return f"| {' | '.join(cells)} |"


def _head(cells):
    return [_line(cells), "|" + "---|" * len(cells)]


def write_figure(rows, file):
    """A panel for each task and fraction; a dot is a mean over seeds, a line their range."""
    from matplotlib.figure import Figure

    methods, tasks, fractions = (unique(rows, name) for name in ("method", "task", "labels"))
    size = 2 + 2.6 * len(fractions), 0.8 + (0.5 + 0.24 * len(methods)) * len(tasks)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(tasks), len(fractions), squeeze=False, sharey=True)
    for task, panels in zip(tasks, axes, strict=True):
        for fraction, ax in zip(fractions, panels, strict=True):
            here = [row for row in rows if (row["task"], row["labels"]) == (task, fraction)]
            for method, probe in itertools.product(unique(here, "method"), unique(here, "probe")):
                score = values(here, "score", method=method, probe=probe)
                place, colour = methods.index(method), "#d55e00" if method == OURS else "#0072b2"
                fill = "white" if probe == "knn" else colour
                ax.plot([score.min(), score.max()], [place, place], color=colour, zorder=1)
                ax.plot(score.mean(), place, "o", color=colour, markerfacecolor=fill)
            ax.set_visible(bool(here))
            ax.set_yticks(range(len(methods)), methods)
            ax.set_title(f"{task}, {100 * fraction:g} % of labels", fontsize="small")
            ax.grid(axis="x", color="0.9")
            ax.spines[["top", "right"]].set_visible(False)
    axes[0, 0].invert_yaxis()
    figure.supxlabel(
        "On test patients: AUC of a linear (filled) and a kNN (open) probe; Dice of masks"
    )
    figure.savefig(file, dpi=150)
