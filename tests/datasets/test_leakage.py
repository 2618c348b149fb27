import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.model_selection import GroupKFold, KFold, StratifiedGroupKFold

from otcxr_sk.datasets import LeakageError, check_leakage

patients = st.lists(st.integers(0, 6), min_size=2, max_size=30)


@given(patients.filter(lambda groups: len(set(groups)) > 1))
def test_splits_by_group_pass(groups):
    check_leakage(groups, GroupKFold(2).split(groups, groups=groups))


@given(st.lists(st.tuples(st.integers(0, 6), st.sampled_from("xyz")), min_size=1, max_size=30))
def test_names_of_parts_pass_if_and_only_if_each_patient_is_in_one(rows):
    groups, parts = map(list, zip(*rows, strict=True))
    sharing = {patient for patient in groups if len({p for q, p in rows if q == patient}) > 1}
    if not sharing:
        check_leakage(groups, parts)
        return
    with pytest.raises(LeakageError) as caught:
        check_leakage(groups, np.array(parts))
    assert {row["patient"] for row in caught.value.shared} == sharing


def test_the_message_counts_patients_and_names_rows_of_some():
    groups = np.repeat([f"p{i}" for i in range(8)], 2)
    parts = np.tile(["train", "test"], 8)
    message = (
        "^8 of 8 patients are in both train and test, such as in rows 0 and 1, 2 and 3, 4 and 5, "
        "6 and 7, 8 and 9; split by patient, for example with GroupKFold$"
    )
    with pytest.raises(LeakageError, match=message) as caught:
        check_leakage(groups, parts)
    assert len(caught.value.shared) == 8
    assert caught.value.shared[0] == {
        "fold": 0,
        "patient": "p0",
        "parts": ("train", "test"),
        "images": (1, 1),
    }


def test_all_folds_that_share_patients_are_reported():
    groups = [1, 1, 1, 2, 3, 4]
    with pytest.raises(LeakageError) as caught:
        check_leakage(groups, KFold(3).split(groups))
    assert [(row["fold"], row["patient"], row["images"]) for row in caught.value.shared] == [
        (0, 1, (1, 2)),
        (1, 1, (2, 1)),
    ]
    first, second = str(caught.value).splitlines()
    assert first == "fold 0: 1 of 4 patients is in both train and test, such as in rows 2 and 0"
    assert second.startswith("fold 1: 1 of 4 patients is")


def test_a_row_in_both_parts_shares_its_patient():
    with pytest.raises(LeakageError, match=r"1 of 3 patients is .*, such as in rows 1 and 1;"):
        check_leakage(["a", "b", "c"], [([0, 1], [1, 2])])


def test_three_parts_are_compared_pair_by_pair():
    with pytest.raises(LeakageError) as caught:
        check_leakage(["a", "a", "a", "b"], ["train", "valid", "test", "train"])
    assert [row["parts"] for row in caught.value.shared] == [
        ("train", "valid"),
        ("train", "test"),
        ("valid", "test"),
    ]


def test_the_error_can_be_pickled(study):
    classes = study.classes
    splits = list(StratifiedGroupKFold(2).split(classes, classes, study.patients))
    check_leakage(study.patients, splits)
    with pytest.raises(LeakageError) as caught:
        check_leakage(study.patients, np.tile(["train", "test"], 100))
    copy = pickle.loads(pickle.dumps(caught.value))
    assert (str(copy), copy.shared) == (str(caught.value), caught.value.shared)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        (["train", "test"], "splits has 2 rows for 3 images"),
        ([([0], [1], [2])], "or a pair .train, test. of row numbers"),
        ([3, 4, 5], "or a pair .train, test. of row numbers"),
        ([([0], [3])], "fold 0 has rows 3 to 3, but groups has 3 images"),
        ([([0, 1], [-1])], "fold 0 has rows -1 to -1"),
        ([([True, False, False], [False, True, True])], "fold 0 must be row numbers, got bool"),
    ],
)
def test_splits_that_do_not_match_the_groups_are_refused(splits, message):
    with pytest.raises(ValueError, match=message):
        check_leakage(["a", "b", "c"], splits)
