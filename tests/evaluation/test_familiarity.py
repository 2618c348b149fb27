import itertools
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.evaluation import Familiarity
from otcxr_sk.evaluation._familiarity import k_center

laws = settings(max_examples=20, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def draw(seed, shape=(200, 6)):
    return np.random.default_rng(seed).normal(size=shape)


@parametrize_with_checks([Familiarity(n_references=20)])
def test_check(estimator, check):
    check(estimator)


def by_brute_force(Z, new, k):
    scale = PCA(0.99, whiten=True, svd_solver="full").fit(Z)
    gaps = scale.transform(new)[:, None] - scale.transform(Z)[None]
    return -np.sort(np.linalg.norm(gaps, axis=2), axis=1)[:, :k].mean(axis=1)


@laws
@given(seed=seeds, k=st.integers(1, 7), d=st.integers(2, 40))
def test_with_all_images_as_references_the_score_is_that_of_brute_force(seed, k, d):
    Z, new = draw(seed, (30, d)), draw(seed + 1, (5, d))
    found = Familiarity(n_references=30, n_neighbors=k).fit(Z).score_samples(new)
    np.testing.assert_allclose(found, by_brute_force(Z, new, k), rtol=1e-6)


@laws
@given(seed=seeds, scale=st.floats(1e-3, 1e3), n_references=st.integers(5, 60))
def test_the_score_ignores_rotation_scale_and_place_of_the_embedding(seed, scale, n_references):
    Z, new = draw(seed, (60, 4)), draw(seed + 1, (5, 4))
    turn, place = np.linalg.qr(draw(seed + 2, (4, 4)))[0], 10 * scale * draw(seed + 3, (1, 4))
    one = Familiarity(n_references).fit(Z)
    other = Familiarity(n_references).fit(scale * Z @ turn + place)
    moved = other.score_samples(scale * new @ turn + place)
    np.testing.assert_allclose(moved, one.score_samples(new), rtol=1e-6)
    assert other.offset_ == pytest.approx(one.offset_)


@laws
@given(seed=seeds, k=st.integers(1, 4))
def test_no_image_is_more_than_twice_as_far_from_its_reference_as_it_had_to_be(seed, k):
    """The bound of Gonzalez (1985), against all choices of k images."""
    Z = draw(seed, (12, 2))
    gaps = np.linalg.norm(Z[:, None] - Z, axis=2)
    best = min(gaps[:, list(rows)].min(1).max() for rows in itertools.combinations(range(12), k))
    rows = k_center(Z, k)
    assert len(rows) == len(set(rows)) == k
    assert gaps[:, rows].min(1).max() <= 2 * best


def test_copies_of_an_image_are_one_reference():
    Z = np.repeat(draw(0, (10, 3)), 4, axis=0)
    assert len(Familiarity().fit(Z, groups=np.repeat(np.arange(10), 4)).references_) == 10


def test_about_as_many_new_images_are_unfamiliar_as_was_asked_for():
    """By scores of the training images themselves, it would be several times as many."""
    shares = [
        (Familiarity(false_alarms=0.1).fit(draw(seed)).predict(draw(seed + 99)) == -1).mean()
        for seed in range(10)
    ]
    assert np.mean(shares) == pytest.approx(0.1, abs=0.03)


def test_patients_are_kept_together_to_set_the_offset():
    """Images of a patient are alike, so others of that patient would make each of them familiar."""
    groups = np.repeat(np.arange(40), 5)
    Z = draw(0, (40, 6))[groups] + draw(1) / 10
    order = np.random.default_rng(0).permutation(len(Z))
    by_patient = Familiarity().fit(Z[order], groups=groups[order])
    assert by_patient.offset_ < 2 * Familiarity().fit(Z[order]).offset_


def test_phantoms_are_more_familiar_than_what_is_no_phantom():
    images = make_chest_phantoms(60, image_size=32, random_state=0).images / np.float32(255)
    random = np.random.default_rng(0)
    odd = {
        "inverted": 1 - images[80:],
        "shuffled": random.permuted(images[80:].reshape(40, -1), axis=1).reshape(40, 32, 32),
        "noise": random.random((40, 32, 32), np.float32),
    }
    encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=0, random_state=0)
    model = make_pipeline(encoder, Familiarity()).fit(images[:80])
    new = model.score_samples(images[80:])
    for name, other in odd.items():
        auc = roc_auc_score(np.repeat([1, 0], 40), [*new, *model.score_samples(other)])
        assert auc > 0.9, name
    assert (model.predict(odd["noise"]) == -1).all()


def test_a_copy_scores_the_same():
    fitted = Familiarity().fit(draw(0))
    copied = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(copied.score_samples(draw(1)), fitted.score_samples(draw(1)))


@pytest.mark.parametrize(
    ("X", "options", "message"),
    [
        (np.ones((20, 3)), {}, "the embeddings are all equal"),
        (draw(0, (10, 3)), {"groups": ["a"] * 9 + ["b"]}, "or all but those of a few patients"),
        (draw(0, (9, 3)), {}, "minimum of 10 is required"),
        (np.full((20, 3), np.nan), {}, "contains NaN"),
        (draw(0), {"groups": ["a"] * 200}, "groups has 1 patient"),
        (draw(0), {"groups": ["a"] * 3}, "groups has 3 rows for 200 images"),
    ],
)
def test_what_cannot_be_fitted_is_refused(X, options, message):
    with pytest.raises(ValueError, match=message):
        Familiarity().fit(X, **options)
