import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from otcxr_sk.evaluation import few_labels, knn_probe, label_efficiency, linear_probe

laws = settings(max_examples=50, derandomize=True)
seeds = st.integers(0, 99)


@laws
@given(share=st.floats(0.001, 1), seed=seeds, several=st.booleans())
def test_all_training_rows_of_a_drawn_patient_are_returned_and_every_class_is_drawn(
    study, share, seed, several
):
    y, train = study.labels if several else study.classes, study.parts["train"]
    rows = few_labels(y, study.patients, train=train, fraction=share, random_state=seed)
    assert set(rows) <= set(train)
    for drawn, whole in zip(np.atleast_2d(y[rows].T), np.atleast_2d(y[train].T), strict=True):
        assert set(drawn) == set(whole)
    assert set(rows) == set(np.flatnonzero(np.isin(study.patients, study.patients[rows])))
    more = few_labels(y, study.patients, train=train, fraction=min(1, 2 * share), random_state=seed)
    assert set(rows) <= set(more)


@laws
@given(share=st.floats(0.01, 1), seed=seeds)
def test_the_fraction_of_each_class_is_drawn_rounded_up(study, share, seed):
    train = study.parts["train"]
    rows = few_labels(study.classes, study.patients, train=train, fraction=share, random_state=seed)
    drawn = np.unique(study.patients[rows]) % 3
    assert np.bincount(drawn).tolist() == 3 * [int(np.ceil(20 * share))]


@pytest.mark.parametrize("percent", [7, 14, 28, 29, 55, 57])
def test_a_share_that_is_whole_patients_is_not_rounded_up(percent):
    y, patients = np.tile([0, 1], 100), np.arange(200)
    rows = few_labels(y, patients, train=patients, fraction=percent / 100, random_state=0)
    assert np.bincount(y[rows]).tolist() == [percent, percent]


def test_patients_without_a_known_label_are_not_drawn(study):
    y = np.where(study.patients < 10, np.nan, study.labels[:, 0])
    rows = few_labels(y, study.patients, train=study.parts["train"], fraction=1)
    assert set(study.patients[rows]) == set(range(10, 60))
    with pytest.raises(ValueError, match="y has no known label in the rows of train"):
        few_labels(y, study.patients, train=range(20), fraction=1)


@pytest.mark.parametrize("fraction", [0, -0.1, 1.01, float("nan")])
def test_an_invalid_fraction_is_refused(study, fraction):
    with pytest.raises(ValueError, match="fraction must be in"):
        few_labels(study.classes, study.patients, train=study.parts["train"], fraction=fraction)


def measure(study, **options):
    options = {"draws": 3, "random_state": 0, **options}
    return label_efficiency(study.Z, study.labels, study.patients, **study.parts, **options)


def test_with_all_labels_the_score_is_that_of_the_probe_without_deviation(study):
    for name, probe in (("linear", linear_probe), ("knn", knn_probe)):
        found = measure(study, probe=name)
        expected = probe(study.Z, study.labels, study.patients, **study.parts)
        assert found.scores[-1].tolist() == [expected] * 3
        assert found.std[-1] == 0
        assert found.n_patients[-1] == 60


@pytest.mark.parametrize("draws", [3, 7, 10])
@pytest.mark.parametrize("seed", range(3))
def test_equal_scores_have_no_deviation(seed, draws):
    y = np.tile([0, 1], 40)
    Z = np.random.default_rng(seed).normal(size=(80, 2)) + 0.3 * y[:, None]
    parts = {"train": range(40), "test": range(40, 80)}
    found = label_efficiency(Z, y, np.arange(80), **parts, fractions=[1.0], draws=draws)
    assert found.std.tolist() == [0.0]


def test_the_scores_of_all_draws_are_kept_and_summarized(study):
    found = measure(study, fractions=(0.5, 0.05, 0.5))
    assert found.fractions.tolist() == [0.05, 0.5]
    assert found.scores.shape == (2, 3)
    np.testing.assert_allclose(found.mean, [np.mean(scores) for scores in found.scores])
    np.testing.assert_allclose(found.std, [np.std(scores, ddof=1) for scores in found.scores])
    assert found.n_patients[0] < found.n_patients[1] < 60


def test_a_seed_repeats_the_draws_and_leaves_the_global_generator_alone(study):
    np.random.seed(0)  # noqa: NPY002
    following = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    first, again, other = (measure(study, random_state=seed).scores for seed in (0, 0, 1))
    assert np.random.random() == following  # noqa: NPY002
    np.testing.assert_array_equal(first, again)
    assert (first[0] != other[0]).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fractions": ()}, "fractions must not be empty"),
        ({"fractions": (0.1, 2)}, "fraction must be in"),
        ({"draws": 1}, "draws == 1, must be >= 2"),
        ({"probe": "forest"}, "probe must be 'linear' or 'knn', got 'forest'"),
    ],
)
def test_an_invalid_option_is_refused(study, options, message):
    with pytest.raises(ValueError, match=message):
        measure(study, **options)
