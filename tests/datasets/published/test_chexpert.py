import shutil

import numpy as np
import pytest

NAN = np.nan


def column(data, name):
    return data.labels[:, data.label_names.index(name)]


@pytest.mark.parametrize(("policy", "value"), [("nan", NAN), ("zeros", 0), ("ones", 1)])
def test_uncertain_mentions(published, policy, value):
    data = published("chexpert").load(uncertain=policy)
    np.testing.assert_array_equal(column(data, "Edema"), [NAN, value, NAN, 0])
    np.testing.assert_array_equal(column(data, "Consolidation"), [NAN, value, value, 0])
    np.testing.assert_array_equal(column(data, "Fracture"), [NAN, 1, 1, 0])


def test_unmentioned_observations(published):
    chexpert = published("chexpert")
    np.testing.assert_array_equal(column(chexpert.load(), "No Finding"), [1, NAN, NAN, 0])
    known = chexpert.load(unmentioned="zeros")
    np.testing.assert_array_equal(column(known, "No Finding"), [1, 0, 0, 0])
    np.testing.assert_array_equal(column(known, "Edema"), [0, NAN, 0, 0])


def test_patients_split_and_table(published):
    data = published("chexpert").load()
    assert data.groups.tolist() == ["patient00001", "patient00002", "patient00002", "patient64541"]
    assert data.split.tolist() == ["train", "train", "train", "valid"]
    assert data.table["Frontal/Lateral"].tolist() == ["Frontal", "Frontal", "Lateral", "Frontal"]
    assert len(data.label_names) == 14


def test_folders_above_the_patients_may_have_any_name(published):
    chexpert = published("chexpert")
    top = chexpert.root / "CheXpert-v1.0-small"
    shutil.move(top / "train", chexpert.root / "CheXpert-v1.0 batch 2 (train 1)")
    data = chexpert.load()
    assert "batch 2" in data.paths[0]
    assert "valid" in data.paths[3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"uncertain": "ignore"}, "uncertain must be 'nan', 'zeros' or 'ones', got 'ignore'"),
        ({"unmentioned": "ones"}, "unmentioned must be 'nan' or 'zeros', got 'ones'"),
    ],
)
def test_unknown_policies_are_refused(published, options, message):
    with pytest.raises(ValueError, match=message):
        published("chexpert").load(**options)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (",1.0,,,,,,,,,0.0,", ",2.0,,,,,,,,,0.0,", "row 2: No Finding is 2, not 1, 0, -1 or blank"),
        (",1.0,,,,,,,,,0.0,", ",yes,,,,,,,,,0.0,", "row 2: No Finding is 'yes', not a number"),
        ("train/patient00001/study1/", "", "row 2: Path .* does not end in patient/study/view"),
        ("AP/PA", "View", "valid.csv has other columns than train.csv"),
    ],
)
def test_an_altered_table_is_refused(published, old, new, message):
    chexpert = published("chexpert")
    file = chexpert.root / "CheXpert-v1.0-small" / "train.csv"
    file.write_text(file.read_text().replace(old, new))
    with pytest.raises(ValueError, match=message):
        chexpert.load()


def test_a_folder_with_two_versions_is_refused(published):
    chexpert = published("chexpert")
    shutil.copytree(chexpert.root / "CheXpert-v1.0-small", chexpert.root / "CheXpert-v1.0")
    with pytest.raises(ValueError, match="are both image 'patient00001/study1/view1"):
        chexpert.load()
