"""Collections of images: who is trained on, what is judged, and how far methods are apart."""

from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import ablate
import compare_peers
import numpy as np
import pytest
import torch
from controls import averaged, mean_only, places_shuffled, shuffled
from peers import choosing, judging, protocol
from peers.cache import Cache
from peers.features import Method, Setting
from peers.pretrain import Budget
from sklearn.model_selection import GroupShuffleSplit
from study import Collection, Study, laptop, person, positive_task, split_off

from otcxr_sk import Optimizer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.evaluation import compare, label_efficiency, linear_probe
from otcxr_sk.method import _model
from otcxr_sk.method._read_out import ReadOut

BUDGET = Budget("resnet10t", 32, match_stride=8, epochs=1, batch_size=32, optimizer=Optimizer())
POOLS = [("a",), ("b",), ("a", "b"), ("a", "c"), ("a", "b", "c")]


def make_collection(seed, *, n=60, tasks=2, ids="{}", **options):
    """Two images of each of n patients, none like another; every label is unknown for some."""
    random = np.random.default_rng(seed)
    patients = np.repeat([ids.format(patient) for patient in range(n)], 2)
    labels = random.integers(0, 2, (tasks, 2 * n)).astype(float)
    labels[:, ::9] = np.nan
    images = random.random((2 * n, 4, 4))
    names = [f"task {seed}{task}" for task in range(tasks)]
    return Collection(images, patients, dict(zip(names, labels, strict=True)), **options)


@pytest.fixture
def study(monkeypatch):
    for module in (choosing, judging):
        monkeypatch.setattr(module, "DRAWS", 2)
    for name, value in {"FOLDS": 2, "REPEATS": 2, "RESAMPLES": 100}.items():
        monkeypatch.setattr(judging, name, value)
    known = np.random.default_rng(0).integers(0, 2, 80).astype(float)
    collections = {
        "a": make_collection(1, shares=(0.2, 1.0)),
        "b": make_collection(2, ids="00{}", shares=(1.0,)),
        "c": Collection(
            np.random.default_rng(3).random((80, 4, 4)),
            np.arange(80),
            {"known": known},
            shares=(1.0,),
            in_folds=True,
        ),
    }
    return Study(collections, ("a",))


def alone(collection):
    return Study({"alone": collection}, ("alone",))


def guess(seed, **options):
    return Method(lambda images, *_: (guesses(len(images), seed), None), random=False, **options)


def guesses(n, seed):
    return np.random.default_rng(seed).normal(size=(n, 5))


def test_no_two_parts_share_a_patient():
    collection = make_collection(0)
    parts = collection.parts()
    assert sorted(np.concatenate(parts)) == list(range(120))
    owners = [set(collection.patients[rows]) for rows in parts]
    assert sum(map(len, owners)) == 60


def test_the_test_patients_are_those_of_the_published_tables():
    patients = np.repeat(np.arange(100), 2)
    published = GroupShuffleSplit(1, test_size=0.25, random_state=2024)
    expected = next(published.split(patients, groups=patients))
    collection = Collection(np.empty((200, 1, 1)), patients, {})
    for found in collection.parts(), alone(collection).parts(), split_off(np.arange(200), patients):
        for part, same in zip(found, expected, strict=True):
            np.testing.assert_array_equal(part, same)


@pytest.mark.parametrize("pool", POOLS)
def test_whoever_is_tested_in_a_collection_is_trained_on_in_none(study, pool):
    study = replace(study, pool=pool)
    tested = [each.patients[each.parts()[1]] for each in study.collections.values()]
    tested = set(map(person, np.concatenate(tested)))
    trained_on, matched = study.parts()
    rows = study.split(np.arange(len(study.images)))
    for name, each in study.collections.items():
        used = set(map(person, each.patients[np.isin(rows[name], trained_on)]))
        others = set(map(person, each.patients)) - tested
        assert used == (others if name in pool else set())
        here = set(rows[name][each.parts()[1]]) if name in pool else set()
        assert here == set(rows[name]) & set(matched)


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


def test_an_empty_value_is_an_unknown_label():
    found = positive_task(np.array(["", "Opacity", "Normal"]), "Opacity")
    np.testing.assert_array_equal(found, [np.nan, 1, 0])
    np.testing.assert_array_equal(positive_task(np.array([0, 1, 2]), 1), [0, 1, 0])


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


def made_before(rows, tasks):
    """Return rows as a table had them before there were collections, as they are read."""
    new = ("pool", "collection")
    return [
        {name: value for name, value in row.items() if name not in new}
        for row in rows
        if row["task"] in tasks
    ]


@pytest.mark.slow
def test_a_table_of_before_can_be_joined_without_differences_from_another_version(study, tmp_path):
    runs = protocol.Protocol(study, BUDGET, Cache(tmp_path))
    old = {"pca": guess(1), "simclr": guess(3), "otcxr": guess(2)}
    old_rows = made_before(protocol.evaluate(runs, old, seeds=1), study.collections["a"].tasks)

    def joined(ours):
        runs = protocol.Protocol(study, BUDGET, Cache(tmp_path / str(ours)))
        new = {"pca": guess(1), "otcxr": guess(ours)}
        rows = compare_peers.join(protocol.evaluate(runs, new, seeds=1), old_rows, study)
        return rows, [row for row in rows if row["method"] == "simclr"]

    for ours in (2, 4):
        rows, simclr = joined(ours)
        assert {row["method"] for row in rows} == {"pca", "simclr", "otcxr"}
        assert [row["task"] for row in simclr[::4]] == ["task 10", "task 11", "mean of a"]
        assert {(row["pool"], row["collection"]) for row in simclr} == {("a", "a")}
        *each, mean = [row for row in simclr if row["probe"] == "linear"]
        assert mean["score"] == pytest.approx(np.mean([row["score"] for row in each]))
        assert mean["ours_less_it_difference"] is None
        for row in each:
            assert (row["ours_less_it_low"] is None) == (ours == 4)
    compare_peers.write_csv(rows, tmp_path / "t.csv", digits=5)
    again = compare_peers.read_rows(tmp_path / "t.csv")
    compare_peers.write_tables(again, tmp_path / "t.md", study.overview(), ["A caveat."])
    compare_peers.write_figure(again, tmp_path / "t.png", study.overview())
    text = (tmp_path / "t.md").read_text(encoding="utf-8")
    assert "\nA caveat.\n" in text
    row = next(line for line in text.splitlines() if line.startswith("| simclr |"))
    # Mean, two tasks with two shares; then what nobody had asked then, and no facts.
    assert [bool(cell.strip()) for cell in row.split("|")[2:11]] == [True] * 5 + [False] * 4


def test_tokens_are_shuffled_within_their_image_and_anew_each_time():
    shown, generator = torch.randn(3, 16, 5), torch.Generator().manual_seed(0)
    first, second = shuffled(shown, generator), shuffled(shown, generator)
    assert not first.equal(second)
    for found in first, second:
        assert not found.equal(shown)
        assert [set(map(tuple, image.tolist())) for image in found] == [
            set(map(tuple, image.tolist())) for image in shown
        ]


def test_the_read_out_that_sees_the_mean_only_cannot_tell_where_tokens_are():
    torch.manual_seed(0)
    read, values = ReadOut(8, 4, width=16), torch.randn(2, 6, 8)
    places, asked, sizes = torch.randn(2, 6, 2), torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    moved = values.flip(1)
    assert not read(values, places, asked, sizes).allclose(read(moved, places, asked, sizes))
    with mean_only():
        told = read(values, places, asked, sizes)
        torch.testing.assert_close(read(moved, places, asked, sizes), told)
    torch.testing.assert_close(averaged(values)[:, 3], values.mean(1))


def test_controls_change_the_read_out_and_leave_the_library_as_it_was():
    # The last map has four places.
    images = make_chest_phantoms(8, images_per_patient=1, image_size=64, random_state=0).images
    before = ReadOut.forward, _model.reading_error

    def losses(control=nullcontext, **changes):
        estimator = laptop(encoder="test_resnet", epochs=1, random_state=0, **changes)
        with control():
            return estimator.fit(images).history_["loss"]

    whole, without = losses(objective__read_out=40.0), losses(objective__read_out=0.0)
    for control in places_shuffled, mean_only:
        assert losses(control, objective__read_out=40.0) != whole
        assert losses(control, objective__read_out=0.0) == without
        assert (ReadOut.forward, _model.reading_error) == before


def test_an_ablation_has_a_control_in_force_in_fit_alone_and_a_mean_of_each_collection(study):
    read, seen = ReadOut.forward, []

    class Spy:
        device = "cpu"

        def fit(self, images):
            seen.append((len(images), ReadOut.forward is read))

        def transform(self, images):
            seen.append((len(images), ReadOut.forward is read))
            return guesses(len(images), 0)

        def match(self, images, random_state):
            return SimpleNamespace(accuracy=0.5)

    found = ablate.run(study, "the mean only", Spy())
    assert seen == [(len(study.parts()[0]), False), (len(study.images), True)]
    numbers = ablate.numbers_of(study, found)
    tasks = [f"task 1{task}, {share} %" for task in range(2) for share in (20, 100)]
    assert numbers["mean of a"] == pytest.approx(np.mean([numbers[task] for task in tasks]))
    assert numbers["mean"] == pytest.approx((numbers["mean of a"] + numbers["mean of b"]) / 2)
    assert not any("known" in column for column in numbers)
