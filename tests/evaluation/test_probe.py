import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, roc_auc_score, roc_curve

from otcxr_sk.evaluation import knn_probe, linear_probe, make_probe, probe_roc

laws = settings(max_examples=20, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module", params=[linear_probe, knn_probe])
def probe(request):
    return request.param


@pytest.mark.parametrize("n_classes", [2, 3])
def test_features_that_encode_the_class_give_auc_1_and_noise_gives_chance(probe, study, n_classes):
    y = np.array(["normal", "bacteria", "virus"])[study.classes % n_classes]
    perfect = np.eye(n_classes)[study.classes % n_classes]
    assert probe(perfect, y, study.patients, **study.parts) == 1.0
    noise = np.random.default_rng(0).normal(size=(200, 2))
    assert abs(probe(noise, y, study.patients, **study.parts) - 0.5) < 0.15


def test_the_auc_of_several_labels_is_the_mean_over_labels_where_they_are_known(probe, study):
    y = study.labels.copy()
    y[np.random.default_rng(0).random(y.shape) < 0.2] = np.nan
    each = []
    for column in y.T:
        known = {name: rows[~np.isnan(column[rows])] for name, rows in study.parts.items()}
        each.append(probe(study.Z, column, study.patients, **study.parts))
        assert each[-1] == probe(study.Z, column, study.patients, **known)
    assert probe(study.Z, y, study.patients, **study.parts) == pytest.approx(np.mean(each))


def test_the_auc_of_several_classes_is_scikit_learns_one_versus_rest(study):
    train, test = study.parts.values()
    fitted = make_probe().fit(study.Z[train], study.classes[train])
    expected = roc_auc_score(
        study.classes[test], fitted.predict_proba(study.Z[test]), multi_class="ovr"
    )
    found = linear_probe(study.Z, study.classes, study.patients, **study.parts)
    assert found == pytest.approx(expected)


@laws
@given(seed=seeds)
def test_the_order_of_images_and_the_names_of_patients_and_classes_do_not_matter(
    probe, study, seed
):
    random = np.random.default_rng(seed)
    order, names = random.permutation(200), random.permutation(100)
    place = np.argsort(order)
    y = study.labels[:, 0]
    result = probe(
        study.Z[order],
        np.where(y == 1, "yes", "no")[order],
        names[study.patients[order]],
        **{name: place[rows] for name, rows in study.parts.items()},
    )
    assert result == pytest.approx(probe(study.Z, y, study.patients, **study.parts), abs=1e-3)


def test_a_linear_probe_ignores_scale_and_offset_of_a_feature(study):
    scaled = study.Z * np.logspace(-3, 3, 6) + 5
    results = [
        linear_probe(Z, study.classes, study.patients, **study.parts) for Z in (study.Z, scaled)
    ]
    np.testing.assert_allclose(*results)


@laws
@given(seed=seeds)
def test_a_knn_probe_ignores_rotation_and_the_length_of_each_embedding(study, seed):
    random = np.random.default_rng(seed)
    rotation = np.linalg.qr(random.normal(size=(6, 6)))[0]
    turned = random.uniform(0.1, 10, (200, 1)) * study.Z @ rotation
    results = [knn_probe(Z, study.labels, study.patients, **study.parts) for Z in (study.Z, turned)]
    np.testing.assert_allclose(*results)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("task", ["classes", "labels"])
@pytest.mark.parametrize(("name", "probe"), [("linear", linear_probe), ("knn", knn_probe)])
def test_the_area_under_the_curve_is_the_auc_of_the_probe(study, name, probe, task, tied):
    Z = study.Z.round() if tied else study.Z
    options = getattr(study, task), study.patients
    found = probe_roc(Z, *options, **study.parts, probe=name)
    assert found.auc == probe(Z, *options, **study.parts)
    assert auc(found.fpr, found.tpr) == pytest.approx(found.auc)
    for rates in (found.fpr, found.tpr):
        assert (rates[0], rates[-1]) == (0, 1)
        assert (np.diff(rates) >= 0).all()


def test_the_roc_curve_of_one_label_is_scikit_learns(study):
    y, (train, test) = study.labels[:, 0], study.parts.values()
    score = make_probe().fit(study.Z[train], y[train]).predict_proba(study.Z[test])[:, 1]
    fpr, tpr, _ = roc_curve(y[test], score)
    found = probe_roc(study.Z, y, study.patients, **study.parts)
    expected = set(zip(fpr, tpr, strict=True))
    assert expected == set(zip(found.fpr, found.tpr, strict=True))


def test_a_knn_probe_finds_the_labels_of_copies():
    """Each test image is a copy of one training image, orthogonal to all others."""
    random = np.random.default_rng(0)
    Z, y = np.tile(np.eye(30), (2, 1)), np.tile(random.permutation(30) % 2, 2)
    assert knn_probe(Z, y, np.arange(60), train=range(30), test=range(30, 60)) == 1.0


def test_a_knn_probe_is_a_weighted_vote_of_the_20_nearest(study):
    train, test = study.parts.values()
    y = study.labels[:, 0]
    unit = study.Z / np.linalg.norm(study.Z, axis=1, keepdims=True)
    share = []
    for row in test:
        cosine = unit[train] @ unit[row]
        near = np.argsort(cosine)[-20:]
        weight = np.exp(cosine[near] / 0.07)
        share.append(weight @ y[train][near] / weight.sum())
    assert knn_probe(study.Z, y, study.patients, **study.parts) == roc_auc_score(y[test], share)
