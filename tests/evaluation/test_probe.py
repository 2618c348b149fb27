import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk.evaluation import few_labels, linear_probe

PATIENTS = np.repeat(np.arange(60), 2)
CLASSES = np.repeat(np.arange(60) % 3, 2)
TRAIN, TEST = np.arange(80), np.arange(80, 120)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_features_that_tell_the_class_give_auc_1_and_noise_gives_chance(n_classes):
    y = CLASSES % n_classes
    told = np.eye(n_classes)[y]
    assert linear_probe(told, y, PATIENTS, train=TRAIN, test=TEST) == 1.0
    noise = np.random.default_rng(0).normal(size=(120, 2))
    assert abs(linear_probe(noise, y, PATIENTS, train=TRAIN, test=TEST) - 0.5) < 0.2


def test_auc_does_not_depend_on_the_scale_of_a_feature():
    Z = np.random.default_rng(0).normal(size=(120, 3)) + CLASSES[:, None]
    scaled = Z * [1, 1000, 0.001] + [0, 5, -5]
    results = [linear_probe(z, CLASSES, PATIENTS, train=TRAIN, test=TEST) for z in (Z, scaled)]
    np.testing.assert_allclose(*results)


def test_a_patient_in_both_parts_is_refused_and_named():
    with pytest.raises(ValueError, match="1 patients are both in train and in test, 30 among"):
        linear_probe(
            CLASSES[:, None], CLASSES, PATIENTS, train=np.arange(61), test=np.arange(61, 90)
        )


def test_a_class_missing_from_a_part_is_refused():
    y = (np.arange(120) < 80).astype(int)
    with pytest.raises(ValueError, match="the same two or more classes"):
        linear_probe(y[:, None], y, PATIENTS, train=TRAIN, test=TEST)


@given(share=st.floats(0.001, 1), seed=st.integers(0, 99))
def test_drawn_patients_come_whole_from_train_and_show_every_class(share, seed):
    rows = few_labels(CLASSES, PATIENTS, train=TRAIN, fraction=share, random_state=seed)
    assert set(rows) <= set(TRAIN)
    assert set(CLASSES[rows]) == {0, 1, 2}
    assert set(rows) == set(np.flatnonzero(np.isin(PATIENTS, PATIENTS[rows])))
    more = few_labels(CLASSES, PATIENTS, train=TRAIN, fraction=min(1, 2 * share), random_state=seed)
    assert set(rows) <= set(more)


def test_all_labels_are_all_rows_and_no_labels_are_refused():
    assert len(few_labels(CLASSES, PATIENTS, train=TRAIN, fraction=1)) == len(TRAIN)
    with pytest.raises(ValueError, match="fraction"):
        few_labels(CLASSES, PATIENTS, train=TRAIN, fraction=0)
