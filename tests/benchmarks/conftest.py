"""Data of the benchmarks, small, and little that is asked of them."""

import numpy as np
import pytest
from peers import choosing, judging
from small_studies import COLLECTIONS, make_collection
from study import Collection, Study

from otcxr_sk.datasets import make_chest_phantoms


@pytest.fixture(scope="module")
def phantoms():
    return make_chest_phantoms(
        60, images_per_patient=1, image_size=32, return_masks=False, random_state=0
    )


@pytest.fixture
def folder(phantoms, tmp_path):
    """A folder with three collections of phantoms, and the file that describes them."""
    n, images = np.arange(60), phantoms.images
    known = {"images": images, "patient_ids": phantoms.groups}
    np.savez(tmp_path / "children.npz", **known, kind=n // 4 % 3)
    labels = np.stack([n // 2 % 2, n < 9, n // 3 % 2, n % 2], 1)
    kind = np.array(["", "opacity", "normal"])[n // 2 % 3]
    other = {"images": 255 - images, "patient_ids": np.char.add("a", phantoms.groups.astype(str))}
    names = ["tall", "rare", "wide", "dark"]
    np.savez(tmp_path / "adults.npz", **other, labels=labels, label_names=names, kind=kind)
    few = {name: values[:20] for name, values in known.items()}
    np.savez(tmp_path / "small.npz", **few, labels=n[:20, None] % 2)
    (tmp_path / "collections.toml").write_text(COLLECTIONS)
    return tmp_path


@pytest.fixture
def data(folder):
    """An .npz file of phantoms in three classes."""
    return folder / "children.npz"


@pytest.fixture
def few_draws(monkeypatch):
    """Let probes be judged by few draws, folds and resamples."""
    for module in (choosing, judging):
        monkeypatch.setattr(module, "DRAWS", 2)
        monkeypatch.setattr(module, "FOLDS", 2)
    for name, value in {"REPEATS": 2, "RESAMPLES": 100}.items():
        monkeypatch.setattr(judging, name, value)


@pytest.fixture
def study(few_draws):
    known = np.random.default_rng(0).integers(0, 2, 80).astype(float)
    collections = {
        "a": make_collection(1, shares=(0.2, 1.0)),
        "b": make_collection(2, ids="00{}", shares=(1.0,)),
        "c": Collection(
            np.random.default_rng(3).random((80, 4, 4)),
            np.arange(80),
            {"known": known},
            shares=(1.0,),
            in_folds=True,
        ),
    }
    return Study(collections, ("a",))
