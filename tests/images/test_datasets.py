"""Images from data sets of torch."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset, IterableDataset

from otcxr_sk.images import ArraySource, DatasetSource, ImageReadError

STACK = np.random.default_rng(0).integers(0, 256, (5, 6, 4), dtype=np.uint8)
EXPECTED = ArraySource(STACK).read(range(5), 8)


class Items(Dataset):
    def __init__(self, make):
        self.make = make

    def __len__(self):
        return len(STACK)

    def __getitem__(self, row):
        return self.make(STACK[row])


ITEMS = {
    "array": np.asarray,
    "16 bits": lambda gray: gray.astype(np.uint16) * 257,
    "unit floats": lambda gray: gray / 255,
    "tensor": torch.from_numpy,
    "tensor that learns": lambda gray: (torch.from_numpy(gray) / 255).requires_grad_(),
    "channel first": lambda gray: torch.from_numpy(gray)[None],
    "channel last": lambda gray: gray[..., None],
    "colour first": lambda gray: np.stack([gray] * 3),
    "colour last": lambda gray: np.stack([gray] * 3, axis=-1),
    "image": Image.fromarray,
    "colour image": lambda gray: Image.fromarray(gray).convert("RGB"),
    "palette": lambda gray: Image.fromarray(gray).convert("P"),
    "image and label": lambda gray: (Image.fromarray(gray), 3),
    "tensor, label and more": lambda gray: [torch.from_numpy(gray), 1, "patient"],
}


@pytest.mark.parametrize("kind", ITEMS)
def test_every_kind_of_item_is_the_same_picture(kind):
    source = DatasetSource(Items(ITEMS[kind]))
    assert len(source) == 5
    np.testing.assert_allclose(source.read(range(5), 8), EXPECTED, atol=1e-6)


def test_bfloat16_is_read_within_its_precision():
    source = DatasetSource(Items(lambda gray: (torch.from_numpy(gray) / 255).bfloat16()))
    np.testing.assert_allclose(source.read(range(5), 8), EXPECTED, atol=0.004)


def test_images_are_left_as_they_are():
    turned = Image.fromarray(STACK[0])
    turned.getexif()[0x0112] = 6
    source = DatasetSource([turned])
    expected = ArraySource(np.rot90(STACK[0], -1)[None].copy()).read([0], 8)
    for _ in range(2):
        np.testing.assert_allclose(source.read([0], 8), expected, atol=1e-6)
    assert turned.size == (4, 6)


def test_sizes_may_differ():
    source = DatasetSource([np.ones((3, 5)), np.ones((9, 2)), np.ones((4, 4))])
    assert source.read([0, 1, 2], 6).shape == (3, 1, 6, 6)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("text", "has to give PIL images, arrays or tensors of numbers, not 'text'"),
        ({"image": 1}, "not {'image': 1}"),
        ((), "not ()"),
        (np.zeros(4), r"shape \(4,\) is not one of"),
        (np.zeros((3, 5, 3)), r"shape \(3, 5, 3\) is not one of"),
        (np.zeros((4, 5, 6)), r"shape \(4, 5, 6\) is not one of"),
        (np.zeros((0, 5)), r"shape \(0, 5\) is not one of"),
        (np.zeros((2, 2), complex), "of numbers"),
        (Image.new("I", (3, 3)), "32 bits"),
    ],
    ids=repr,
)
def test_an_item_that_is_no_image_is_named_by_its_row(item, message):
    with pytest.raises(ImageReadError, match=f"row 1: .*{message}"):
        DatasetSource([np.ones((3, 3)), item]).read([0, 1], 4)


def test_an_error_of_the_data_set_is_named_by_its_row_and_kept():
    class Broken(Items):
        def __getitem__(self, row):
            raise KeyError("file 7")

    with pytest.raises(ImageReadError, match=r"row 2: the data set .* \(KeyError: 'file 7'\)") as e:
        DatasetSource(Broken(None)).read([2], 4)
    assert isinstance(e.value.__cause__, KeyError)


def test_a_stream_is_refused():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(STACK)

    with pytest.raises(ValueError, match="Stream has no __len__; wanted is a map-style data set"):
        DatasetSource(Stream())
