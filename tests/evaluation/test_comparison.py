import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from otcxr_sk.evaluation import compare, label_efficiency, linear_probe, make_probe, probe_auc


def run(study, **options):
    options = {"draws": 2, "n_resamples": 200, "random_state": 0, "reference": "other", **options}
    features = options.pop("features", {"other": study.other, "Z": study.Z})
    y = options.pop("y", study.labels)
    return compare(features, y, study.patients, **study.parts, **options)


@pytest.mark.slow
def test_the_interval_is_that_of_a_naive_bootstrap_of_patients(study):
    train, test = study.parts.values()
    y, patients = study.labels[:, 0], study.patients
    scores = [
        make_probe().fit(Z[train], y[train]).predict_proba(Z[test])[:, 1]
        for Z in (study.other, study.Z)
    ]
    images = {patient: np.flatnonzero(patients[test] == patient) for patient in patients[test]}
    random, gaps = np.random.default_rng(1), []
    for _ in range(1000):
        people = random.choice(list(images), size=len(images))
        rows = np.concatenate([images[patient] for patient in people])
        reference, auc = (roc_auc_score(y[test][rows], score[rows]) for score in scores)
        gaps.append(auc - reference)
    found = run(study, y=y, fractions=[1.0], n_resamples=1000, confidence_level=0.9)
    interval = found.low[1, 0], found.high[1, 0]
    np.testing.assert_allclose(interval, np.quantile(gaps, [0.05, 0.95]), atol=0.015)


def test_scores_are_the_means_of_label_efficiency_and_differences_are_between_them(study):
    found = run(study)
    for name, Z, scores in zip(found.names, (study.other, study.Z), found.score, strict=True):
        alone = label_efficiency(
            Z, study.labels, study.patients, **study.parts, draws=2, random_state=0
        )
        np.testing.assert_allclose(scores, alone.mean, err_msg=name)
    np.testing.assert_allclose(found.difference, found.score - found.score[0])


def test_the_interval_of_a_score_with_all_labels_is_that_of_the_probe(study):
    task = {"n_resamples": 2000, "random_state": 0}
    found = run(study, fractions=[1.0], **task)
    alone = probe_auc(study.Z, study.labels, study.patients, **study.parts, **task)
    interval = found.score_low[1, 0], found.score_high[1, 0]
    np.testing.assert_allclose(interval, alone.mean_interval, atol=0.01)
    assert (found.score_low < found.score).all()
    assert (found.score < found.score_high).all()


def test_scores_of_1_are_no_certainty_and_neither_is_that_they_are_equal(study):
    y = study.labels[:, 0]
    features = {"other": study.other, "one": y[:, None], "two": 2 * y[:, None]}
    found = run(study, features=features, reference="one", y=y, fractions=[1.0])
    alone = probe_auc(features["one"], y, study.patients, **study.parts)
    assert found.score[1:].tolist() == [[1], [1]]
    assert found.score_low[1] == found.score_low[2] == alone.low < 1
    assert found.score_high[1:].tolist() == [[1], [1]]
    difference = found.low[:, 0].tolist(), found.high[:, 0].tolist()
    assert difference[0][1:] == [0, alone.low[0] - 1]
    assert difference[1][1:] == [0, 1 - alone.low[0]]
    assert -1 < found.low[0, 0] < found.high[0, 0] < 0


def test_an_embedding_does_not_differ_from_its_copy(study):
    found = run(study, features={"other": study.other, "copy": study.other})
    for values in (found.difference, found.low, found.high):
        assert (values == 0).all()


def test_swapping_the_reference_changes_the_signs(study):
    one, other = run(study), run(study, reference="Z")
    np.testing.assert_allclose(one.difference[1], -other.difference[0])
    np.testing.assert_allclose(one.low[1], -other.high[0])
    np.testing.assert_allclose(one.high[1], -other.low[0])


def test_a_further_embedding_does_not_change_the_results(study):
    alone = run(study)
    more = run(study, features={"Z": study.Z, "third": study.Z[:, :2], "other": study.other})
    for column in ("score", "score_low", "score_high", "difference", "low", "high"):
        np.testing.assert_array_equal(getattr(alone, column)[1], getattr(more, column)[0])


def test_several_classes_are_each_judged_against_the_rest(study):
    found = run(study, y=study.classes, fractions=[1.0])
    for Z, score in zip((study.other, study.Z), found.score[:, 0], strict=True):
        assert score == linear_probe(Z, study.classes, study.patients, **study.parts)
    assert found.low[1, 0] <= found.difference[1, 0] <= found.high[1, 0]


def test_more_confidence_makes_a_wider_interval(study):
    wide, narrow = (run(study, confidence_level=level) for level in (0.99, 0.5))
    assert (wide.high[1] - wide.low[1] > narrow.high[1] - narrow.low[1]).all()


def test_a_comparison_becomes_a_data_frame_and_a_printed_table(study):
    found = run(study, fractions=(0.1, 1.0))
    frame = pd.DataFrame(found.rows())
    numbers = ["score", "score_low", "score_high", "difference", "low", "high"]
    assert frame.columns.tolist() == ["fraction", "name", *numbers]
    table = frame.pivot(index="name", columns="fraction", values="score")
    np.testing.assert_array_equal(table.loc[list(found.names)], found.score)
    header, *lines = str(found).splitlines()
    assert "difference from other (95 % intervals)" in header
    assert [line.split()[:4] for line in lines] == [
        [f"{100 * row.fraction:g}", "%", row.name_, f"{row.score:.3f}"]
        for row in frame.rename(columns={"name": "name_"}).itertuples()
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reference": "third"}, "reference must be one of other, Z; got 'third'"),
        ({"confidence_level": 95}, r"confidence_level must be in \(0, 1\), got 95"),
        ({"n_resamples": 0}, "n_resamples == 0, must be >= 1"),
    ],
)
def test_an_invalid_option_is_refused(study, options, message):
    with pytest.raises(ValueError, match=message):
        run(study, **options)


def test_an_embedding_without_a_name_is_refused(study):
    with pytest.raises(TypeError, match="features must be a dict of names and arrays"):
        run(study, features=study.Z)


def test_too_few_test_patients_of_a_class_cost_the_intervals_only(study):
    rare = np.zeros((200, 3))
    rare[:60:2] = 1
    rare[[120, 130, 140], [0, 1, 2]] = 1
    with pytest.warns(UserWarning, match="more than half of the resamples"):
        found = run(study, y=rare, fractions=[1.0])
    assert np.isnan([found.low, found.high, found.score_low, found.score_high]).all()
    assert found.score[1, 0] == linear_probe(study.Z, rare, study.patients, **study.parts)


def test_an_embedding_with_nan_costs_its_own_scores_only(study):
    bad = study.Z.copy()
    bad[[3, 150], 1] = np.nan
    features = {"bad": bad, "other": study.other, "Z": study.Z}
    with pytest.warns(UserWarning, match=r"features\['bad'\]: row 3 \(and 1 more\) has NaN"):
        found = run(study, features=features)
    alone = run(study)
    for column in ("score", "score_low", "score_high", "difference", "low", "high"):
        assert np.isnan(getattr(found, column)[0]).all()
        np.testing.assert_array_equal(getattr(found, column)[1:], getattr(alone, column))
    with pytest.raises(ValueError, match=r"features\['bad'\]: row 3"):
        run(study, features=features, reference="bad")
