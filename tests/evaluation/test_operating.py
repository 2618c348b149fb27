import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom
from sklearn.metrics import recall_score

from otcxr_sk.evaluation import operating_point

laws = settings(max_examples=20, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def draw(seed, n=60, images=1):
    random = np.random.default_rng(seed)
    y = np.repeat(random.permutation(np.arange(n) % 2), images)
    return y, random.normal(size=len(y)) + y, np.repeat(np.arange(n), images)


@laws
@given(seed=seeds, threshold=st.floats(-2, 3))
def test_rates_are_the_recalls_of_both_classes(seed, threshold):
    y, score, groups = draw(seed)
    point = operating_point(y, score, threshold, groups, n_resamples=50, random_state=0)
    called = score >= threshold
    assert point.sensitivity == pytest.approx(recall_score(y, called))
    assert point.specificity == pytest.approx(recall_score(y, called, pos_label=0))
    for rate, (low, high) in (
        (point.sensitivity, point.sensitivity_interval),
        (point.specificity, point.specificity_interval),
    ):
        assert 0 <= low <= rate <= high <= 1


def test_with_an_image_per_patient_intervals_are_the_quantiles_of_the_binomial_distribution():
    y = np.repeat([0, 1], [600, 400])
    score = np.concatenate([np.arange(600) % 10 == 0, np.arange(400) % 4 > 0])
    point = operating_point(y, score, 0.5, n_resamples=4000, random_state=0)
    assert (point.sensitivity, point.specificity) == (0.75, 0.9)
    for n, p, interval in (
        (400, 0.75, point.sensitivity_interval),
        (600, 0.9, point.specificity_interval),
    ):
        np.testing.assert_allclose(interval, binom.ppf([0.025, 0.975], n, p) / n, atol=0.005)


def test_with_several_images_per_patient_intervals_are_those_of_a_naive_bootstrap_of_patients():
    random = np.random.default_rng(0)
    groups = np.repeat(np.arange(80), random.integers(1, 6, size=80))
    y = random.integers(2, size=len(groups))
    score = y + random.normal(size=80)[groups] + random.normal(size=len(groups))
    point = operating_point(y, score, 0.5, groups, n_resamples=2000, random_state=0)
    rates = []
    for _ in range(2000):
        times = np.bincount(random.integers(80, size=80), minlength=80)[groups]
        truth, called = y.repeat(times), score.repeat(times) >= 0.5
        rates.append([np.mean(called[truth == which] == which) for which in (1, 0)])
    expected = np.quantile(rates, [0.025, 0.975], axis=0).T
    found = point.sensitivity_interval, point.specificity_interval
    np.testing.assert_allclose(found, expected, atol=0.015)


def test_copies_of_images_of_a_patient_are_no_evidence():
    y, score, groups = draw(0, n=200)
    once = operating_point(y, score, 0.5, groups, random_state=0)
    five = (np.repeat(values, 5) for values in (y, score, groups))
    y5, score5, groups5 = five
    assert operating_point(y5, score5, 0.5, groups5, random_state=0) == once
    low, high = operating_point(y5, score5, 0.5, random_state=0).sensitivity_interval
    assert high - low < (once.sensitivity_interval[1] - once.sensitivity_interval[0]) / 2


def test_a_perfect_rate_has_the_exact_interval_of_as_many_patients():
    """Of n of n, the lower bound is (alpha / 2) ** (1 / n)."""
    y, groups = np.repeat([0, 1], 30), np.repeat(np.arange(20), 3)
    point = operating_point(y, y, 0.5, groups)
    low = 0.025 ** (1 / 10)
    for interval in (point.sensitivity_interval, point.specificity_interval):
        assert interval == pytest.approx((low, 1))
    never = operating_point(y, y, 2, groups)
    assert never.sensitivity_interval == pytest.approx((0, 1 - low))


def test_images_of_unknown_truth_are_left_out():
    y, score, groups = draw(0)
    more = (
        np.append(y, [np.nan] * 3),
        np.append(score, [0, 9, np.nan]),
        np.append(groups, [0, 1, 1]),
    )
    expected = operating_point(y, score, 0.5, groups, random_state=0)
    assert operating_point(more[0], more[1], 0.5, more[2], random_state=0) == expected


def test_a_point_is_printed_with_its_intervals():
    y = np.repeat([0, 1], 30)
    assert str(operating_point(y, y, 0.5, confidence_level=0.9)) == (
        "at 0.5: sensitivity 1.000 (0.905 to 1.000), specificity 1.000 (0.905 to 1.000), "
        "90 % intervals"
    )


def test_too_few_patients_of_a_class_cost_its_interval_only():
    y = np.array([0] * 40 + [1, 1])
    groups = np.append(np.arange(40), [40, 40])
    score = np.append(np.arange(40) / 40, [0, 1])
    with pytest.warns(UserWarning, match=r"too few patients \(1\) have negative images"):
        point = operating_point(1 - y, -score, -0.5, groups)
    assert point.specificity == 0.5
    assert np.isnan(point.specificity_interval).all()
    assert np.isfinite(point.sensitivity_interval).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1, 1], [0, 1], 0.5), "y must have images of 0 and of 1"),
        ((["ill", "well"], [0, 1], 0.5), "y must have images of 0 and of 1; for named classes"),
        (([[0, 1], [1, 0]], [0, 1], 0.5), "y has several columns"),
        (([0, 1], [0, 1, 2], 0.5), "score has 3 rows, y has 2"),
        (([0, 1], [[0, 1], [1, 0]], 0.5), r"score has several columns; .* score\[:, 1\]"),
        (([0, 1], [0, np.nan], 0.5), "score: row 1 has NaN"),
        (([0, 1], ["a", "b"], 0.5), "score must be numbers"),
        (([0, 1], [0, 1], np.nan), "threshold must be a finite number, got nan"),
        (([0, 1], [0, 1], 0.5, ["a", None]), "row 1 has no patient"),
    ],
)
def test_what_has_no_operating_point_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        operating_point(*arguments)
