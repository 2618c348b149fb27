"""Data sets of Hugging Face's library, read by row."""

import datasets
import numpy as np
import pytest
import torch
from datasets import Array2D, Array3D, Features, List, Value
from PIL import Image

from otcxr_sk.images import ArraySource, PathSource, as_source

IMAGES = np.random.default_rng(0).integers(0, 256, (5, 20, 18), dtype=np.uint8)
EXPECTED = ArraySource(IMAGES).read(range(5), 9)


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    datasets.disable_progress_bars()


def data(**columns):
    """Images beside labels and paths, as such data sets have them."""
    features = {"image": datasets.Image(), "label": Value("int64"), "path": Value("string")}
    default = {
        "image": [Image.fromarray(image) for image in IMAGES],
        "label": [0, 1, 0, 1, 0],
        "path": [None, None, *"abc"],
    }
    features |= {name: feature for name, (feature, _) in columns.items()}
    default |= {name: values for name, (_, values) in columns.items()}
    return datasets.Dataset.from_dict(default, Features(features))


def only(feature, values):
    return datasets.Dataset.from_dict({"scan": values}, Features({"scan": feature}))


DATA = {
    "PIL images": data,
    "another name": lambda: data().rename_column("image", "xray"),
    "a selection": lambda: data().select([4, 3, 2, 1, 0]).select([4, 3, 2, 1, 0]),
    "as tensors": lambda: data().with_format("torch"),
    "as arrays": lambda: data().with_format("numpy"),
    "labels as tensors": lambda: data().with_format("torch", columns=["label"]),
    "a column": lambda: data()["image"],
    "a transform": lambda: data().with_transform(
        lambda batch: {"pixel_values": [np.array(image)[None] for image in batch["image"]]}
    ),
    "in a subset": lambda: torch.utils.data.Subset(data(), range(5)),
    "bytes": lambda: only(Array2D((20, 18), "uint8"), list(IMAGES)),
    "column of bytes": lambda: only(Array2D((20, 18), "uint8"), list(IMAGES))["scan"],
    "16 bits": lambda: only(Array2D((20, 18), "uint16"), list(IMAGES.astype(np.uint16) * 257)),
    "floats": lambda: only(Array2D((20, 18), "float32"), list(IMAGES / 255)),
    "with a channel": lambda: only(Array3D((1, 20, 18), "uint8"), list(IMAGES[:, None])),
    "lists of bytes": lambda: only(List(List(Value("uint8"))), IMAGES.tolist()),
    "lists of floats": lambda: only(List(List(Value("float64"))), (IMAGES / 255).tolist()),
}


@pytest.mark.parametrize("kind", DATA)
def test_the_column_of_images_is_read(kind):
    source = as_source(DATA[kind]())
    assert len(source) == 5
    np.testing.assert_allclose(source.read(range(5), 9), EXPECTED, atol=1e-6)


def test_files_of_any_size_are_decoded_when_they_are_read(tmp_path):
    paths = [str(tmp_path / f"{row}.png") for row in range(5)]
    for path, image in zip(paths, IMAGES, strict=True):
        Image.fromarray(image).save(path)
    Image.new("L", (3, 7), 255).save(paths[3])
    source = as_source(
        datasets.Dataset.from_dict({"file": paths}).cast_column("file", datasets.Image())
    )
    (tmp_path / "4.png").unlink()
    images, problems = source.read_usable(range(5), 9)
    assert [problem.row for problem in problems] == [4]
    np.testing.assert_array_equal(images[:3], EXPECTED[:3])
    np.testing.assert_array_equal(images[3], np.ones((1, 9, 9)))


def test_only_the_images_of_the_rows_that_are_needed_are_decoded(monkeypatch):
    decoded = []

    def counting(self, value, *args, decode=datasets.Image.decode_example, **options):
        decoded.append(value)
        return decode(self, value, *args, **options)

    source = as_source(data())
    monkeypatch.setattr(datasets.Image, "decode_example", counting)
    source.read([3, 1], 9)
    assert len(decoded) == 2


def test_a_column_of_paths_is_one_of_paths():
    source = as_source(data()["path"])
    assert isinstance(source, PathSource)
    assert [source.file(row) for row in range(5)] == [None, None, *"abc"]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (
            lambda: data(lateral=(datasets.Image(), [Image.new("L", (3, 3))] * 5)),
            r"several columns of images, 'image', 'lateral'; .*X\.select_columns\(\['image'\]\)",
        ),
        (lambda: data().remove_columns("image"), r"columns 'label', 'path' .*X\['path'\]"),
        (
            lambda: data().cast_column("image", datasets.Image(decode=False)),
            r"'image' are not decoded; pass X\.cast_column\('image', datasets\.Image\(\)\)",
        ),
        (lambda: data().to_iterable_dataset(), "only from start to end"),
        (lambda: datasets.DatasetDict(train=data()), r"a mapping of 'train'.*X\['train'\]"),
    ],
    ids=["several", "none", "not decoded", "stream", "splits"],
)
def test_what_has_not_one_column_of_images_is_refused_with_what_to_do(make, words):
    with pytest.raises(ValueError, match=words):
        as_source(make())
