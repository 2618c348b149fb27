import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import beta
from sklearn.metrics import roc_auc_score

from otcxr_sk.evaluation._resampling import count_pairs, interval, resample, resampled_auc

laws = settings(max_examples=5, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.slow
@laws
@given(seed=seeds, n_values=st.sampled_from([2, 5, 1000]))
def test_the_auc_of_a_resample_is_that_of_its_images_repeated_as_drawn(seed, n_values):
    """With ties, unknown labels, several images per patient and more resamples than a block."""
    random = np.random.default_rng(seed)
    patients = random.integers(12, size=40)
    truth = random.choice([0, 1, np.nan], p=[0.5, 0.4, 0.1], size=(40, 2))
    score = random.integers(n_values, size=(40, 2)).astype(float)
    index, counts = resample(patients, 130, np.random.RandomState(seed))
    found = resampled_auc(truth, score, index, counts)
    names = np.unique(patients)
    for drawn, auc in zip(counts, found, strict=True):
        people = np.repeat(names, drawn)
        rows = np.concatenate([np.flatnonzero(patients == patient) for patient in people])
        parts = [rows[~np.isnan(t[rows])] for t in truth.T]
        if any(len(np.unique(t[p])) < 2 for t, p in zip(truth.T, parts, strict=True)):
            assert np.isnan(auc)
        else:
            each = [
                roc_auc_score(t[p], s[p]) for t, s, p in zip(truth.T, score.T, parts, strict=True)
            ]
            assert auc == pytest.approx(np.mean(each))


def test_a_resample_draws_as_many_patients_as_there_are_all_with_the_same_probability():
    patients = np.repeat(["a", "b", "c"], [1, 2, 5])
    index, counts = resample(patients, 3000, np.random.RandomState(0))
    assert (counts.sum(1) == 3).all()
    np.testing.assert_allclose(counts.mean(0), 1, atol=0.06)
    assert np.array(["a", "b", "c"])[index].tolist() == patients.tolist()


def most_pairs(kinds):
    """Return the largest number of pairs, by trying all partners of the first patient."""
    if not kinds:
        return 0
    first, *rest = kinds
    found = [most_pairs(rest)]
    for place, other in enumerate(rest):
        if (1 in first and 0 in other) or (0 in first and 1 in other):
            found.append(1 + most_pairs(rest[:place] + rest[place + 1 :]))
    return max(found)


@given(st.lists(st.sets(st.sampled_from([0, 1])), max_size=7))
def test_patients_make_as_many_pairs_as_can_be(kinds):
    """Each patient has images of the truths in a set, or only such of which it is unknown."""
    truth = [value for kind in kinds for value in (*kind, np.nan)]
    patient = [who for who, kind in enumerate(kinds) for _ in (*kind, np.nan)]
    truth = np.array(truth, float)[:, None]
    assert count_pairs(truth, np.array(patient, int)) == most_pairs(kinds)


@given(n=st.integers(1, 50), level=st.floats(0.5, 0.99))
def test_the_interval_of_0_and_1_is_that_of_clopper_and_pearson(n, level):
    tail = (1 - level) / 2
    resampled = np.full(9, np.nan)
    assert interval(1.0, resampled, n, level) == pytest.approx((beta.ppf(tail, n, 1), 1))
    assert interval(0.0, resampled, n, level) == pytest.approx((0, beta.ppf(1 - tail, 1, n)))
    assert np.isnan(interval(1.0, resampled, 0, level)).all()
