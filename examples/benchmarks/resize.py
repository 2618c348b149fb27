"""
Pad, crop or squash
===================

Measures how much a probe relies on the shape of the film when images that are not square are made
square.

    python examples/benchmarks/resize.py kermany_dev.npz [--originals raw_samples/labels.csv]

In Kermany's files, images with pneumonia are wider than those without (``--originals``: a CSV file
with label, width and height of original files). The images of the .npz file are square already, so
films of other shapes are simulated: each image keeps a strip whose shape is drawn from the
distribution of the original files. Either virus gets the shapes of normal images and bacteria those
of pneumonia ("linked"), or shapes are assigned at random ("free"). The encoder and the probe are
trained on linked films of the training patients. A probe that recognizes the disease does as well
on free films of the test patients; one that recognizes the shape does not.
"""

import argparse

import numpy as np
from results import read_csv
from sklearn.linear_model import RidgeCV
from sklearn.metrics import roc_auc_score
from study import laptop, read_npz, split_off
from torch.utils.data import Dataset

from otcxr_sk import LAPTOP
from otcxr_sk.evaluation import linear_probe, pixel_features
from otcxr_sk.images import DatasetSource

# Width over height of 28 original files: mean and standard deviation.
NARROW, WIDE = (1.27, 0.10), (1.49, 0.16)


def print_originals(path):
    """Print the AUC of width over height alone, normal against pneumonia, with an interval."""
    rows = [row for row in read_csv(path) if row["source"] == "kermany"]
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
    """The middle strip of each image, of full width; `shapes` are width over height."""

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


def measure(embed, films, y, patients, train, test, shapes):
    """Return AUCs of a probe, and R2 of the shape of free films predicted from the embedding."""
    Z = {name: embed(film) for name, film in films.items()}
    mixed = {
        (fitted, tested): np.where(np.isin(np.arange(len(y)), train)[:, None], Z[fitted], Z[tested])
        for fitted, tested in [("linked", "linked"), ("linked", "free"), ("free", "free")]
    }
    aucs = [linear_probe(M, y, patients, train=train, test=test) for M in mixed.values()]
    ridge = RidgeCV(np.logspace(-2, 4, 7)).fit(Z["free"][train], np.log(shapes[train]))
    return [*aucs, ridge.score(Z["free"][test], np.log(shapes[test]))]


def main(arguments=None):
    parser = argparse.ArgumentParser(description="How a probe relies on the shape of the film.")
    parser.add_argument("data")
    parser.add_argument("--originals")
    parser.add_argument("--epochs", type=int, default=LAPTOP["epochs"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    options = parser.parse_args(arguments)
    if options.originals:
        print_originals(options.originals)
    images, patients, classes = read_npz(options.data, "labels3")
    images, patients, classes = (values[classes > 0] for values in (images, patients, classes))
    y = (classes == 1).astype(float)
    print(
        "\nbacteria or virus, AUC on unseen patients; linked: the shape of the film tells the class"
    )
    print(f"{'':<26}{'linked-linked':>14}{'linked-free':>14}{'free-free':>14}{'R2 of shape':>14}")
    for seed in options.seeds:
        random = np.random.default_rng(seed)
        train, test = split_off(np.arange(len(y)), patients, share=0.3, seed=seed)
        shapes = {"linked": draw_shapes(y > 0, random)}
        shapes["free"] = draw_shapes(random.permutation(y) > 0, random)
        films = {name: Films(images, shape) for name, shape in shapes.items()}
        print(f"shape alone, linked: {roc_auc_score(y, shapes['linked']):.3f}")
        seen = Films(images[train], shapes["linked"][train])
        for how in ("squash", "pad", "crop"):
            encoder = laptop(epochs=options.epochs, resize=how, random_state=seed).fit(seen)

            def pixels(film, how=how):
                return pixel_features(DatasetSource(film, resize=how))

            for name, embed in {"16x16 pixels": pixels, "otcxr": encoder.transform}.items():
                found = measure(embed, films, y, patients, train, test, shapes["free"])
                print(
                    f"{how + ', ' + name:<26}" + "".join(f"{v:>14.3f}" for v in found), flush=True
                )


if __name__ == "__main__":
    main()
