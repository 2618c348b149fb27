import pickle

import numpy as np
import pytest

from otcxr_sk.evaluation import domain_shift


def draw(seed, n=40, d=8, images=2):
    """Embeddings of two images of each patient, which are alike, and the patients."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(n), images)
    return random.normal(size=(n, d))[groups] + random.normal(size=(n * images, d)) / 2, groups


def halves(seed, **options):
    Z, groups = draw(seed, **options)
    half = len(Z) // 2
    return Z[:half], Z[half:], groups[:half], groups[half:]


def coverage(draws, **options):
    found = [
        domain_shift(*halves(seed, **options), n_resamples=200, random_state=seed)
        for seed in range(draws)
    ]
    return np.mean([one.low <= 0.5 <= one.high for one in found]), found


def test_between_halves_of_a_collection_the_interval_covers_chance_and_no_shift_is_found():
    covered, found = coverage(100)
    assert 0.89 <= covered <= 0.99
    assert np.mean([one.auc for one in found]) == pytest.approx(0.5, abs=0.03)
    assert np.mean([one.found for one in found]) <= 0.06


@pytest.mark.slow
@pytest.mark.parametrize(("n", "d"), [(60, 16), (200, 64), (200, 512)])
def test_the_interval_covers_chance_as_often_as_it_says(n, d):
    covered, _ = coverage(300, n=n, d=d)
    assert 0.92 <= covered <= 0.98


def test_a_shift_is_found_and_its_auc_is_that_of_two_normal_distributions():
    """Of two that are `shift` standard deviations apart: Phi(shift / sqrt(2))."""
    a, b, *groups = halves(0, n=2000, d=2, images=1)
    found = domain_shift(a, b + 2 * np.sqrt(5 / 4) * np.eye(2)[0], *groups, random_state=0)
    assert found.found
    assert found.low < 0.9214 < found.high
    assert found.n_patients == (500, 500)


def test_images_of_a_patient_are_no_evidence_of_a_shift():
    """Without the patients, images of one are on both sides of the split and seem to be."""
    a, b, *groups = halves(0, n=30, d=64, images=10)
    assert domain_shift(a, b, random_state=0).auc > 0.8
    assert not domain_shift(a, b, *groups, random_state=0).found


def test_a_patient_in_both_collections_is_on_one_side_of_the_split():
    """Told apart by the patient alone, whose images in the other collection are then judged."""
    Z, groups = draw(0, n=40, d=64)
    first = np.arange(len(Z)) % 2 == 0
    found = domain_shift(Z[first], Z[~first], groups[first], groups[~first], random_state=0)
    assert not found.found
    assert found.n_patients == (20, 20)


def test_both_sides_of_the_split_have_half_of_the_patients_however_many_images_they_have():
    groups = np.append(np.zeros(1000, int), np.arange(1, 20))
    random = np.random.default_rng(0)
    a, b = random.normal(size=(len(groups), 3)), random.normal(size=(50, 3))
    assert domain_shift(a, b, groups, random_state=0).n_patients == (10, 25)


def test_as_few_patients_as_there_may_be_are_enough_to_find_a_shift():
    """The exact interval of n pairs of n in order begins at (alpha / 2) ** (1 / n)."""
    Z = np.random.default_rng(0).normal(size=(12, 2))
    found = domain_shift(Z, Z + 9, random_state=0)
    assert (found.auc, found.high) == (1, 1)
    assert found.low == pytest.approx(0.025 ** (1 / 6))
    assert found.found


def test_equal_seeds_give_equal_results_and_swapped_collections_the_same_finding():
    a, b, *groups = halves(0)
    one, again = (domain_shift(a, b + 1, *groups, random_state=3) for _ in range(2))
    assert one == again == pickle.loads(pickle.dumps(one))
    assert domain_shift(b + 1, a, *groups[::-1], random_state=3).found


def test_the_patients_of_one_collection_may_be_unknown():
    a, b, groups, _ = halves(0, n=80)
    assert domain_shift(a, b, groups).n_patients == (20, 40)


def test_a_shift_is_printed_in_words():
    a, b, *groups = halves(0)
    found = domain_shift(a, b + 9, *groups, confidence_level=0.9, random_state=0)
    assert str(found) == (
        "a shift was found: the collections are told apart with an AUC of 1.000 (90 % interval "
        "0.741 to 1.000; 10 and 10 patients)"
    )


Z = np.random.default_rng(0).normal(size=(20, 3))


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((Z, Z[:, :2]), {}, r"of one encoder, but have the shapes \(20, 3\) and \(20, 2\)"),
        ((Z, np.full((20, 3), np.nan)), {}, r"Z_b: row 0 \(and 19 more\) has NaN"),
        ((Z, Z, [1] * 20), {}, r"a collection has too few patients \(1, of at least 12 needed\)"),
        ((Z, Z, range(20), ["a"] * 20), {}, "groups_a and groups_b: row 0 is a number, but"),
        ((Z, Z, range(19)), {}, "groups_a has 19 rows for 20 images"),
        ((Z, Z, None, [None] * 20), {}, "groups_b: row 0 has no patient"),
        ((Z[0], Z), {}, "Z_a must be numbers, with a row of features for each image"),
        ((Z, Z), {"confidence_level": 95}, r"confidence_level must be in \(0, 1\), got 95"),
        ((Z, Z), {"n_resamples": 0}, "n_resamples == 0, must be >= 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        domain_shift(*arguments, **options)
