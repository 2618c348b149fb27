"""Images, and what they may be wrapped in."""

import os

import h5py
import numpy as np
import pytest
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.estimators._inputs import check_images
from otcxr_sk.images import ArraySource, as_source

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 20, 18), dtype=np.uint8)
UNIT = IMAGES / 255
PILS = [Image.fromarray(image) for image in IMAGES]
EXPECTED = ArraySource(IMAGES).read(range(5), 9)


def by_estimator(X, *, on_error="raise", **options):
    estimator = OTCXRPretrainer()
    allow = on_error != "raise"
    return check_images(
        X, estimator, **{"image_shape": None, "fitting": True, **options}, allow_unusable=allow
    )


BOTH = pytest.mark.parametrize("open_", [as_source, by_estimator], ids=["source", "estimator"])


class ArrayLike:
    """Converts itself to an array, and has no shape."""

    def __init__(self, array):
        self.array = array

    def __array__(self, dtype=None, copy=None):
        return self.array


class Capsule:
    """What other libraries exchange arrays by."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


class Items(Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, row):
        return self.make(IMAGES[row])


class Indexed:
    """A class of the user's own."""

    def __len__(self):
        return len(IMAGES)

    def __getitem__(self, row):
        return UNIT[row]


class Stream(IterableDataset):
    def __iter__(self):
        return iter(IMAGES)


def objects(values):
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


def h5(values, tmp_path):
    return h5py.File(tmp_path / "values.h5", "w").create_dataset("values", data=values)


def encoded(paths):
    return [os.fsencode(path) for path in paths]
