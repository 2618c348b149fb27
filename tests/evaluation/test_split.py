import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    StratifiedGroupKFold,
    cross_val_score,
)
from sklearn.multioutput import MultiOutputClassifier

from otcxr_sk.evaluation import MultilabelStratifiedGroupKFold

laws = settings(max_examples=30, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
rare = pytest.mark.filterwarnings("ignore:a class of a label")


def draw(seed, n_patients=60, sizes=(1, 6), k=5, unknown=0.1):
    """Labels of several images per patient, which depend on the patient, and the patients."""
    random = np.random.default_rng(seed)
    patients = np.repeat(np.arange(n_patients), random.integers(*sizes, n_patients))
    sick = random.random((n_patients, k)) < np.linspace(0.05, 0.5, k)
    y = np.where(random.random((len(patients), k)) < unknown, np.nan, sick[patients])
    return y, random.permutation(n_patients)[patients]


def folds(splitter, y, groups):
    return [test.tolist() for _, test in splitter.split(y, y, groups)]


@rare
@laws
@given(seed=seeds, n_splits=st.integers(2, 6), shuffle=st.booleans())
def test_every_image_is_tested_once_and_no_patient_is_on_two_sides(seed, n_splits, shuffle):
    y, groups = draw(seed, n_patients=12)
    splitter = MultilabelStratifiedGroupKFold(
        n_splits, shuffle=shuffle, random_state=seed if shuffle else None
    )
    tested = []
    for train, test in splitter.split(y, y, groups):
        assert not {*groups[train]} & {*groups[test]}
        assert sorted([*train, *test]) == list(range(len(y)))
        tested += test.tolist()
    assert sorted(tested) == list(range(len(y)))


@rare
@laws
@given(seed=seeds, images=st.integers(1, 3), classes=st.integers(2, 4), shuffle=st.booleans())
def test_one_label_is_split_as_by_scikit_learn(seed, images, classes, shuffle):
    """With as many images of every patient: otherwise scikit-learn has another order of ties."""
    random = np.random.default_rng(seed)
    groups = np.repeat(np.arange(20), images)
    y = random.permutation(np.arange(len(groups)) % classes)
    options = {"n_splits": 3, "shuffle": shuffle, "random_state": seed if shuffle else None}
    ours = folds(MultilabelStratifiedGroupKFold(**options), y, groups)
    assert ours == folds(StratifiedGroupKFold(**options), y, groups)


@laws
@given(seed=seeds)
def test_with_constant_labels_folds_are_as_large_as_those_of_group_k_fold(seed):
    _, groups = draw(seed)
    y = np.ones((len(groups), 3))
    ours, theirs = (
        sorted(map(len, folds(splitter, y, groups)))
        for splitter in (MultilabelStratifiedGroupKFold(4), GroupKFold(4))
    )
    assert ours == theirs


@rare
def test_shares_of_labels_are_at_least_twice_as_even_as_those_of_group_k_fold():
    def uneven(splitter, y, groups):
        shares = [np.nanmean(y[test], axis=0) for test in folds(splitter, y, groups)]
        return np.abs(shares - np.nanmean(y, axis=0)).mean()

    drawn = [draw(seed) for seed in range(20)]
    ours, theirs = (
        np.array([uneven(splitter, *one) for one in drawn])
        for splitter in (MultilabelStratifiedGroupKFold(), GroupKFold())
    )
    assert ours.mean() < theirs.mean() / 2
    assert (ours < theirs).all()


@rare
def test_unknown_labels_are_spread_over_the_folds():
    y, groups = draw(0, n_patients=100)
    of_patient = np.random.default_rng(1).random(100) < 0.3
    y[of_patient[groups], 2] = np.nan
    shares = [
        np.isnan(y[test, 2]).mean() for test in folds(MultilabelStratifiedGroupKFold(), y, groups)
    ]
    np.testing.assert_allclose(shares, np.isnan(y[:, 2]).mean(), atol=0.05)


def test_a_class_of_too_few_patients_is_told():
    y = np.zeros((20, 2))
    y[:10, 0] = 1
    y[[0, 1], 1] = 1
    with pytest.warns(UserWarning, match="fewer than 5 patients: some folds lack it"):
        folds(MultilabelStratifiedGroupKFold(), y, np.repeat(np.arange(10), 2))


@rare
def test_labels_and_patients_may_be_columns_of_a_data_frame():
    y, groups = draw(0)
    frame = pd.DataFrame(y).assign(patient=[f"p{group}" for group in groups])
    found = folds(MultilabelStratifiedGroupKFold(), frame[[0, 1, 2, 3, 4]], frame["patient"])
    names = np.array([f"p{group}" for group in groups])
    assert found == folds(MultilabelStratifiedGroupKFold(), y, names)


@rare
def test_it_serves_scikit_learn_as_a_splitter():
    y, groups = draw(0, n_patients=100, unknown=0)
    y = y[:, 3:].astype(int)
    X = y + np.random.default_rng(0).normal(size=y.shape)
    model, splitter = MultiOutputClassifier(LogisticRegression()), MultilabelStratifiedGroupKFold(3)
    assert len(cross_val_score(model, X, y, groups=groups, cv=splitter)) == 3
    search = GridSearchCV(model, {"estimator__C": [0.1, 1]}, cv=clone(splitter, safe=False))
    assert search.fit(X, y, groups=groups).n_splits_ == 3
    assert repr(splitter) == (
        "MultilabelStratifiedGroupKFold(n_splits=3, random_state=None, shuffle=False)"
    )
    assert splitter.get_metadata_routing().split.requests["groups"] is True


@pytest.mark.parametrize(
    ("y", "groups", "message"),
    [
        ([0, 1, 1, 0], [1, 2, 2, 1], "there are 2 patients, too few for 3 folds"),
        ([0, 1, 0, 1], None, "needs groups"),
        (None, [1, 2, 3, 4], "needs y"),
        ([0, 1, 0, 1], [1, 2, 3, None], "row 3 has no patient"),
        ([[0, 2]] * 4, [1, 2, 3, 4], "row 0 of column 1 is 2"),
    ],
)
def test_what_cannot_be_split_is_refused(y, groups, message):
    with pytest.raises(ValueError, match=message):
        list(
            MultilabelStratifiedGroupKFold(3).split(np.zeros(4 if y is None else len(y)), y, groups)
        )
