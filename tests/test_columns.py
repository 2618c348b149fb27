"""Patients in any wrapping and spelling: the same patients, or the same error."""

import unicodedata
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.data import get_testdata_file

from otcxr_sk import OTCXRPretrainer
from otcxr_sk._columns import check_patients, is_no_id, judged_classes, normal_id
from otcxr_sk.datasets import Radiographs, check_leakage, find_near_duplicates
from otcxr_sk.evaluation import (
    KNNProbe,
    compare,
    few_labels,
    knn_probe,
    label_efficiency,
    linear_probe,
    probe_auc,
    probe_roc,
)
from otcxr_sk.images import read_dicom_table
from otcxr_sk.plotting import LabelEfficiencyDisplay, NearDuplicatesDisplay, ProbeDisplay


def masked(values):
    """A masked array, whose values behind the mask look like patients."""
    there = next(value for value in values if value is not None)
    filled = [there if value is None else value for value in values]
    return np.ma.masked_array(filled, mask=[value is None for value in values])


# From a list of ids, all text or all numbers, with None where one is missing.
OF_ANY = {
    "list": list,
    "tuple": tuple,
    "array": lambda values: np.array(values, dtype=object),
    "one column": lambda values: np.array(values, dtype=object)[:, None],
    "nested": lambda values: [[value] for value in values],
    "NaN": lambda values: [float("nan") if value is None else value for value in values],
    "NA": lambda values: [pd.NA if value is None else value for value in values],
    "NaT": lambda values: pd.Series([pd.NaT if v is None else v for v in values], dtype=object),
    "masked": masked,
    "masked values": lambda values: [np.ma.masked if v is None else v for v in values],
    "Series": lambda values: pd.Series(values, dtype=object),
    "DataFrame": lambda values: pd.DataFrame({"patient": values}, dtype=object),
    "category": lambda values: pd.Series(values, dtype="category"),
    "polars": pl.Series,
    "Arrow": pa.array,
    "Arrow values": lambda values: list(pa.array(values)),
    "Arrow chunks": lambda values: pa.chunked_array(
        [values[:1], values[1:]], pa.array(values).type
    ),
}
OF_TEXT = OF_ANY | {
    "blank": lambda values: ["" if value is None else value for value in values],
    "spaces": lambda values: [" \t" if value is None else f" {value} " for value in values],
    "words": lambda values: ["nan" if value is None else value for value in values],
    "signaling": lambda values: [Decimal("snan") if v is None else v for v in values],
    "as text": lambda values: np.array([str(value) for value in values]),
    "string": lambda values: pd.Series(values, dtype="string"),
    "Arrow string": lambda values: pd.Series(values, dtype=pd.ArrowDtype(pa.string())),
    "bytes": lambda values: [None if value is None else value.encode() for value in values],
    "byte array": lambda values: np.array([b"" if v is None else v.encode() for v in values]),
    "codes": lambda values: pa.array(values).dictionary_encode(),
}
OF_NUMBERS = OF_ANY | {
    "nullable": lambda values: pd.Series(values, dtype="Int64"),
    "Arrow number": lambda values: pd.Series(values, dtype=pd.ArrowDtype(pa.int64())),
    "float": lambda values: np.array([np.nan if v is None else v for v in values], dtype=float),
    "infinite": lambda values: [np.inf if value is None else float(value) for value in values],
    "tensor": lambda values: torch.tensor([np.nan if v is None else v for v in values]),
}

names = st.lists(st.sampled_from(["a", "B", "10", "9", "é", "x y"]), min_size=2, max_size=9)
numbers = st.lists(st.integers(-3, 12), min_size=2, max_size=9)


@given(ids=names, wrap=st.sampled_from(sorted(OF_TEXT)))
def test_text_is_the_same_in_any_wrapping(ids, wrap):
    found = check_patients(OF_TEXT[wrap](ids), len(ids))
    assert (found.tolist(), found.dtype.kind) == (ids, "U")


@given(ids=numbers, wrap=st.sampled_from(sorted(OF_NUMBERS)))
def test_numbers_are_the_same_in_any_wrapping(ids, wrap):
    found = check_patients(OF_NUMBERS[wrap](ids), len(ids))
    assert found.tolist() == ids
    assert found.dtype.kind in "if"


SPELLINGS = {
    "upper": str.upper,
    "lower": str.lower,
    "swapped": str.swapcase,
    "decomposed": lambda text: unicodedata.normalize("NFD", text),
    "wide": lambda text: "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text),
    "padded": lambda text: f" \0{text}\0\t",
    "spaced": lambda text: text.replace(" ", " \u3000\xa0"),
    "marked": lambda text: f"\ufeff{text}",
    "joined": lambda text: "\u200d".join(text),
    "hyphenated": lambda text: "\xad".join(text),
    "bytes": str.encode,
}
ids = st.text(
    st.characters(max_codepoint=0x24F, categories=["L", "N", "P"]) | st.just(" "), min_size=1
).filter(lambda text: not is_no_id(text))


@given(known=ids, how=st.lists(st.sampled_from(sorted(SPELLINGS)), max_size=4))
def test_a_patient_in_any_spelling_is_one(known, how):
    spelled = known
    for one in how:
        spelled = SPELLINGS[one](spelled if isinstance(spelled, str) else spelled.decode())
    found = check_patients([known, "another", spelled, known])
    assert found.tolist() == [known.strip(), "another", known.strip(), known.strip()]


@given(st.text())
def test_the_normal_form_of_a_normal_form_is_itself(text):
    assert normal_id(normal_id(text)) == normal_id(text)


@pytest.mark.parametrize(
    ("one", "other"), [("7", "007"), ("A-1", "A1"), ("A 1", "A1"), ("O", "0"), ("é", "e")]
)
def test_what_may_be_two_patients_stays_two(one, other):
    assert check_patients([one, other]).tolist() == [one, other]


@pytest.mark.parametrize(
    "word", ["\u200b", "N\u200bone", "\uff2eaN", "\ufeffn/a", "\0\0", "\u3164"]
)
def test_a_missing_patient_is_missing_in_any_spelling(word):
    with pytest.raises(ValueError, match="groups: row 1 has no patient"):
        check_patients(["a", word])


@pytest.mark.filterwarnings("ignore:Warning. converting a masked element to nan")
@given(data=st.data(), of_text=st.booleans())
def test_a_missing_patient_is_the_same_error_in_any_wrapping(data, of_text):
    ids = data.draw(names if of_text else numbers)
    wrap = data.draw(st.sampled_from(sorted(OF_TEXT if of_text else OF_NUMBERS)))
    gone = data.draw(st.sets(st.integers(0, len(ids) - 1), min_size=1, max_size=len(ids) - 1))
    holes = [None if row in gone else one for row, one in enumerate(ids)]
    with pytest.raises(ValueError, match="groups: row") as caught:
        check_patients((OF_TEXT if of_text else OF_NUMBERS)[wrap](holes), len(ids))
    rows = ", ".join(map(str, sorted(gone)[:5])) + (", ..." if len(gone) > 5 else "")
    several = f" ({len(gone)} of {len(ids)} rows have none: {rows})" if len(gone) > 1 else ""
    assert str(caught.value) == (
        f"groups: row {min(gone)} has no patient{several}; leave such images out, or give each an "
        "id of its own if no other image is of that patient"
    )


@pytest.mark.parametrize(
    ("groups", "expected"),
    [
        ([2**70, 2**70 + 1], [2**70, 2**70 + 1]),
        ([3, 3.0], [3, 3]),
        ([Decimal("1.5"), Decimal("0.5")], [Decimal("1.5"), Decimal("0.5")]),
        ([np.datetime64("2020-01-01"), np.datetime64("2019-01-01")], None),
    ],
)
def test_what_can_be_sorted_can_be_a_patient(groups, expected):
    found = check_patients(groups, 2)
    assert expected is None or found.tolist() == expected
    assert len(np.unique(found)) == len(set(groups))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ([1, "1"], "row 0 is a number, but row 1 is text; make all of them text"),
        (["7", 7], "row 0 is text, but row 1 is a number"),
        ([object(), object()], "row 0 is something else, not text or a number"),
        ([[1], [2, 3]], "row 0 is something else, not text or a number"),
        (["a"], "groups has 1 row for 2 images"),
        (np.zeros((2, 2)), r"groups must be a list, .* patient of each image, got shape \(2, 2\)"),
        ("ab", "groups must be a list, an array or a column with the patient of each image$"),
        (None, "groups must be a list"),
        ({"a", "b"}, "groups must be a list"),
        ((one for one in "ab"), "groups must be a list"),
    ],
)
def test_what_is_not_a_patient_for_each_image_is_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        check_patients(groups, 2)


@pytest.mark.parametrize(
    ("name", "classes", "titles"),
    [
        ("mass", [0, 1], ["mass"]),
        ("", [0.0, 1.0], ["label"]),
        ("kind", ["bacteria", "virus"], ["kind: virus"]),
        ("", ["bacteria", "none", "virus"], ["bacteria", "none", "virus"]),
        ("stage", [0, 1, 2], ["stage: 0", "stage: 1", "stage: 2"]),
    ],
)
def test_of_two_classes_the_second_is_judged_and_each_of_more(name, classes, titles):
    assert [title for title, _ in judged_classes(name, np.array(classes))] == titles


X = np.random.default_rng(0).random((20, 16, 16), np.float32)
Z, Y = X.reshape(20, -1), np.arange(20) % 2
PARTS = {"train": np.arange(10), "test": np.arange(10, 20)}
CALLS = {
    "fit": lambda groups: OTCXRPretrainer("test_resnet", image_size=32).fit(X, groups=groups),
    "fit_transform": lambda groups: OTCXRPretrainer("test_resnet").fit_transform(X, groups=groups),
    "linear_probe": lambda groups: linear_probe(Z, Y, groups, **PARTS),
    "knn_probe": lambda groups: knn_probe(Z, Y, groups, **PARTS),
    "probe_auc": lambda groups: probe_auc(Z, Y, groups, cv=2, random_state=0),
    "probe_roc": lambda groups: probe_roc(Z, Y, groups, **PARTS),
    "few_labels": lambda groups: few_labels(Y, groups, train=PARTS["train"], fraction=0.5),
    "label_efficiency": lambda groups: label_efficiency(Z, Y, groups, **PARTS),
    "compare": lambda groups: compare({"Z": Z}, Y, groups, **PARTS, reference="Z"),
    "KNNProbe": lambda groups: KNNProbe(X, Y, groups),
    "check_leakage": lambda groups: check_leakage(groups, np.repeat(["train", "test"], 10)),
    "find_near_duplicates": lambda groups: find_near_duplicates(X, groups),
    "Radiographs": lambda groups: Radiographs(
        labels=Y[:, None], label_names=["sick"], groups=groups, images=X
    ),
    "ProbeDisplay": lambda groups: ProbeDisplay.from_features({"Z": Z}, Y, groups, **PARTS),
    "LabelEfficiencyDisplay": lambda groups: LabelEfficiencyDisplay.from_features(
        {"Z": Z}, Y, groups, **PARTS
    ),
    "NearDuplicatesDisplay": lambda groups: NearDuplicatesDisplay.from_source(X, groups),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("wrap", ["list", "NaN", "masked", "string", "words", "polars"])
def test_a_missing_patient_is_the_same_error_everywhere(call, wrap):
    patients = [None if row in (3, 9) else f"p{row}" for row in range(20)]
    with pytest.raises(ValueError, match=r"^groups: row 3 has no patient \(2 of 20 .*: 3, 9\)"):
        CALLS[call](OF_TEXT[wrap](patients))


@pytest.mark.parametrize(
    "call",
    ["linear_probe", "knn_probe", "probe_roc", "label_efficiency", "compare", "check_leakage"],
)
def test_a_patient_in_two_spellings_cannot_be_in_two_parts(call):
    patients = [f"p{row}" for row in range(20)]
    CALLS[call](patients)
    patients[15] = "P3 "
    with pytest.raises(ValueError, match="rows 3 and 15"):
        CALLS[call](patients)


@pytest.mark.parametrize("salt", [None, "a secret that is long enough"])
def test_a_word_for_a_missing_patient_in_a_dicom_header_is_a_missing_one(salt, tmp_path):
    header = dcmread(get_testdata_file("CT_small.dcm"), stop_before_pixels=True)
    files = []
    for word in ("None", "nan", "N/A", " ", "", "Nancy"):
        header.PatientID = word
        files.append(tmp_path / f"{len(files)}.dcm")
        header.save_as(files[-1])
    patients = read_dicom_table(files, salt=salt)["patient_id"]
    assert patients[:-1] == [None] * 5
    assert patients[-1] is not None
