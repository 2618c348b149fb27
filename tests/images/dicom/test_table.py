import hashlib
import hmac
import secrets
import tracemalloc
from datetime import date

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian

from otcxr_sk.images import ImageReadError, ImageReadWarning, read_dicom, read_dicom_table

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
    "patient_id": "DOE-42",
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
    "transfer_syntax": "Explicit VR Little Endian",
    "readable": True,
    "error": None,
}


in_one_folder = settings(
    max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


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
    syntax = "Deflated Explicit VR Little Endian"
    assert row(read_dicom_table([path])) == {"path": str(path), **ROW, "transfer_syntax": syntax}


def test_missing_values_are_none(write_dicom):
    path = write_dicom(PIXELS, Modality=None, PatientID="", PatientAge="", StudyDate="")
    found = row(read_dicom_table([path]))
    assert np.isnat(found.pop("study_date"))
    known = {"path": str(path), "photometric": "MONOCHROME2", "rows": 4, "columns": 6}
    known |= {"transfer_syntax": "Explicit VR Little Endian", "readable": True}
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


@pytest.mark.parametrize(
    "tags", [{}, {"Modality": "CT"}, {"NumberOfFrames": 2}, {"BitsStored": 9}, {"PixelData": None}]
)
def test_readable_is_what_read_dicom_reads(write_dicom, tags):
    path = write_dicom(PIXELS, **tags)
    table = read_dicom_table([path])
    assert table["error"] == [None]
    if table["readable"] == [True]:
        assert read_dicom(path).shape == PIXELS.shape
    else:
        with pytest.raises(ImageReadError):
            read_dicom(path)
    assert table["readable"] == [not tags]


def test_view_code_and_laterality_are_used_if_the_usual_tags_are_missing(write_dicom):
    code = Dataset()
    code.CodeMeaning = "postero-anterior"
    found = row(read_dicom_table([write_dicom(PIXELS, ViewCodeSequence=[code], Laterality="L")]))
    assert found["view_position"] == "POSTERO-ANTERIOR"
    assert found["laterality"] == "L"


SALT = "0123456789abcdef"


def test_hashed_ids_make_the_same_groups_and_hide_the_ids(write_dicom):
    ids = ["a", "B", "A ", "", "é"]
    paths = [
        write_dicom(PIXELS, name=f"{n}.dcm", PatientID=known, SpecificCharacterSet="ISO_IR 192")
        for n, known in enumerate(ids)
    ]
    plain, hashed, other = (
        read_dicom_table(paths, salt=salt)["patient_id"] for salt in (None, SALT, SALT[::-1])
    )
    assert plain == ["A", "B", "A", None, "É"]
    assert hashed == [
        None
        if known is None
        else hmac.new(SALT.encode(), known.encode(), hashlib.sha256).hexdigest()
        for known in plain
    ]
    assert not set(hashed) - {None} & set(other)


days = st.dates(date(1900, 1, 1), date(2030, 12, 31))


@in_one_folder
@given(born=days, studies=st.lists(days, min_size=1, max_size=4), salt=st.binary(min_size=30))
def test_with_a_salt_the_day_of_birth_cannot_be_told(born, studies, salt, raw):
    salt += SALT.encode()
    paths = [
        raw.write(
            [
                ("StudyDate", "DA", f"{seen:%Y%m%d}"),
                ("PatientID", "LO", "Doe"),
                ("PatientBirthDate", "DA", f"{born:%Y%m%d}"),
            ],
            name=f"{number}.dcm",
        )
        for number, seen in enumerate(studies)
    ]
    plain, hidden = read_dicom_table(paths), read_dicom_table(paths, salt=salt)
    ages = [None if age is None else min(int(age), 90) for age in plain["age"]]
    assert hidden["age"] == ages
    assert {type(age) for age in hidden["age"]} <= {int, type(None)}
    early = (plain["study_date"] - hidden["study_date"]).tolist()
    assert [one is None for one in early] == [age == 90 for age in ages]
    # As they are the same for all studies, the days between these are true.
    shift = {one.days for one in early if one is not None}
    assert len(shift) <= 1
    assert shift <= set(range(1, 366))
    for name in set(plain) - {"patient_id", "study_date", "age"}:
        assert hidden[name] == plain[name]


def test_each_patient_and_each_salt_has_dates_of_its_own(raw):
    seen = ("StudyDate", "DA", "20240229")
    paths = [raw.write([seen, ("PatientID", "LO", f"{n}")], name=f"{n}.dcm") for n in range(300)]
    paths.append(raw.write([seen], name="nobody.dcm"))
    one, again, other = (
        read_dicom_table(paths, salt=salt) for salt in (SALT, SALT, SALT[::-1].encode())
    )
    np.testing.assert_array_equal(one["study_date"], again["study_date"])
    assert np.isnat(one["study_date"][-1])
    # Of 365 days, 300 draws hit 205 on average; two salts agree on 0.8 of them.
    assert len(set(one["study_date"][:-1])) > 180
    assert (one["study_date"] == other["study_date"]).sum() < 8
    days = (np.datetime64("2024-02-29") - one["study_date"][:-1]).astype(int)
    of_id = [1 + int(known, 16) % 365 for known in one["patient_id"][:-1]]
    assert (days == of_id).sum() < 8


@pytest.mark.parametrize("salt", ["", "s", SALT[1:].encode(), "s" * 64, "ab" * 8, "é" * 8])
def test_a_salt_that_can_be_guessed_is_refused(salt):
    with pytest.raises(ValueError, match=r"make one with secrets\.token_hex\(16\)") as caught:
        read_dicom_table([], salt=salt)
    assert not salt or repr(salt) not in str(caught.value)
    read_dicom_table([], salt=secrets.token_hex(16))
    read_dicom_table([], salt=secrets.token_bytes(16))


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


ODD = {
    "PatientAge": ("AS", "about 60", {"age": None}),
    "StudyDate": ("DA", "20231345", {"study_date": None}),
    "PatientID": ("LO", "a\\b ", {"patient_id": "A\\B"}),
    "PatientSex": ("CS", "female?", {"sex": "FEMALE?"}),
    "ViewPosition": ("CS", "ap\\pa", {"view_position": "AP"}),
    "Rows": ("IS", "four", {"rows": None}),
    "Columns": ("DS", "6.5", {"columns": None}),
    "NumberOfFrames": ("IS", "one", {"frames": None}),
    "BodyPartExamined": ("CS", b"CHEST\0\0", {"body_part": "CHEST"}),
    "Manufacturer": ("LO", "Siemens\xe4".encode("latin-1"), {"manufacturer": "Siemensä"}),
    "BurnedInAnnotation": ("CS", "perhaps", {"burned_in": None}),
    "Modality": ("UN", b"DX", {"modality": "DX"}),
    "ViewCodeSequence": ("SQ", b"\xff" * 20, {}),
    "SpecificCharacterSet": ("CS", "no such set", {}),
    0x00091001: ("UN", b"\0" * 2**20, {}),
    0x00091002: ("OB", b"\xff" * 40, {}),
}
PLAIN = [
    ("Modality", "CS", "DX"), ("PatientID", "LO", "Doe-42"), ("StudyDate", "DA", "20240229"),
    ("PatientAge", "AS", "063Y"), ("PatientSex", "CS", "F"), ("BodyPartExamined", "CS", "CHEST"),
    ("Manufacturer", "LO", "Kodak"), ("ViewPosition", "CS", "PA"), ("Rows", "US", 4),
    ("Columns", "US", 6), ("NumberOfFrames", "IS", "1"), ("BurnedInAnnotation", "CS", "NO"),
]  # fmt: skip


@in_one_folder
@given(odd=st.sets(st.sampled_from(list(ODD)), min_size=1))
def test_an_odd_element_costs_no_more_than_its_own_value(odd, raw):
    elements = {keyword: (vr, value) for keyword, vr, value in PLAIN}
    plain = row(read_dicom_table([raw.write(PLAIN, name="plain.dcm")]))
    for keyword in odd:
        elements[keyword] = ODD[keyword][:2]
        plain |= ODD[keyword][2]
    path = raw.write([(keyword, *element) for keyword, element in elements.items()])
    assert str(row(read_dicom_table([path]))) == str(
        {**plain, "path": str(path)} | ({"study_date": NAT} if "StudyDate" in odd else {})
    )


NAT = np.datetime64("NaT", "D")
BAD = {
    "missing": lambda folder: None,
    "NaN": lambda folder: float("nan"),
    "NA": lambda folder: pd.NA,
    "blank": lambda folder: "",
    "number": lambda folder: 7,
    "object": lambda folder: object(),
    "gone": lambda folder: folder / "gone.dcm",
    "folder": lambda folder: folder,
    "NUL": lambda folder: f"{folder}/a\0b.dcm",
    "empty": lambda folder: written(folder / "empty.dcm", b""),
    "text": lambda folder: written(folder / "note.dcm", b"not an image" * 50),
    "magic": lambda folder: written(folder / "magic.dcm", bytes(128) + b"DICM" + b"\xff" * 99),
    "cut short": lambda folder: written(folder / "cut.dcm", (folder / "0.dcm").read_bytes()[:-1]),
}


def written(path, data):
    path.write_bytes(data)
    return path


@in_one_folder
@given(bad=st.lists(st.sampled_from(sorted(BAD)), min_size=1, max_size=5), data=st.data())
def test_a_bad_row_costs_one_row_and_has_its_reason(bad, data, raw):
    folder = raw.folder
    good = [raw.write(PLAIN, name=f"{number}.dcm") for number in range(3)]
    expected = read_dicom_table(good)
    paths = list(good)
    for kind in bad:
        paths.insert(data.draw(st.integers(0, len(paths))), BAD[kind](folder))
    with pytest.warns(ImageReadWarning, match=f"{len(bad)} of {len(paths)} files could not"):
        table = read_dicom_table(paths)
    failed = np.array([problem is not None for problem in table["error"]])
    assert failed.sum() == len(bad)
    for name, column in table.items():
        kept = [value for value, wrong in zip(column, failed, strict=True) if not wrong]
        np.testing.assert_array_equal(kept, expected[name])
    for number in np.flatnonzero(failed):
        values = row(table, number)
        assert "object" not in values["error"]
        assert f"row {number}" in values["error"] or values["path"] is not None
        assert values.pop("readable") is False
        known = {name for name, value in values.items() if value is not None}
        assert known <= {"path", "error", "study_date"}


def test_paths_in_any_wrapping_give_the_same_table(write_dicom):
    paths = [str(write_dicom(PIXELS, name=f"{n}.dcm", **TAGS)) for n in "ab"]
    expected = read_dicom_table(paths)
    for wrap in (
        tuple, iter, np.array, pd.Series, pl.Series, pa.array,
        lambda paths: [path.encode() for path in paths],
        lambda paths: np.array(paths, dtype=object)[:, None],
        lambda paths: pd.DataFrame({"path": paths}),
        lambda paths: pd.Series(paths, dtype=pd.ArrowDtype(pa.string())),
        lambda paths: pd.Series(paths, dtype="category"),
    ):  # fmt: skip
        assert str(read_dicom_table(wrap(paths))) == str(expected)
    with pytest.raises(ValueError, match=r"one column of paths, got a table .* \(2, 2\)"):
        read_dicom_table(pd.DataFrame({"path": paths, "label": [0, 1]}))


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
    with pytest.raises(ValueError, match=r"got one; use list_images\('.*'\)"):
        read_dicom_table(write_dicom(PIXELS).parent)


@pytest.mark.parametrize(
    ("paths", "salt", "message"),
    [(None, None, "sequence of paths, got None"), (5, None, "got 5"), ([], 5, "salt must be text")],
)
def test_parameters_of_another_kind_are_refused(paths, salt, message):
    with pytest.raises(TypeError, match=message):
        read_dicom_table(paths, salt=salt)


def test_no_files_give_an_empty_table():
    assert {len(column) for column in read_dicom_table([]).values()} == {0}
