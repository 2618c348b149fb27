"""Data of the benchmarks: images, patients, what is asked of them, and who is in the test set."""

import argparse
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from devices import add_device
from results import read_csv
from sklearn.model_selection import GroupShuffleSplit

from otcxr_sk import LAPTOP, Objective, Optimizer, OTCXRPretrainer, Views
from otcxr_sk.datasets import make_chest_phantoms

# Seed that draws the test patients. All published tables have the same ones.
TEST_SPLIT = 2024


def split_off(rows, patients, *, share=0.25, seed=TEST_SPLIT):
    """Return the rows that remain, and those of a share of the patients, drawn at random."""
    split = GroupShuffleSplit(1, test_size=share, random_state=seed)
    kept, apart = next(split.split(rows, groups=patients[rows]))
    return rows[kept], rows[apart]


def read_npz(file, *columns):
    """Return the images, the patients and columns of an .npz file."""
    stored = np.load(file)
    require(("images", "patient_ids", *columns), stored, file)
    return [stored[name] for name in ("images", "patient_ids", *columns)]


def read_folder(folder, table, *columns):
    """Return the paths of the images, the patients and columns of a CSV table.

    Paths in the table are relative to the folder; by default it is `labels.csv` in it.
    """
    table = table or folder / "labels.csv"
    rows = read_csv(table)
    require(("path", "patient_id", *columns), rows[0], table)
    paths = np.array([str(folder / row["path"]) for row in rows], dtype=object)
    return [paths, *(np.array([row[name] for row in rows]) for name in ("patient_id", *columns))]


def require(names, found, file):
    """Exit with a message if a file lacks a column."""
    for name in names:
        if name not in found:
            raise SystemExit(f"{file} has no {name!r}; it has {', '.join(found)}")


def class_tasks(classes, pair=None):
    """Return the labels of each task by its name, NaN for images that a task does not use.

    One task is to tell all classes apart; the other, which comes first, a pair of them.
    """
    values, codes = np.unique(classes, return_inverse=True)
    names = values.astype(str).tolist()
    tasks = {}
    if pair:
        missing = set(pair) - set(names)
        if missing:
            raise SystemExit(f"no class {missing.pop()!r}; there are {', '.join(names)}")
        tasks[" vs ".join(pair)] = np.select(
            [codes == names.index(name) for name in pair], [0.0, 1.0], np.nan
        )
    return tasks | {f"{len(values)} classes": codes.astype(float)}


def laptop(**changes):
    """Return an estimator with the laptop setting and some parameters changed.

    Its groups are objects, so `get_params` shows every parameter.
    """
    groups = {"optimizer": Optimizer(), "views": Views(), "objective": Objective()}
    # Workers change no result, but their number is part of the keys of results that are kept.
    return OTCXRPretrainer(**LAPTOP, **groups, num_workers=0).set_params(**changes)


@dataclass(frozen=True)
class Study:
    """Images and what is asked of them.

    Attributes
    ----------
    images : ndarray of shape (n, H, W)
    patients : ndarray of shape (n,)
    tasks : dict of str to ndarray of shape (n,)
        Labels by task, NaN for images that a task does not use.
    masks : dict of str to ndarray of bool, shape (n, k, S, S)
        Masks of k structures by name; the structures are scored together. S is the image size of
        the encoders.
    transfer : Study, optional
        Images of the same size from another source, which no method is trained on.
    together : str, optional
        Name for the mean over all tasks. By default tasks are not averaged.
    """

    images: np.ndarray
    patients: np.ndarray
    tasks: dict
    masks: dict = field(default_factory=dict)
    transfer: "Study | None" = None
    together: str | None = None

    def overview(self):
        """Return the tasks whose scores are averaged, by the name of their mean."""
        if self.together:
            found = {self.together: tuple(self.tasks)}
        else:
            found = {task: (task,) for task in self.tasks}
        others = self.transfer.tasks if self.transfer else ()
        return found | {task: (task,) for task in (*others, *self.masks)}

    def parts(self):
        """Return the rows to train and choose on, and the rows of the test patients."""
        return split_off(np.arange(len(self.patients)), self.patients)


def make_parser(description, *, seeds, out):
    """Return a parser of the arguments that name the data, the encoder and the files."""
    parser = argparse.ArgumentParser(description=description)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("data", nargs="?", type=Path, help=".npz with images and patient_ids")
    source.add_argument("--phantoms", type=int, metavar="N", help="N phantom patients, no DATA")
    parser.add_argument("--classes", default="labels", metavar="COLUMN")
    parser.add_argument("--pair", nargs=2, metavar="CLASS", help="two of the classes, a first task")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--encoder", default=LAPTOP["encoder"])
    parser.add_argument("--image-size", type=int, default=LAPTOP["image_size"])
    add_device(parser)
    parser.add_argument("--cache", type=Path, default=Path("peers-cache"))
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser


def read_study(options, transfer=None):
    """Read what `make_parser` parsed; `transfer` names another .npz file and its column."""
    if options.phantoms:
        return make_phantoms(options.phantoms, options.image_size)
    images, patients, classes = read_npz(options.data, options.classes)
    others = None
    if transfer:
        file, column = transfer
        other_images, other_patients, y = read_npz(file, column)
        if other_images.shape[1:] != images.shape[1:]:
            raise SystemExit(f"the images of {file} differ in size from those of {options.data}")
        others = Study(other_images, other_patients, {f"{Path(file).stem} {column}": y})
    return Study(images, patients, class_tasks(classes, options.pair), transfer=others)


def make_phantoms(n_patients, image_size):
    """Draw phantoms with their findings, and masks of lesions and lungs."""
    # Larger than the encoders see them, as real images are.
    found = make_chest_phantoms(n_patients, image_size=2 * image_size, random_state=TEST_SPLIT)
    masks = {"lesion masks": found.lesion_masks, "lung masks": found.lung_masks[:, None]}
    return Study(
        found.images,
        found.groups,
        dict(zip(found.label_names, found.labels.T.astype(float), strict=True)),
        {name: shrink_masks(mask, image_size) for name, mask in masks.items()},
        together="mean of findings",
    )


def shrink_masks(masks, size):
    """Shrink masks (n, k, S, S) to a size that divides S; half of the pixels or more make one."""
    n, k, side, _ = masks.shape
    step = side // size
    return masks.reshape(n, k, size, step, size, step).mean((3, 5)) >= 0.5
