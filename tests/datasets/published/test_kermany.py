import numpy as np
import pytest

from otcxr_sk.datasets import load_kermany


def test_file_names_contain_label_and_patient(published):
    data = published("kermany").load()
    assert data.label_names == ["pneumonia", "bacteria", "virus"]
    of = dict(
        zip(data.table["name"], zip(data.groups, data.labels.tolist(), strict=True), strict=True)
    )
    assert of["IM-0549-0001-0002.jpeg"] == ("IM-0549", [0, 0, 0])
    assert of["NORMAL2-IM-0549-0001.jpeg"] == ("NORMAL2-IM-0549", [0, 0, 0])
    assert of["person1_bacteria_1.jpeg"] == ("person1_bacteria", [1, 1, 0])
    assert of["person1_virus_6.jpeg"] == ("person1_virus", [1, 0, 1])
    assert of["person110_virus_205.jpeg"] == of["person110_virus_206.jpeg"]


def test_the_split_is_that_of_the_folders(published):
    data = published("kermany").load()
    assert data.split.tolist() == ["train"] * 6 + ["valid"] * 2 + ["test"] * 2


def test_the_later_version_has_other_names_and_no_validation_set(published):
    kermany = published("kermany")
    later = kermany.tree
    later.root = kermany.root / "later"
    later.images(
        "train/NORMAL/NORMAL-1003233-0001.jpeg",
        "train/PNEUMONIA/BACTERIA-1008087-0001.jpeg",
        "train/PNEUMONIA/BACTERIA-1008087-0002.jpeg",
        "test/NORMAL/NORMAL-11419-0001.jpeg",
        "test/PNEUMONIA/VIRUS-1000468-0001.jpeg",
    )
    data = load_kermany(later.root)
    assert data.groups.tolist() == ["1003233", "1008087", "1008087", "11419", "1000468"]
    assert data.labels[:, 0].tolist() == [0, 1, 1, 0, 1]
    assert set(data.split) == {"train", "test"}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("NORMAL/scan.jpeg", "the name has no patient"),
        ("NORMAL/person3_virus_15.jpeg", "is in NORMAL, but its name says virus"),
        ("PNEUMONIA/IM-0003-0001.jpeg", "is in PNEUMONIA, but its name says normal"),
    ],
)
def test_an_unknown_or_contradictory_name_is_refused(published, name, message):
    kermany = published("kermany")
    kermany.tree.images(f"chest_xray/test/{name}")
    with pytest.raises(ValueError, match=message):
        kermany.load()


def test_real_names_give_the_known_labels_and_patients(real_data, tmp_path):
    known = np.load(real_data / "kermany_dev.npz", allow_pickle=False)
    for part in ("train", "val", "test"):
        for kind in ("NORMAL", "PNEUMONIA"):
            (tmp_path / part / kind).mkdir(parents=True)
    for name, part, label in zip(
        known["file_names"], known["official_split"], known["labels"], strict=True
    ):
        (tmp_path / str(part) / ("NORMAL", "PNEUMONIA")[label] / str(name)).touch()
    data = load_kermany(tmp_path)
    row = {name: i for i, name in enumerate(data.table["name"])}
    rows = [row[name] for name in known["file_names"].tolist()]
    np.testing.assert_array_equal(data.labels[rows, 0], known["labels"])
    np.testing.assert_array_equal(
        data.labels[rows, 1:].argmax(1)[known["labels"] == 1] + 1,
        known["labels3"][known["labels"] == 1],
    )
    # The known patients are conservative: they merge bacteria and viruses of the same number.
    pairs = set(zip(data.groups[rows].tolist(), known["patient_ids"].tolist(), strict=True))
    assert len(pairs) == len(set(data.groups))
