"""Small studies of noise and of phantoms, and methods that guess."""

import numpy as np
from peers.features import Method
from peers.pretrain import Budget
from study import Collection, Study

from otcxr_sk import Optimizer

BUDGET = Budget("resnet10t", 32, match_stride=8, epochs=1, batch_size=32, optimizer=Optimizer())
SMALL = {"encoder": "resnet10t", "image_size": 32, "epochs": 1, "batch_size": 32}


COLLECTIONS = """
[children]
file = "children.npz"
classes = "kind"
pair = ["0", "2"]
shares = [0.2, 1.0]

[adults]
file = "adults.npz"
findings = "labels"
mean = "mean of findings"
at_least = 10
without = ["dark"]
positive = { "lung opacity" = { column = "kind", value = "opacity" } }
shares = [1.0]
caveat = "drawn by a computer"

[small]
file = "small.npz"
positive = { "sick" = { column = "labels", value = 1 } }
shares = [1.0]
in_folds = true
"""


def arguments(folder, *pool):
    return [str(folder / "collections.toml"), str(folder), "--pool", *pool]


def make_collection(seed, *, n=60, tasks=2, ids="{}", **options):
    """Two images of each of n patients, none like another; every label is unknown for some."""
    random = np.random.default_rng(seed)
    patients = np.repeat([ids.format(patient) for patient in range(n)], 2)
    labels = random.integers(0, 2, (tasks, 2 * n)).astype(float)
    labels[:, ::9] = np.nan
    images = random.random((2 * n, 4, 4))
    names = [f"task {seed}{task}" for task in range(tasks)]
    return Collection(images, patients, dict(zip(names, labels, strict=True)), **options)


def alone(collection):
    return Study({"alone": collection}, ("alone",))


def guess(seed, **options):
    return Method(lambda images, *_: (guesses(len(images), seed), None), random=False, **options)


def guesses(n, seed):
    return np.random.default_rng(seed).normal(size=(n, 5))
