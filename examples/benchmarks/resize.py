"""
Pad, crop or squash
===================

How much a probe leans on the shape of the film when images of unequal shapes are made square.

    python examples/benchmarks/resize.py kermany_dev.npz [--originals raw_samples/labels.csv]

In Kermany's files, those of pneumonia are wider than those without (`--originals`: a CSV with
label, width and height of original files). The rows of the npz are squares by now, so films of
unequal shapes are simulated from them: of every image a strip is kept whose shape is drawn as
those of the files are, virus as normal and bacteria as pneumonia ("linked"), or whichever comes
("free"). Encoder and probe learn from linked films of the training patients; a probe that reads
the disease does as well on free films of the test patients, one that reads the shape does not.
"""

import argparse
import csv

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from torch.utils.data import Dataset

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.evaluation import linear_probe
from otcxr_sk.images import DatasetSource

# Width over height of 28 original files: mean and standard deviation.
NARROW, WIDE = (1.27, 0.10), (1.49, 0.16)


def of_originals(path):
    """AUC of width over height alone, normal against pneumonia, with a bootstrap interval."""
    with open(path, newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["source"] == "kermany"]
    y = np.array([row["label"] != "normal" for row in rows])
    shape = np.array([float(row["width"]) / float(row["height"]) for row in rows])
    random = np.random.default_rng(0)
    picks = random.integers(0, len(y), (2000, len(y)))
    resampled = [roc_auc_score(y[p], shape[p]) for p in picks if 0 < y[p].sum() < len(y)]
    low, high = np.percentile(resampled, [2.5, 97.5])
    print(f"{len(y)} original files, normal or pneumonia, by width / height alone: ", end="")
    print(f"AUC {roc_auc_score(y, shape):.2f} (95 % interval {low:.2f} to {high:.2f})")
    for name, part in {"normal": ~y, "pneumonia": y}.items():
        print(f"  {name}: {shape[part].mean():.2f} +- {shape[part].std(ddof=1):.2f}")


class Films(Dataset):
    """The middle strip of every image, as wide as it is and of a shape of its own."""

    def __init__(self, images, shapes):
        self.images, self.shapes = images, shapes

    def __len__(self):
        return len(self.images)

    def __getitem__(self, row):
        height = round(self.images.shape[1] / self.shapes[row])
        top = (self.images.shape[1] - height) // 2
        return self.images[row][top : top + height]


def draw_shapes(wide, random):
    mean, std = np.where(np.asarray(wide)[:, None], WIDE, NARROW).T
    return np.clip(random.normal(mean, std), 1, 2)


def rows_of(films, rows):
    return Films(films.images[rows], films.shapes[rows])


def measure(embed, films, y, patients, train, test, shapes):
    """AUCs of a probe and how well the shape of free films is told from an embedding."""
    Z = {name: embed(film) for name, film in films.items()}
    mixed = {
        (fitted, judged): np.where(np.isin(np.arange(len(y)), train)[:, None], Z[fitted], Z[judged])
        for fitted, judged in [("linked", "linked"), ("linked", "free"), ("free", "free")]
    }
    aucs = [linear_probe(M, y, patients, train=train, test=test) for M in mixed.values()]
    ridge = RidgeCV(np.logspace(-2, 4, 7)).fit(Z["free"][train], np.log(shapes[train]))
    return [*aucs, ridge.score(Z["free"][test], np.log(shapes[test]))]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data")
    parser.add_argument("--originals")
    parser.add_argument("--epochs", type=int, default=LAPTOP["epochs"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args()
    if options.originals:
        of_originals(options.originals)
    with np.load(options.data) as data:
        kept = data["labels3"] > 0
        images, patients = data["images"][kept], data["patient_ids"][kept]
        y = (data["labels3"][kept] == 1).astype(float)
    print(
        "\nbacteria or virus, AUC on unseen patients; linked: the shape of the film tells the class"
    )
    print(f"{'':<26}{'linked-linked':>14}{'linked-free':>14}{'free-free':>14}{'R2 of shape':>14}")
    for seed in options.seeds:
        random = np.random.default_rng(seed)
        split = GroupShuffleSplit(1, test_size=0.3, random_state=seed)
        train, test = next(split.split(y, groups=patients))
        shapes = {"linked": draw_shapes(y > 0, random)}
        shapes["free"] = draw_shapes(random.permutation(y) > 0, random)
        films = {name: Films(images, shape) for name, shape in shapes.items()}
        print(f"shape alone, linked: {roc_auc_score(y, shapes['linked']):.3f}")
        for how in ("squash", "pad", "crop"):
            encoder = OTCXRPretrainer(
                **{**LAPTOP, "epochs": options.epochs}, resize=how, random_state=seed
            ).fit(rows_of(films["linked"], train))

            def pixels(film, how=how):
                source = DatasetSource(film, resize=how)
                return source.read(np.arange(len(film)), 16).reshape(len(film), -1)

            for name, embed in {"16x16 pixels": pixels, "otcxr": encoder.transform}.items():
                found = measure(embed, films, y, patients, train, test, shapes["free"])
                print(
                    f"{how + ', ' + name:<26}" + "".join(f"{v:>14.3f}" for v in found), flush=True
                )


if __name__ == "__main__":
    main()
