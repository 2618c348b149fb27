"""An encoder knows whom it was trained on, and tells nobody who that is."""

import copy
import pickle

import numpy as np
import pytest
import skops.io
from hypothesis import given, settings
from hypothesis import strategies as st

from otcxr_sk.estimators._seen import digest, new_salt, nobody, note

GROUPS = np.repeat([f"p{row}" for row in range(12)], 2)
NEW = ["new", "p99"]


@pytest.fixture(scope="module")
def fitted(tiny, X):
    return tiny(validation_fraction=0.25).fit(X, groups=GROUPS)


def test_patients_were_trained_on_or_held_out_or_are_new(fitted):
    trained, either = fitted.seen(GROUPS), fitted.seen(GROUPS, held_out=True)
    assert (trained.sum(), either.sum()) == (18, 24)
    assert not fitted.seen(NEW, held_out=True).any()
    assert {*GROUPS[trained]}.isdisjoint(GROUPS[~trained])


def test_the_same_seed_gives_the_same_weights_and_another_salt(tiny, X, fitted):
    again = tiny(validation_fraction=0.25).fit(X, groups=GROUPS)
    np.testing.assert_array_equal(again.weights_, fitted.weights_)
    np.testing.assert_array_equal(again.seen(GROUPS), fitted.seen(GROUPS))
    assert not np.isin(again.patients_["trained"], fitted.patients_["trained"]).any()


@pytest.mark.parametrize(
    "copied",
    [
        lambda one: pickle.loads(pickle.dumps(one)),
        lambda one: skops.io.loads(
            skops.io.dumps(one), trusted=["otcxr_sk.estimators._pretrainer.OTCXRPretrainer"]
        ),
        copy.deepcopy,
    ],
)
def test_copies_know_the_patients_until_they_forget_them(fitted, copied):
    twin = copied(fitted)
    np.testing.assert_array_equal(twin.seen(GROUPS), fitted.seen(GROUPS))
    lean = pickle.loads(pickle.dumps(twin.forget_patients()))
    with pytest.raises(ValueError, match="this encoder knows no patients"):
        lean.seen(GROUPS)
    assert fitted.seen(GROUPS).any()


def test_a_dump_of_a_version_that_kept_no_patients_loads(fitted, X):
    state = fitted.__getstate__()
    for name in ("patients_", "n_images_", "n_patients_"):
        del state[name]
    old = type(fitted).__new__(type(fitted))
    old.__setstate__(state)
    with pytest.raises(ValueError, match="knows no patients"):
        old.seen(GROUPS)
    old.set_params(warm_start=True, validation_fraction=0.0).fit(X, groups=GROUPS)
    with pytest.warns(UserWarning, match="some of the training was without groups"):
        assert old.seen(GROUPS).all()
    assert (old.n_images_, old.n_patients_) == (None, None)


def test_training_that_goes_on_adds_its_patients(tiny, X):
    half = len(X) // 2
    enc = tiny(warm_start=True).fit(X[:half], groups=GROUPS[:half])
    assert not enc.seen(GROUPS[half:]).any()
    enc.partial_fit(X[half:-4], groups=GROUPS[half:-4])
    assert enc.seen(GROUPS).tolist() == [True] * 20 + [False] * 4
    enc.fit(X[-4:], groups=GROUPS[-4:])
    assert enc.seen(GROUPS).all()
    other = tiny(weights=enc).fit(X[:4], groups=["o1", "o1", "o2", "o2"])
    assert other.seen([*GROUPS, "o1"]).all()


def test_training_without_groups_is_told(tiny, X):
    enc = tiny().fit(X)
    assert enc.patients_ is None
    enc = tiny().fit(X[:8], groups=GROUPS[:8]).partial_fit(X[8:])
    with pytest.warns(UserWarning, match="without groups: patients that count as not seen may"):
        assert enc.seen(GROUPS).sum() == 8


def test_an_encoder_that_was_not_trained_has_seen_nobody(tiny, X):
    assert not tiny(epochs=0).fit(X, groups=GROUPS).seen(GROUPS).any()


def test_what_was_trained_on_is_counted(tiny, X, fitted):
    assert (fitted.n_images_, fitted.n_patients_) == (18, 9)
    on = tiny(weights=fitted).fit(X[:4], groups=["o1", "o1", "o2", "o2"])
    assert (on.n_images_, on.n_patients_) == (22, 11)
    on.partial_fit(X[:2], groups=["o1", "o1"])
    assert (on.n_images_, on.n_patients_) == (24, 11)
    on.partial_fit(X[:2])
    assert (on.n_images_, on.n_patients_) == (26, None)
    untrained = tiny(epochs=0).fit(X, groups=GROUPS)
    assert (untrained.n_images_, untrained.n_patients_) == (0, 0)


def test_patients_of_images_that_cannot_be_used_were_not_seen(tiny, X):
    bad = X.copy()
    bad[[0, 1, 2]] = np.nan
    enc = tiny(on_error="nan").fit(bad, groups=GROUPS)
    assert enc.seen(GROUPS).tolist() == [False] * 2 + [True] * 22


@settings(max_examples=30, derandomize=True)
@given(ids=st.lists(st.integers(0, 10**6), min_size=1, max_size=20), salt=st.just(new_salt()))
def test_one_id_in_any_kind_is_one_patient(ids, salt):
    ways = [
        np.array(ids),
        np.array(ids, float),
        np.array([str(one) for one in ids]),
        np.array([f"{one:09}" for one in ids]),
    ]
    found = [digest(way, salt) for way in ways]
    for one in found[1:]:
        np.testing.assert_array_equal(one, found[0])
    assert len(set(found[0].tolist())) == len(set(ids))


def test_digests_are_of_64_bits_and_need_the_salt():
    ids = np.arange(20_000)
    one, other = (digest(ids, new_salt()) for _ in range(2))
    assert one.dtype == np.uint64
    assert len(np.unique(np.concatenate([one, other]))) == 40_000
    assert one.mean() / 2**64 == pytest.approx(0.5, abs=0.01)


def test_patients_are_kept_sorted_and_once():
    ids = np.array(["b", "a", "b"])
    kept = note(nobody(new_salt()), ids, ids[:0], "")
    assert (np.diff(kept["trained"].astype(object)) > 0).all()
    assert (len(kept["trained"]), len(kept["held_out"]), kept["complete"]) == (2, 0, True)
    assert note(kept, ids, ids[:0], "")["trained"].tolist() == kept["trained"].tolist()


def test_a_missing_patient_is_refused(fitted):
    with pytest.raises(ValueError, match="row 1 has no patient"):
        fitted.seen(["p1", None])
