"""Data of the benchmarks: images, patients, what is asked of them, and who is in the test set."""

import argparse
import tomllib
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from devices import add_device
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
    stored, names = np.load(file), ("images", "patient_ids", *columns)
    for name in names:
        if name not in stored:
            raise SystemExit(f"{file} has no {name!r}; it has {', '.join(stored)}")
    return [stored[name] for name in names]


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
class Collection:
    """Images of one source and what is asked of them.

    Attributes
    ----------
    images : ndarray of shape (n, H, W)
    patients : ndarray of shape (n,)
    tasks : dict of str to ndarray of shape (n,)
        Labels by task, NaN for images that a task does not use.
    means : dict of str to tuple of str
        Tasks of which only the mean is shown in the overview, by its name.
    masks : dict of str to ndarray of bool, shape (n, k, S, S)
        Masks of k structures by name; the structures are scored together. S is the image size of
        the encoders.
    shares : tuple of float
        Shares of the training patients whose labels are used.
    in_folds : bool
        Whether it has no test patients and is judged by cross-validation, with all labels.
    caveat : str
    """

    images: np.ndarray
    patients: np.ndarray
    tasks: dict
    means: dict = field(default_factory=dict)
    masks: dict = field(default_factory=dict)
    shares: tuple = (0.01, 0.1, 1.0)
    in_folds: bool = False
    caveat: str = ""

    def parts(self):
        """Return the rows to train and choose on, and the rows of the test patients."""
        rows = np.arange(len(self.patients))
        return (rows, rows[:0]) if self.in_folds else split_off(rows, self.patients)

    def overview(self):
        """Return the tasks whose scores are averaged, by the name of their mean."""
        averaged = {task for tasks in self.means.values() for task in tasks}
        alone = [task for task in (*self.tasks, *self.masks) if task not in averaged]
        return self.means | {task: (task,) for task in alone}


@dataclass(frozen=True)
class Study:
    """Collections by name: all are judged, and those of the pool are trained on.

    The images of the study are those of all collections, one after the other.
    """

    collections: dict
    pool: tuple

    @cached_property
    def images(self):
        return np.concatenate([each.images for each in self.collections.values()])

    def split(self, values):
        """Split values, one for each image, by collection."""
        ends = np.cumsum([len(each.patients) for each in self.collections.values()])
        return dict(zip(self.collections, np.split(values, ends[:-1]), strict=True))

    def parts(self):
        """Return the rows to train on, and the rows of the test patients of the pool.

        A patient who is tested in any collection is trained on in none.
        """
        tested = {
            person(patient)
            for each in self.collections.values()
            for patient in each.patients[each.parts()[1]]
        }
        train, test = [], []
        for name, rows in self.split(np.arange(len(self.images))).items():
            if name in self.pool:
                kept, apart = self.collections[name].parts()
                patients = self.collections[name].patients[kept]
                train.append(rows[kept[[person(patient) not in tested for patient in patients]]])
                test.append(rows[apart])
        return np.concatenate(train), np.concatenate(test)

    def to_choose_on(self):
        """Return the collections that have other than test patients to choose by, by name."""
        return {name: each for name, each in self.collections.items() if not each.in_folds}

    def overview(self):
        """Return the tasks whose scores are averaged, by the name of their mean."""
        found = {}
        for name, each in self.collections.items():
            if has_mean(each):
                found[mean_of(name)] = (mean_of(name),)
            found |= each.overview()
        return found


def person(patient):
    """Return the id of a patient as every collection of a source has it, padded or not."""
    return str(patient).lstrip("0")


def has_mean(collection):
    """Return whether a collection has several scores, of tasks or shares of labels."""
    return len(collection.tasks) * len(collection.shares) > 1


def mean_of(name):
    """Return what the mean over all tasks and shares of a collection is called."""
    return f"mean of {name}"


def make_parser(description, *, seeds, out):
    """Return a parser of the arguments that name the data, the encoder and the files."""
    parser = argparse.ArgumentParser(description=description)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("collections", nargs="?", type=Path, help=".toml file that describes them")
    source.add_argument("--phantoms", type=int, metavar="N", help="N phantom patients instead")
    parser.add_argument("folder", nargs="?", type=Path, help="where the files of collections are")
    parser.add_argument("--pool", nargs="+", metavar="NAME", help="collections to train on")
    parser.add_argument("--seeds", type=int, default=seeds)
    parser.add_argument("--encoder", default=LAPTOP["encoder"])
    parser.add_argument("--image-size", type=int, default=LAPTOP["image_size"])
    add_device(parser)
    parser.add_argument("--cache", type=Path, default=Path("peers-cache"))
    parser.add_argument("--out", type=Path, default=Path(out))
    return parser


def read_study(options):
    """Read what `make_parser` parsed."""
    if options.phantoms:
        phantoms = make_phantoms(options.phantoms, options.image_size)
        return Study({"phantoms": phantoms}, ("phantoms",))
    if not (options.folder and options.pool):
        raise SystemExit(f"{options.collections} needs a folder, and --pool names to train on")
    described = tomllib.loads(options.collections.read_text(encoding="utf-8"))
    for name in options.pool:
        if name not in described:
            raise SystemExit(f"no collection {name!r}; there are {', '.join(described)}")
    found = {name: read_collection(options.folder, **each) for name, each in described.items()}
    sizes = {name: each.images.shape[1:] for name, each in found.items()}
    if len(set(sizes.values())) > 1:
        raise SystemExit(f"images of collections differ in size: {sizes}")
    study = Study(found, tuple(name for name in found if name in options.pool))
    if not study.to_choose_on().keys() & study.pool:
        raise SystemExit("a pool needs a collection that is not judged in folds")
    return study


def read_collection(
    folder,
    file,
    *,
    classes=None,
    pair=None,
    findings=None,
    mean=None,
    at_least=1,
    without=(),
    positive=None,
    **options,
):
    """Read a collection as a .toml file describes it."""
    positive = positive or {}
    used = [name for name in (classes, findings) if name]
    used += [task["column"] for task in positive.values()]
    images, patients, *columns = read_npz(folder / file, *used)
    columns = dict(zip(used, columns, strict=True))
    tasks = class_tasks(columns[classes], pair) if classes else {}
    if findings:
        (names,) = read_npz(folder / file, "label_names")[2:]
        of_findings = zip(names.tolist(), columns[findings].T.astype(float), strict=True)
        tasks |= {name: y for name, y in of_findings if name not in without and y.sum() >= at_least}
    means = {mean: tuple(tasks)} if mean else {}
    for name, task in positive.items():
        tasks[name] = positive_task(columns[task["column"]].ravel(), task["value"])
    return Collection(images, patients, tasks, means, **options)


def positive_task(column, value):
    """Return 1.0 where a column has a value, 0.0 where it has another, NaN where it is empty."""
    return np.where(column.astype(str) == "", np.nan, column == value)


def make_phantoms(n_patients, image_size):
    """Draw phantoms with their findings, and masks of lesions and lungs."""
    # Larger than the encoders see them, as real images are.
    found = make_chest_phantoms(n_patients, image_size=2 * image_size, random_state=TEST_SPLIT)
    masks = {"lesion masks": found.lesion_masks, "lung masks": found.lung_masks[:, None]}
    tasks = dict(zip(found.label_names, found.labels.T.astype(float), strict=True))
    return Collection(
        found.images,
        found.groups,
        tasks,
        {"mean of findings": tuple(tasks)},
        {name: shrink_masks(mask, image_size) for name, mask in masks.items()},
    )


def shrink_masks(masks, size):
    """Shrink masks (n, k, S, S) to a size that divides S; half of the pixels or more make one."""
    n, k, side, _ = masks.shape
    step = side // size
    return masks.reshape(n, k, size, step, size, step).mean((3, 5)) >= 0.5
