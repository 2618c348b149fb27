import hashlib
import hmac
import tracemalloc

import numpy as np
import pandas as pd
import polars as pl
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from otcxr_sk.images import ImageReadWarning, read_dicom_table

PIXELS = np.zeros((4, 6), dtype=np.uint8)
TAGS = {
    "Modality": "DX",
    "ViewPosition": "PA",
    "ImageLaterality": "U",
    "BodyPartExamined": "CHEST",
    "PatientID": "Doe-42",
    "StudyDate": "20240229",
    "PatientAge": "063Y",
    "PatientSex": "F",
    "BurnedInAnnotation": "NO",
    "PresentationIntentType": "FOR PRESENTATION",
    "Manufacturer": "Kodak",
    "NumberOfFrames": 1,
}
ROW = {
    "modality": "DX",
    "view_position": "PA",
    "laterality": "U",
    "body_part": "CHEST",
    "patient_id": "Doe-42",
    "study_date": np.datetime64("2024-02-29"),
    "age": 63.0,
    "sex": "F",
    "burned_in": False,
    "presentation_intent": "FOR PRESENTATION",
    "photometric": "MONOCHROME2",
    "rows": 4,
    "columns": 6,
    "frames": 1,
    "manufacturer": "Kodak",
    "error": None,
}


def row(table, number=0):
    return {column: values[number] for column, values in table.items()}


def test_a_row_contains_what_the_header_says(write_dicom):
    path = write_dicom(PIXELS, **TAGS)
    assert row(read_dicom_table([path])) == {"path": str(path), **ROW}


def test_a_deflated_file_has_the_same_row(write_dicom):
    path = write_dicom(PIXELS, **TAGS)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(path)
    assert row(read_dicom_table([path])) == {"path": str(path), **ROW}


def test_missing_values_are_none(write_dicom):
    path = write_dicom(PIXELS, Modality=None, PatientID="", PatientAge="", StudyDate="")
    found = row(read_dicom_table([path]))
    assert np.isnat(found.pop("study_date"))
    known = {"path": str(path), "photometric": "MONOCHROME2", "rows": 4, "columns": 6}
    assert {column: value for column, value in found.items() if value is not None} == known


@pytest.mark.parametrize(
    ("tags", "years"),
    [
        ({"PatientAge": "063Y"}, 63),
        ({"PatientAge": "018M"}, 1.5),
        ({"PatientAge": "052W"}, 52 * 7 / 365.25),
        ({"PatientAge": "010D"}, 10 / 365.25),
        ({"PatientBirthDate": "20200101", "StudyDate": "20230101"}, 3),
        ({"PatientAge": "", "PatientBirthDate": "20200101", "StudyDate": "20230101"}, 3),
        ({"PatientBirthDate": "20240101", "StudyDate": "20230101"}, None),
        ({"PatientAge": "old"}, None),
        ({"StudyDate": "not a day"}, None),
    ],
)
def test_age_is_in_years(write_dicom, tags, years):
    with pydicom.config.disable_value_validation():
        path = write_dicom(PIXELS, **tags)
    assert read_dicom_table([path])["age"] == [
        years if years is None else pytest.approx(years, abs=0.003)
    ]


def test_view_code_and_laterality_are_used_if_the_usual_tags_are_missing(write_dicom):
    code = Dataset()
    code.CodeMeaning = "postero-anterior"
    found = row(read_dicom_table([write_dicom(PIXELS, ViewCodeSequence=[code], Laterality="L")]))
    assert found["view_position"] == "POSTERO-ANTERIOR"
    assert found["laterality"] == "L"


def test_hashed_ids_make_the_same_groups_and_hide_the_ids(write_dicom):
    ids = ["A", "B", "A", "", "é"]
    paths = [
        write_dicom(PIXELS, name=f"{n}.dcm", PatientID=known, SpecificCharacterSet="ISO_IR 192")
        for n, known in enumerate(ids)
    ]
    plain, hashed, other = (
        read_dicom_table(paths, salt=salt)["patient_id"] for salt in (None, "pepper", b"other")
    )
    assert plain == ["A", "B", "A", None, "é"]
    expected = [
        None if known is None else hmac.new(b"pepper", known.encode(), hashlib.sha256).hexdigest()
        for known in plain
    ]
    assert hashed == expected
    assert not set(hashed) - {None} & set(other)
    with pytest.raises(ValueError, match="empty salt"):
        read_dicom_table(paths, salt="")


def test_files_that_cannot_be_read_keep_their_row_with_a_reason(write_dicom, tmp_path):
    good = write_dicom(PIXELS, **TAGS)
    other = tmp_path / "note.txt"
    other.write_text("not an image" * 50)
    with pytest.warns(ImageReadWarning, match=r"2 of 4 files .* first: cannot read '.*note\.txt'"):
        table = read_dicom_table([good, other, tmp_path / "gone.dcm", good])
    assert table["modality"] == ["DX", None, None, "DX"]
    assert [error is None for error in table["error"]] == [True, False, False, True]
    assert "not a DICOM file" in table["error"][1]
    assert "no such file" in table["error"][2]


def test_pandas_and_polars_make_a_data_frame_of_the_table(write_dicom):
    paths = [write_dicom(PIXELS, name="a.dcm", **TAGS), write_dicom(PIXELS, name="b.dcm")]
    table = read_dicom_table(paths)
    pandas, polars = pd.DataFrame(table), pl.DataFrame(table)
    assert list(pandas.columns) == list(table) == polars.columns
    assert pandas["view_position"].isin(["AP", "PA"]).tolist() == [True, False]
    assert pandas["study_date"].dt.year.iloc[0] == 2024
    assert polars["study_date"].dtype == pl.Date
    assert polars.filter(pl.col("age") > 60).height == (pandas["age"] > 60).sum() == 1
    assert polars["rows"].dtype == pl.Int64


def test_pixels_are_not_read(write_dicom):
    path = write_dicom(np.zeros((4096, 4096), dtype=np.uint16))
    tracemalloc.start()
    try:
        assert read_dicom_table([path])["rows"] == [4096]
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_a_single_path_is_refused(write_dicom):
    with pytest.raises(ValueError, match=r"expected a sequence of paths, got one; use \['.*dcm'\]"):
        read_dicom_table(str(write_dicom(PIXELS)))


def test_no_files_give_an_empty_table():
    assert {len(column) for column in read_dicom_table([]).values()} == {0}
