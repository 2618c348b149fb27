import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold

from otcxr_sk.evaluation import knn_probe, linear_probe, make_probe, probe_auc


def test_each_auc_is_that_of_the_probe_of_its_label_and_so_is_the_mean(study):
    y = study.labels.copy()
    y[np.random.default_rng(0).random(y.shape) < 0.2] = np.nan
    for name, probe in (("linear", linear_probe), ("knn", knn_probe)):
        found = probe_auc(study.Z, y, study.patients, **study.parts, probe=name, random_state=0)
        each = [probe(study.Z, column, study.patients, **study.parts) for column in y.T]
        np.testing.assert_allclose(found.auc, each)
        assert found.mean == pytest.approx(np.mean(each))
        assert (found.low < found.auc).all()
        assert (found.auc < found.high).all()
        assert found.mean_interval[0] < found.mean < found.mean_interval[1]
    test = y[study.parts["test"]]
    assert found.n_positive.tolist() == np.nansum(test, 0).tolist()
    assert found.n_images.tolist() == (~np.isnan(test)).sum(0).tolist()


def test_the_auc_of_a_cross_validation_is_the_mean_over_its_folds(study):
    folds = list(GroupKFold(4).split(study.Z, groups=study.patients))
    y = study.labels[:, 0]
    each = [
        linear_probe(study.Z, y, study.patients, train=train, test=test) for train, test in folds
    ]
    for cv in (GroupKFold(4), folds):
        found = probe_auc(study.Z, y, study.patients, cv=cv, random_state=0)
        assert found.auc.item() == pytest.approx(np.mean(each))
        assert found.n_images.item() == 200
    assert probe_auc(study.Z, y, study.patients, cv=4, random_state=0).low[0] < found.high[0]


def test_one_fold_is_train_and_test(study):
    alone = probe_auc(study.Z, study.classes, study.patients, **study.parts, random_state=0)
    as_fold = probe_auc(
        study.Z, study.classes, study.patients, cv=[(*study.parts.values(),)], random_state=0
    )
    assert str(alone) == str(as_fold)
    assert alone.names == ("0", "1", "2")


def test_the_interval_is_delongs_where_each_patient_has_one_image():
    """DeLong, DeLong and Clarke-Pearson 1988: the variance from the placements of both classes."""
    random = np.random.default_rng(0)
    y = np.arange(1200) % 2
    Z = y[:, None] + random.normal(size=(1200, 1))
    train, test = np.arange(200), np.arange(200, 1200)
    found = probe_auc(Z, y, np.arange(1200), train=train, test=test, random_state=0)
    score = make_probe().fit(Z[train], y[train]).decision_function(Z[test])
    above = score[y[test] == 1][:, None] > score[y[test] == 0]
    error = np.sqrt(above.mean(1).var(ddof=1) / 500 + above.mean(0).var(ddof=1) / 500)
    ends = found.auc[0] + norm.ppf([0.025, 0.975]) * error
    np.testing.assert_allclose([found.low[0], found.high[0]], ends, atol=0.003)


def test_copies_of_the_images_of_a_test_patient_are_no_evidence(study):
    train, test = study.parts.values()
    task = study.Z, study.labels, study.patients
    once = probe_auc(*task, train=train, test=test, random_state=0)
    five = probe_auc(*task, train=train, test=np.repeat(test, 5), random_state=0)
    np.testing.assert_allclose([five.low, five.high], [once.low, once.high])


def test_the_interval_of_folds_is_that_of_a_naive_bootstrap_of_patients(study):
    """The resampled AUC is the mean over folds, each with the images of its resampled patients."""
    y, patients = study.labels[:, 0], study.patients
    scored = []
    for train, test in GroupKFold(2).split(study.Z, groups=patients):
        model = make_probe().fit(study.Z[train], y[train])
        scored.append((patients[test], y[test], model.decision_function(study.Z[test])))
    random, resampled = np.random.default_rng(1), []
    for _ in range(500):
        times = np.bincount(random.integers(100, size=100), minlength=100)
        each = [roc_auc_score(t.repeat(times[p]), s.repeat(times[p])) for p, t, s in scored]
        resampled.append(np.mean(each))
    found = probe_auc(study.Z, y, patients, cv=GroupKFold(2), random_state=0)
    expected = np.quantile(resampled, [0.025, 0.975])
    np.testing.assert_allclose([found.low[0], found.high[0]], expected, atol=0.02)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("split", "least", "most"),
    [({"train": range(50), "test": range(50, 100)}, 0.9, 0.99), ({"cv": 5}, 0.76, 0.92)],
)
def test_intervals_cover_chance_as_often_as_the_docstring_says(split, least, most):
    covered = []
    for seed in range(200):
        random = np.random.default_rng(seed)
        Z, y = random.normal(size=(100, 8)), random.permutation(np.arange(100) % 2)
        found = probe_auc(Z, y, np.arange(100), **split, n_resamples=200, random_state=seed)
        covered.append(found.low[0] <= 0.5 <= found.high[0])
    assert least <= np.mean(covered) <= most


@pytest.mark.parametrize("split", [{"train": range(60), "test": range(60, 120)}, {"cv": 2}])
def test_a_perfect_auc_has_the_exact_interval_of_its_pairs_of_patients(split):
    """Of n of n, the lower bound is (alpha / 2) ** (1 / n)."""
    y, patients = np.tile([0, 1, 0], 40), np.arange(120)
    pairs = 20 if "train" in split else 40
    found = probe_auc(y[:, None], y, patients, **split, random_state=0)
    assert (found.auc[0], found.high[0]) == (1, 1)
    assert found.low[0] == pytest.approx(0.025 ** (1 / pairs))
    assert found.mean_interval == (found.low[0], found.high[0])


def test_a_repeated_cross_validation_makes_no_new_pairs():
    y, patients = np.tile([0, 1, 0], 40), np.arange(120)
    folds = list(GroupKFold(2).split(y, groups=patients))
    once, twice = (
        probe_auc(y[:, None], y, patients, cv=folds * times, random_state=0) for times in (1, 2)
    )
    assert once.low == twice.low
    assert twice.n_images[0] == 2 * once.n_images[0]


def test_unknown_labels_are_left_out_of_every_fold(study):
    y = np.where(np.arange(200) % 3, study.labels[:, 0], np.nan)
    known = ~np.isnan(y)
    found = probe_auc(study.Z, y, study.patients, cv=3, random_state=0)
    assert (found.n_images[0], found.n_positive[0]) == (known.sum(), y[known].sum())


def test_a_patient_is_in_one_pair_only():
    """Each of 10 test patients has an image with the label and one without: 5 pairs."""
    y, patients = np.tile([0, 1], 20), np.repeat(np.arange(20), 2)
    found = probe_auc(y[:, None], y, patients, train=range(20), test=range(20, 40))
    assert found.low[0] == pytest.approx(0.025 ** (1 / 5))


def test_a_label_that_lacks_a_class_is_passed_over_by_name(study):
    y = study.labels.copy()
    y[:120, 1] = 0
    frame = pd.DataFrame(y, columns=["mass", "hernia", "edema"])
    found = probe_auc(study.Z, frame, study.patients, **study.parts, random_state=0)
    assert found.names == ("mass", "edema")
    assert found.skipped == {"hernia": "train has [0.0], test has [0.0, 1.0]"}
    assert found.auc[1] == linear_probe(study.Z, y[:, 2], study.patients, **study.parts)
    assert str(found).splitlines()[-1] == f"hernia is left out: {found.skipped['hernia']}"
    assert pd.DataFrame(found.rows()).label.tolist() == ["mass", "edema"]
    with pytest.raises(ValueError, match=r"y\[:, 1\].*leave it out, or use probe_auc"):
        linear_probe(study.Z, y, study.patients, **study.parts)
    with pytest.raises(ValueError, match="no label of y can be judged: label: it has one class"):
        probe_auc(study.Z, np.zeros(200), study.patients, **study.parts)


def test_a_fold_that_lacks_a_class_is_passed_over(study):
    rare = np.zeros(200)
    rare[:40:2] = 1
    found = probe_auc(study.Z, rare, study.patients, cv=GroupKFold(2), random_state=0)
    assert found.n_images[0] == 200
    halves = [np.arange(100), np.arange(100, 200)]
    with pytest.raises(ValueError, match="no fold has all its classes both in training and in"):
        probe_auc(study.Z, rare, study.patients, cv=[halves, halves[::-1]])


def test_few_patients_with_a_label_cost_its_interval(study):
    y = study.labels.copy()
    y[120:, 1] = 0
    y[[120, 130, 140], 1] = 1
    names = ["mass", "hernia", "edema"]
    with pytest.warns(UserWarning, match=r"hernia: too few test patients \(3\)"):
        found = probe_auc(study.Z, y, study.patients, **study.parts, label_names=names)
    assert np.isnan(found.low).tolist() == [False, True, False]
    assert np.isnan(found.mean_interval).all()


def test_the_same_seed_gives_the_same_intervals_and_more_confidence_wider_ones(study):
    def judged(**options):
        return probe_auc(study.Z, study.labels, study.patients, cv=3, **options)

    one, same = judged(random_state=0), judged(random_state=0)
    np.testing.assert_array_equal([one.low, one.high], [same.low, same.high])
    narrow = judged(random_state=0, confidence_level=0.5)
    assert (narrow.high - narrow.low < one.high - one.low).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "pass either train and test, or cv"),
        ({"train": range(5)}, "pass either train and test, or cv"),
        ({"cv": 2, "train": range(5), "test": range(5, 9)}, "pass either train and test, or cv"),
        ({"cv": [(range(5), range(5, 9))]}, "train and test share 1 patient"),
        ({"cv": 2, "label_names": ["a"]}, "label_names has 1 name, but y has 3 columns"),
        ({"cv": 2, "confidence_level": 95}, r"confidence_level must be in \(0, 1\)"),
    ],
)
def test_what_is_wrong_is_said(study, options, message):
    with pytest.raises(ValueError, match=message):
        probe_auc(study.Z, study.labels, study.patients, **options)


def test_patients_that_the_encoder_was_trained_on_are_warned_of(study):
    seen = study.patients < 3
    with pytest.warns(UserWarning, match="the encoder was trained on 3 patients of test"):
        probe_auc(study.Z, study.labels, study.patients, cv=2, seen=seen, random_state=0)


def test_a_table_obeys_no_name_and_folds_must_be_there():
    y = np.tile([0, 1], 20)
    names = ["\x1b[31mred", "two\nlines"]
    labels = np.stack([y, np.zeros(40)], axis=1)
    found = probe_auc(
        y[:, None], labels, np.arange(40), cv=2, label_names=names, n_resamples=9, random_state=0
    )
    assert found.names == ("\x1b[31mred",)
    assert str(found).splitlines()[1].startswith("\\x1b[31mred  1.000")
    assert str(found).splitlines()[2].startswith("two\\nlines is left out")
    with pytest.raises(ValueError, match="cv has no folds"):
        probe_auc(y[:, None], y, np.arange(40), cv=[])
