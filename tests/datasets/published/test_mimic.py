import gzip

import numpy as np
import pytest

NAN = np.nan


def column(data, name):
    return data.labels[:, data.label_names.index(name)]


def test_each_image_has_the_labels_of_its_study(published):
    data = published("mimic").load()
    np.testing.assert_array_equal(column(data, "No Finding"), [1, 1, NAN, NAN])
    np.testing.assert_array_equal(column(data, "Consolidation"), [NAN, NAN, 1, NAN])
    assert data.label_names == sorted(data.label_names)


def test_a_study_without_labels_is_unknown_under_every_policy(published):
    data = published("mimic").load(unmentioned="zeros", uncertain="zeros")
    assert np.isnan(data.labels[3]).all()
    assert not np.isnan(data.labels[:3]).any()


def test_each_labeler_has_its_own_uncertain_mentions(published):
    mimic = published("mimic")
    np.testing.assert_array_equal(
        column(mimic.load(uncertain="ones"), "Pneumothorax"), [NAN, NAN, 0, NAN]
    )
    negbio = mimic.load(labeler="negbio", uncertain="ones")
    np.testing.assert_array_equal(column(negbio, "Pneumothorax"), [NAN, NAN, NAN, NAN])
    np.testing.assert_array_equal(column(negbio, "Pneumonia"), [NAN, NAN, 1, NAN])
    np.testing.assert_array_equal(column(negbio, "Atelectasis"), [NAN, NAN, 1, NAN])


def test_patients_split_and_table(published):
    data = published("mimic").load()
    assert data.groups.tolist() == ["10000032", "10000032", "10000764", "11000898"]
    assert data.split.tolist() == ["train", "train", "valid", "test"]
    assert data.table["ViewPosition"].tolist() == ["PA", "LATERAL", "AP", "AP"]
    assert data.table["PerformedProcedureStepDescription"][0] == "CHEST (PA AND LAT), 2 VIEWS"


def test_unpacked_tables_are_read(published):
    mimic = published("mimic")
    for file in mimic.root.glob("*.csv.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert len(mimic.load().paths) == 4


def test_the_error_for_a_truncated_table_names_the_file(published):
    mimic = published("mimic")
    file = mimic.root / "mimic-cxr-2.0.0-split.csv.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"split\.csv\.gz cannot be read"):
        mimic.load()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("02aa804e-bde0afdd,1,1,train", r"split\.csv\.gz lacks '174413ec-4ec4c1f7'"),
        ("02aa804e-bde0afdd,1,1,dev", "row 2: split is 'dev', not one of train, validate, test"),
    ],
)
def test_an_altered_split_is_refused(published, line, message):
    mimic = published("mimic")
    header = "dicom_id,study_id,subject_id,split"
    mimic.tree.text("mimic-cxr-2.0.0-split.csv.gz", header, line)
    with pytest.raises(ValueError, match=message):
        mimic.load()


def test_an_unknown_labeler_and_one_that_was_not_downloaded_are_refused(published):
    mimic = published("mimic")
    with pytest.raises(ValueError, match="labeler must be 'chexpert' or 'negbio', got 'chexbert'"):
        mimic.load(labeler="chexbert")
    (mimic.root / "mimic-cxr-2.0.0-negbio.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"negbio\.csv\.gz or .*PhysioNet"):
        mimic.load(labeler="negbio")
