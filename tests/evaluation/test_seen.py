"""Test patients on whom the encoder was trained are warned of."""

import numpy as np
import pytest

from otcxr_sk.datasets import check_leakage
from otcxr_sk.evaluation import compare, knn_probe, label_efficiency, linear_probe, probe_roc

CALLS = {
    "linear_probe": lambda study, seen: linear_probe(
        study.Z, study.labels, study.patients, **study.parts, seen=seen
    ),
    "knn_probe": lambda study, seen: knn_probe(
        study.Z, study.labels, study.patients, **study.parts, seen=seen
    ),
    "probe_roc": lambda study, seen: probe_roc(
        study.Z, study.labels, study.patients, **study.parts, seen=seen
    ).auc,
    "label_efficiency": lambda study, seen: label_efficiency(
        study.Z, study.labels, study.patients, **study.parts, fractions=[1.0], seen=seen
    ).scores.tolist(),
    "compare": lambda study, seen: str(
        compare(
            {"Z": study.Z}, study.labels, study.patients, **study.parts, reference="Z",
            fractions=[1.0], n_resamples=50, seen=seen, random_state=0,
        )
    ),
    "check_leakage": lambda study, seen: check_leakage(
        study.patients, np.repeat(["train", "test"], [120, 80]), seen=seen
    ),
    "check_leakage of folds": lambda study, seen: check_leakage(
        study.patients, [tuple(study.parts.values())], seen=seen
    ),
}  # fmt: skip


@pytest.mark.parametrize("call", CALLS)
def test_seen_test_patients_are_told_and_nothing_else_changes(call, study):
    seen = np.isin(study.patients, [1, 2, 70, 80, 90, 99])
    with pytest.warns(UserWarning, match="4 patients of .*test .8 images, rows 140, 141, 160, 16"):
        warned = CALLS[call](study, seen)
    assert warned == CALLS[call](study, None)


@pytest.mark.parametrize("call", CALLS)
def test_seen_training_patients_are_as_they_should_be(call, study):
    CALLS[call](study, study.patients < 60)


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("seen", [[True], np.arange(200), np.full(200, "yes"), 3])
def test_what_says_not_of_each_image_whether_it_was_seen_is_refused(call, study, seen):
    with pytest.raises(ValueError, match="seen must be True or False for each of 200 images"):
        CALLS[call](study, seen)
