import numpy as np
import pytest

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.datasets.PatientsUnknownWarning")


def found(data, row):
    return [data.label_names[i] for i in np.flatnonzero(data.labels[row] == 1)]


def test_a_label_is_1_if_more_than_half_of_the_readers_gave_it(published):
    data = published("vindr").load()
    assert data.table["image_id"].tolist() == data.groups.tolist() == ["aa11", "bb22", "cc33"]
    assert found(data, 0) == ["Cardiomegaly"]
    assert found(data, 1) == ["No finding"]
    votes = dict(zip(data.label_names, data.votes[0], strict=True))
    assert votes["Cardiomegaly"] == 2 / 3
    assert votes["Pneumonia"] == votes["Pleural effusion"] == 1 / 3
    assert data.table["readers"].tolist() == ["3", "3", "1"]


def test_half_of_the_readers_are_not_enough(published):
    vindr = published("vinbigdata")
    lines = (vindr.root / "train.csv").read_text().splitlines()
    vindr.tree.text(
        "train.csv", *(line for line in lines if "bb22" not in line or "R9" not in line)
    )
    data = vindr.load()
    assert (data.table["image_id"][0], found(data, 0)) == ("bb22", [])
    assert data.votes[0].sum() == 1


def test_one_label_has_two_names_in_the_tables_of_physionet(published):
    data = published("vindr").load()
    assert len(data.label_names) == 28
    assert data.label_names[-2:] == ["Other diseases", "No finding"]
    assert found(data, 2) == ["Other diseases"]
    assert data.split.tolist() == ["train", "train", "test"]


def test_boxes_are_those_of_every_reader(published):
    boxes = published("vindr").load().boxes
    assert boxes["row"].tolist() == [0, 0, 2]
    assert boxes["label"].tolist() == ["Cardiomegaly", "Pleural effusion", "Other lesion"]
    assert boxes["reader"].tolist() == ["R9", "R10", ""]
    assert boxes["y_min"].tolist() == [1375.5, 2, 6]


def test_vinbigdata_has_labels_votes_boxes_and_split(published):
    data = published("vinbigdata").load()
    assert data.label_names == ["Aortic enlargement", "Cardiomegaly", "No finding"]
    assert data.table["image_id"].tolist() == ["bb22", "aa11", "dd44"]
    assert [found(data, row) for row in range(3)] == [["No finding"], ["Cardiomegaly"], []]
    np.testing.assert_array_equal(data.votes[1], [1 / 3, 2 / 3, 1 / 3])
    assert np.isnan(data.labels[2]).all()
    assert data.split.tolist() == ["train", "train", "test"]
    assert data.boxes["row"].tolist() == [1, 1, 1, 0]
    assert all(path.endswith(".png") for path in data.paths)


def test_vinbigdata_in_dicom_without_test_images(published):
    vindr = published("vinbigdata")
    for name in ("train/aa11", "train/bb22", "test/dd44"):
        (vindr.root / f"{name}.png").unlink()
    (vindr.root / "test").rmdir()
    for name in ("aa11", "bb22"):
        vindr.tree.dicom(f"train/{name}.dicom")
    data = vindr.load()
    assert set(data.split) == {"train"}
    assert all(path.endswith(".dicom") for path in data.paths)


def test_an_image_in_two_formats_is_refused(published):
    vindr = published("vinbigdata")
    vindr.tree.dicom("train/aa11.dicom")
    with pytest.raises(ValueError, match="are both image 'aa11'"):
        vindr.load()


def test_a_class_with_two_numbers_is_refused(published):
    vindr = published("vinbigdata")
    text = (vindr.root / "train.csv").read_text()
    vindr.tree.text(
        "train.csv", *text.replace("Cardiomegaly,3,R9", "Cardiomegaly,4,R9").splitlines()
    )
    with pytest.raises(ValueError, match="class_id and class_name do not correspond"):
        vindr.load()
