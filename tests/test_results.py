"""What pages say of the comparison is what its CSV files hold."""

import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from peers.report import PROBES, read_rows

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "docs" / "results"
PAGES = sorted(page.stem for page in RESULTS.glob("peers-*.md"))
RADIOGRAPHS, PHANTOMS = "peers-kermany", "peers-phantoms"
FROM_IMAGENET = "peers-phantoms-imagenet"
PAIR, CLASSES = ("1 vs 2",), ("3 classes",)
FINDINGS = ("nodule", "opacity", "effusion", "pneumothorax", "cardiomegaly")
# What tables written by hand call columns: the file, the tasks whose mean it is, and the probe.
COLUMNS = {
    "bacteria or virus": (RADIOGRAPHS, PAIR, "linear"),
    "normal, bacteria, virus": (RADIOGRAPHS, CLASSES, "linear"),
    "3 classes": (RADIOGRAPHS, CLASSES, "linear"),
    "findings of phantoms": (PHANTOMS, FINDINGS, "linear"),
    "lesions": (PHANTOMS, ("lesion masks",), "dense"),
    "lungs": (PHANTOMS, ("lung masks",), "dense"),
}
METHODS = {
    "16x16 pixels": "pixels 16x16",
    "untrained encoder": "untrained",
    "imagenet, 128 px": "imagenet 128 px",
    "as downloaded": "imagenet 128 px",
}


@cache
def rows_of(name):
    return read_rows(RESULTS / "data" / f"{name}.csv")


def scores(name, method, tasks, probe, labels):
    """Return the mean over tasks of each seed."""
    found = {
        (row["task"], row["seed"]): float(row["score"])
        for row in rows_of(name)
        if (row["method"], row["probe"], row["labels"]) == (method, probe, labels)
        and row["task"] in tasks
    }
    seeds = sorted({seed for _, seed in found})
    return np.array([np.mean([found[task, seed] for task in tasks]) for seed in seeds])


def tables(text):
    """Return the tables of a page: heading, columns, and the cells of each row by its name."""
    found, heading, before = [], "", []
    for line in text.splitlines():
        if line.startswith("## "):
            heading = line[3:]
        cells = [cell.strip(" *") for cell in line[1:-1].split("|")]
        if line.startswith("|---"):
            found.append((heading, before[1:], {}))
        elif line.startswith("|") and before:
            found[-1][2][cells[0]] = cells[1:]
        before = cells if line.startswith("|") else []
    return found


@pytest.mark.parametrize("name", PAGES)
def test_a_generated_page_has_the_scores_of_its_file(name):
    text = (RESULTS / f"{name}.md").read_text(encoding="utf-8")
    tasks = {row["task"] for row in rows_of(name)}
    probes = {word.strip(): probe for probe, word in PROBES.items()}
    compared = 0
    for task, columns, cells in tables(text):
        for method, row in cells.items() if task in tasks else ():
            for column, cell in zip(columns, row, strict=True):
                word, share = re.fullmatch(r"(kNN|Dice)? ?([\d.]+ %|all shares)", column).groups()
                labels = None if share == "all shares" else float(share[:-2]) / 100
                # Neither empty nor a difference with its interval.
                if cell and "to" not in cell:
                    found = scores(name, method, (task,), probes[word or ""], labels)
                    mean, *spread = map(float, cell.split(" ± "))
                    assert found.mean() == pytest.approx(mean, abs=6e-4)
                    assert len(spread) == (len(found) > 1)
                    assert not spread or found.std(ddof=1) == pytest.approx(*spread, abs=6e-4)
                    compared += 1
    assert compared > len(tasks)


@pytest.mark.parametrize("page", ["README.md", "docs/results/peers.md"])
def test_a_table_written_by_hand_has_the_scores_of_the_files(page):
    compared = 0
    for heading, columns, cells in tables((ROOT / page).read_text(encoding="utf-8")):
        # A column without a name has that of the column before it.
        names, name = [], None
        for column in columns:
            name, _, share = column.rpartition(", ") if ", " in column else (name, "", column)
            names.append((name, share))
        if not {name for name, _ in names} <= COLUMNS.keys():
            continue
        for title, row in cells.items():
            method = title.lower()
            if heading == "Starting from ImageNet" and method.startswith("+ "):
                method = f"{method[2:]} from imagenet, 128 px"
            method = METHODS.get(method, method)
            for (name, share), cell in zip(names, row, strict=True):
                file, tasks, probe = COLUMNS[name]
                if heading == "A larger network, larger images":
                    file = "peers-kermany-resnet18"
                known = scores(file, method, tasks, probe, float(share[:-2]) / 100)
                if file == PHANTOMS and not len(known):
                    known = scores(FROM_IMAGENET, method, tasks, probe, float(share[:-2]) / 100)
                if cell and len(known):
                    assert (title, name, known.mean()) == (
                        *(title, name),
                        pytest.approx(float(cell), abs=6e-4),
                    )
                    compared += 1
    assert compared > 20
