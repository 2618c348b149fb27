"""Collections of images: who is trained on, and who is tested."""

from dataclasses import replace

import ablate
import compare_peers
import few_labels
import numpy as np
import pytest
from sklearn.model_selection import GroupShuffleSplit
from small_studies import COLLECTIONS, alone, arguments, make_collection
from study import Collection, person, positive_task, split_off

POOLS = [("a",), ("b",), ("a", "b"), ("a", "c"), ("a", "b", "c")]


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


def test_an_empty_value_is_an_unknown_label():
    found = positive_task(np.array(["", "Opacity", "Normal"]), "Opacity")
    np.testing.assert_array_equal(found, [np.nan, 1, 0])
    np.testing.assert_array_equal(positive_task(np.array([0, 1, 2]), 1), [0, 1, 0])


def test_a_device_that_is_not_there_is_an_error(folder, capsys):
    with pytest.raises(SystemExit):
        ablate.main([*arguments(folder, "children"), "--device", "cuda:99"])
    assert "device='cuda:99' cannot be used on this machine" in capsys.readouterr().err


def test_an_error_names_a_missing_column_and_those_there_are(folder, data):
    there = "it has images, patient_ids, kind"
    with pytest.raises(SystemExit, match=f"no 'finding'; {there}"):
        few_labels.main([str(data), "--classes", "finding"])
    wrong = COLLECTIONS.replace('classes = "kind"', 'classes = "finding"')
    (folder / "collections.toml").write_text(wrong)
    for script in (ablate, compare_peers):
        with pytest.raises(SystemExit, match=f"no 'finding'; {there}"):
            script.main(arguments(folder, "children"))


def test_a_pool_that_cannot_be_trained_on_is_an_error(folder):
    for pool, message in {
        "elders": "no collection 'elders'; there are children, adults, small",
        "small": "a pool needs a collection that is not judged in folds",
    }.items():
        with pytest.raises(SystemExit, match=message):
            compare_peers.main(arguments(folder, pool))
    with pytest.raises(SystemExit, match="needs a folder, and --pool names"):
        ablate.main([str(folder / "collections.toml"), str(folder)])
