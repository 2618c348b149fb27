import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from otcxr_sk.datasets.published._siim import _decode, _Runs
from otcxr_sk.images import ImageReadError


def official_rle2mask(rle, width, height):
    """Decode like the challenge's own mask_functions.py, whose users transpose the result."""
    mask = np.zeros(width * height)
    numbers = [int(number) for number in rle.split()]
    position = 0
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        position += start
        mask[position : position + length] = 255
        position += length
    return mask.reshape(width, height).T


def encode(mask):
    """Encode as relative runs down the columns."""
    flat = np.concatenate([[False], mask.T.ravel(), [False]])
    edges = np.flatnonzero(flat[1:] != flat[:-1])
    starts, stops = edges[::2], edges[1::2]
    gaps = starts - np.concatenate([[0], stops[:-1]])
    return " ".join(
        f"{gap} {stop - start}" for gap, start, stop in zip(gaps, starts, stops, strict=True)
    )


masks = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(lambda shape: arrays(bool, shape))


@given(masks)
def test_encoding_and_decoding_a_mask_gives_it_back(mask):
    code = encode(mask) or "-1"
    np.testing.assert_array_equal(_decode(_Runs("x", (code,), mask.shape))[0], mask)


@given(masks.filter(lambda mask: mask.any()))
def test_decoding_agrees_with_the_official_function(mask):
    height, width = mask.shape
    expected = official_rle2mask(encode(mask), width, height) > 0
    np.testing.assert_array_equal(_decode(_Runs("x", (encode(mask),), mask.shape))[0], expected)


def test_labels_patients_and_split(published):
    data = published("siim").load()
    assert [name.rsplit(".", 1)[1] for name in data.table["ImageId"]] == [
        "5597",
        "6904",
        "7777",
        "9004",
    ]
    np.testing.assert_array_equal(data.labels.ravel(), [0, 1, np.nan, np.nan])
    assert data.groups.tolist() == ["16d7f894", "850ddeb3", "6224213b", "52c58d10"]
    assert data.split.tolist() == ["train", "train", "train", "test"]
    assert data.table["ViewPosition"].tolist() == ["PA"] * 4


def test_masks_fit_the_image_and_several_are_joined(published):
    masks = published("siim").load().lesion_masks
    assert masks.available.tolist() == [True, True, False, False]
    assert masks[0].shape == (1, 12, 10)
    assert not masks[0].any()
    assert masks[2] is None
    # 14 pixels down columns of 12 is row 2 of the second column.
    expected = np.zeros((12, 10), bool)
    expected[2:5, 1] = True
    expected[2:4, 2] = True
    expected[4, 8] = True
    np.testing.assert_array_equal(masks[1][0], expected)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("119 2", "ends at pixel 121, but the image has 12 x 10"),
        ("5", "is not a list of distances and lengths"),
        ("5 x", "is not a list of distances and lengths"),
        ("-5 3", "is not a list of distances and lengths"),
        ("", "is not a list of distances and lengths"),
    ],
)
def test_the_error_for_a_malformed_code_names_the_image(code, message):
    with pytest.raises(ValueError, match=rf"the mask of 'x' {message}"):
        _decode(_Runs("x", (code,), (12, 10)))


def test_the_table_of_the_second_stage_is_read(published):
    siim = published("siim")
    text = (siim.root / "train-rle.csv").read_text()
    (siim.root / "train-rle.csv").unlink()
    siim.tree.text("stage_2_train.csv", *text.replace(", ", ",").splitlines())
    assert siim.load().labels[:2].ravel().tolist() == [0, 1]


def test_a_header_without_a_patient_is_refused(published):
    siim = published("siim")
    path = siim.load().paths[1]
    siim.tree.dicom(path, PatientID="")
    with pytest.raises(ValueError, match=r"6904\.dcm has no patient ID"):
        siim.load()


def test_a_file_that_is_not_dicom_is_refused(published):
    siim = published("siim")
    path = siim.load().paths[1]
    with open(path, "wb") as file:
        file.write(b"nothing")
    with pytest.raises(ImageReadError, match=r"1 of 4 images .*\n.*6904\.dcm.*not a DICOM file"):
        siim.load()
    data = siim.load(missing="drop")
    assert [name.rsplit(".", 1)[1] for name in data.missing] == ["6904"]
    assert data.groups.tolist() == ["16d7f894", "6224213b", "52c58d10"]
    np.testing.assert_array_equal(data.labels.ravel(), [0, np.nan, np.nan])
    assert data.lesion_masks.available.tolist() == [True, False, False]


def test_a_real_file_in_nested_folders_is_read(real_data, published):
    name = "1.2.276.0.7230010.3.1.4.8323329.6904.1517875201.850819"
    siim = published("siim")
    file = siim.tree(f"dicom-images-train/a/b/{name}.dcm")
    file.symlink_to(real_data / "raw_samples" / "dicom" / f"siim_{name}.dcm")
    lines = (siim.root / "train-rle.csv").read_text().splitlines()
    siim.tree.text("train-rle.csv", *lines, f"{name}, 387620 23 996 33")
    data = siim.load()
    row = data.table["ImageId"].tolist().index(name)
    assert data.groups[row] == "16d7f894-55d7-4d95-8957-d18987f0e981"
    mask = data.lesion_masks[row]
    assert mask.shape == (1, 1024, 1024)
    assert mask.sum() == 56
    # 387620 = 378 * 1024 + 548, and the next run starts 1019 pixels on.
    assert mask[0, 548:571, 378].all()
    assert mask[0, 543:576, 379].all()
