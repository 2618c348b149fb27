import numpy as np
import pytest
from PIL import Image


@pytest.mark.parametrize(
    ("name", "patients"), [("shenzhen", ["0001", "0327"]), ("montgomery", ["0001", "0104"])]
)
def test_file_names_contain_label_and_patient(published, name, patients):
    data = published(name).load()
    assert data.labels.ravel().tolist() == [0, 1]
    assert data.label_names == ["tuberculosis"]
    assert data.groups.tolist() == patients
    assert data.split is None


def test_clinical_readings_are_in_the_table(published):
    shenzhen = published("shenzhen").load()
    assert shenzhen.table["reading"].tolist() == [
        "male 45yrs\nnormal",
        "Female, 24yrs\nbilateral PTB",
    ]
    montgomery = published("montgomery").load()
    assert montgomery.table["reading"][0].splitlines()[1] == "Patient's Age: 027Y"
    assert montgomery.table["reading"][1] == ""


def test_masks_of_shenzhen_are_optional(published):
    masks = published("shenzhen").load().lung_masks
    assert masks.available.tolist() == [False, True]
    assert masks[0] is None
    expected = np.zeros((12, 10), bool)
    expected[2:5, 3:9] = True
    np.testing.assert_array_equal(masks[1], expected)


def test_masks_of_montgomery_are_left_right_and_both(published):
    data = published("montgomery").load()
    left, right, both = data.left_lung_masks, data.right_lung_masks, data.lung_masks
    # The patient's left is at the right of the image.
    assert np.flatnonzero(left[1].any(axis=0)).tolist() == [6, 7, 8]
    assert np.flatnonzero(right[1].any(axis=0)).tolist() == [1, 2, 3]
    np.testing.assert_array_equal(both[1], left[1] | right[1])
    assert both.available.all()


def test_masks_of_montgomery_are_required(published):
    montgomery = published("montgomery")
    (montgomery.root / "ManualMask" / "rightMask" / "MCUCXR_0104_1.png").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"rightMask.MCUCXR_0104_1\.png does not exist; download"
    ):
        montgomery.load()


def test_masks_of_two_sizes_are_refused(published):
    montgomery = published("montgomery")
    file = montgomery.root / "ManualMask" / "rightMask" / "MCUCXR_0104_1.png"
    Image.fromarray(np.zeros((5, 5), np.uint8)).save(file)
    with pytest.raises(ValueError, match=r"has shape \(12, 10\), .* has \(5, 5\)"):
        montgomery.load().lung_masks[1]
