import gzip

import numpy as np
import pytest

NAN = np.nan


def column(data, name):
    return data.labels[:, data.label_names.index(name)]


def test_labels_of_the_study_for_each_of_its_pictures(published):
    data = published("mimic").load()
    np.testing.assert_array_equal(column(data, "No Finding"), [1, 1, NAN, NAN])
    np.testing.assert_array_equal(column(data, "Consolidation"), [NAN, NAN, 1, NAN])
    assert data.label_names == sorted(data.label_names)


def test_a_study_without_labels_is_unknown_whatever_the_policy(published):
    data = published("mimic").load(unmentioned="zeros", uncertain="zeros")
    assert np.isnan(data.labels[3]).all()
    assert not np.isnan(data.labels[:3]).any()


def test_uncertain_mentions_by_either_labeler(published):
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


def test_unpacked_tables_do_too(published):
    mimic = published("mimic")
    for file in mimic.root.glob("*.csv.gz"):
        file.with_suffix("").write_bytes(gzip.decompress(file.read_bytes()))
        file.unlink()
    assert len(mimic.load().paths) == 4


def test_a_table_cut_short_names_its_file(published):
    mimic = published("mimic")
    file = mimic.root / "mimic-cxr-2.0.0-split.csv.gz"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"split\.csv\.gz cannot be read"):
        mimic.load()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("02aa804e-bde0afdd,1,1,train", r"split\.csv\.gz lacks 174413ec-4ec4c1f7"),
        ("02aa804e-bde0afdd,1,1,dev", "row 2: split is 'dev', none of train, validate, test"),
    ],
)
def test_a_split_that_is_not_as_published(published, line, message):
    mimic = published("mimic")
    header = "dicom_id,study_id,subject_id,split"
    mimic.tree.text("mimic-cxr-2.0.0-split.csv.gz", header, line)
    with pytest.raises(ValueError, match=message):
        mimic.load()


def test_an_unknown_labeler_and_one_not_downloaded(published):
    mimic = published("mimic")
    with pytest.raises(ValueError, match="labeler must be 'chexpert' or 'negbio', got 'chexbert'"):
        mimic.load(labeler="chexbert")
    (mimic.root / "mimic-cxr-2.0.0-negbio.csv.gz").unlink()
    with pytest.raises(FileNotFoundError, match=r"negbio\.csv\.gz or .*PhysioNet"):
        mimic.load(labeler="negbio")
