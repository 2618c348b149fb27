import numpy as np
import pytest

from otcxr_sk.datasets import LeakageError, PatientsUnknownWarning, check_leakage

MAPPING = "pneumonia-challenge-dataset-mappings_2018.json"


def test_each_image_has_one_of_three_classes_unknown_in_test(published):
    data = published("rsna").load()
    nan = np.nan
    assert data.label_names == ["Lung Opacity", "No Lung Opacity / Not Normal", "Normal"]
    np.testing.assert_array_equal(data.labels, [[0, 1, 0], [1, 0, 0], [0, 0, 1], [nan, nan, nan]])
    assert data.split.tolist() == ["train", "train", "train", "test"]
    assert data.table["class"][3] == ""


def test_boxes_are_corners(published):
    boxes = published("rsna").load().boxes
    assert boxes["row"].tolist() == [1, 1]
    corners = np.stack([boxes[side] for side in ("x_min", "y_min", "x_max", "y_max")], axis=1)
    np.testing.assert_array_equal(corners, [[264, 152, 477, 531], [562, 152, 818, 605]])


def test_patients_are_the_nihs_and_the_split_does_not_keep_them_apart(published):
    data = published("rsna").load()
    assert data.groups.tolist() == ["13", "13", "30", "30"]
    with pytest.raises(LeakageError, match="1 of 2 patients is in both train and test"):
        check_leakage(data.groups, data.split)


def test_without_the_mapping_each_image_is_its_own_group_with_a_warning(published):
    rsna = published("rsna")
    (rsna.root / MAPPING).unlink()
    with pytest.warns(PatientsUnknownWarning, match=f"put {MAPPING} from RSNA's page"):
        data = rsna.load()
    assert data.groups.tolist() == data.table["patientId"].tolist()


@pytest.mark.parametrize("text", ["[]", "{", '[{"subset_img_id": "x"}]', '["a"]'])
def test_an_incomplete_or_malformed_mapping_is_refused(published, text):
    rsna = published("rsna")
    (rsna.root / MAPPING).write_text(text)
    with pytest.raises(ValueError, match=f"{MAPPING} (lacks 4 images|is not a list)"):
        rsna.load()


def test_contradictory_tables_are_refused(published):
    rsna = published("rsna")
    text = (rsna.root / "stage_2_train_labels.csv").read_text()
    rsna.tree.text("stage_2_train_labels.csv", *text.replace(",,,,,0", ",,,,,1").split())
    with pytest.raises(ValueError, match="row 2: Target is 1, but the class of '0004cfab-14fd' is"):
        rsna.load()


def test_an_unknown_class_is_refused(published):
    rsna = published("rsna")
    rsna.tree.text("stage_2_detailed_class_info.csv", "patientId,class", "0004cfab-14fd,Sick")
    with pytest.raises(ValueError, match="row 2: 'Sick' is not one of Lung Opacity"):
        rsna.load()
