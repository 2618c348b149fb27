import numpy as np
import pytest
import torch
from PIL import Image
from wrappings import EXPECTED, IMAGES, Items, Stream

from otcxr_sk.images import ArraySource, DatasetSource, ImageReadError

ITEMS = {
    "array": np.asarray,
    "16 bits": lambda gray: gray.astype(np.uint16) * 257,
    "unit floats": lambda gray: gray / 255,
    "tensor": torch.from_numpy,
    "tensor with gradient": lambda gray: (torch.from_numpy(gray) / 255).requires_grad_(),
    "channel first": lambda gray: torch.from_numpy(gray)[None],
    "channel last": lambda gray: gray[..., None],
    "color first": lambda gray: np.stack([gray] * 3),
    "color last": lambda gray: np.stack([gray] * 3, axis=-1),
    "image": Image.fromarray,
    "color image": lambda gray: Image.fromarray(gray).convert("RGB"),
    "palette": lambda gray: Image.fromarray(gray).convert("P"),
    "image and label": lambda gray: (Image.fromarray(gray), 3),
    "mapping": lambda gray: {"label": 3, "image": gray},
    "mapping of one image": lambda gray: {"scan": torch.from_numpy(gray), "label": "sick"},
    "mapping in a tuple": lambda gray: ({"img": Image.fromarray(gray)}, 3),
    "mapping of several arrays": lambda gray: {"label": 1, "pixel_values": gray, "mask": gray[:3]},
    "nested lists under a name": lambda gray: {"image": (gray / 255).tolist()},
    "tensor, label and more": lambda gray: [torch.from_numpy(gray), 1, "patient"],
}


@pytest.mark.parametrize("kind", ITEMS)
def test_every_kind_of_item_reads_the_same(kind):
    source = DatasetSource(Items(ITEMS[kind]))
    assert len(source) == 5
    np.testing.assert_allclose(source.read(range(5), 9), EXPECTED, atol=1e-6)


def test_bfloat16_is_read_within_its_precision():
    source = DatasetSource(Items(lambda gray: (torch.from_numpy(gray) / 255).bfloat16()))
    np.testing.assert_allclose(source.read(range(5), 9), EXPECTED, atol=0.004)


def test_exif_orientation_is_applied_to_a_copy():
    turned = Image.fromarray(IMAGES[0])
    turned.getexif()[0x0112] = 6
    source = DatasetSource([turned])
    expected = ArraySource(np.rot90(IMAGES[0], -1)[None].copy()).read([0], 8)
    for _ in range(2):
        np.testing.assert_allclose(source.read([0], 8), expected, atol=1e-6)
    assert turned.size == (18, 20)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("text", "items must be PIL images, arrays or tensors of numbers, got 'text'"),
        ("a.png", "got 'a.png'; for images in files, pass a list of their paths alone"),
        (None, "of numbers, got None"),
        (object(), "of numbers, got something else"),
        ({"image": 1}, "of numbers, got 1"),
        ({"label": 1, "age": 70}, "none of 'label', 'age' in the item is an image"),
        ({"image": np.eye(3), "img": np.eye(3)}, "several images, 'image', 'img'"),
        ({}, "none of nothing in the item"),
        ((), "of numbers, got something else"),
        (np.ma.masked_equal(np.eye(3), 1), "some of its pixels are masked"),
        (np.zeros(4), r"must have shape \(height, width\), .* got \(4,\)"),
        (np.zeros((3, 5, 3)), r"must have shape .* got \(3, 5, 3\)"),
        (np.zeros((4, 5, 6)), r"must have shape .* got \(4, 5, 6\)"),
        (np.zeros((0, 5)), r"no pixels, its shape is \(0, 5\)"),
        (np.zeros((2, 2), complex), "of numbers"),
        (Image.new("I", (3, 3)), "32 bits"),
    ],
)
def test_an_item_that_is_not_an_image_is_an_error_that_names_the_row(item, message):
    with pytest.raises(ImageReadError, match=f"row 1: .*{message}"):
        DatasetSource([np.ones((3, 3)), item]).read([0, 1], 4)


def test_an_error_of_the_dataset_is_the_cause_of_one_that_names_the_row():
    class Broken(Items):
        def __getitem__(self, row):
            raise KeyError("file 7")

    with pytest.raises(ImageReadError, match="row 2: the data set fails to return this item") as e:
        DatasetSource(Broken(None)).read([2], 4)
    assert isinstance(e.value.__cause__, KeyError)


def test_an_iterable_dataset_is_refused():
    with pytest.raises(ValueError, match="the data set has no length"):
        DatasetSource(Stream())
