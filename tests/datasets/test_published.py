"""What all readers of published data sets have in common."""

import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

from otcxr_sk import datasets
from otcxr_sk.datasets import PatientsUnknownWarning, check_leakage
from otcxr_sk.images import PathSource

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.datasets.PatientsUnknownWarning")

LOADERS = [
    datasets.load_chexpert,
    datasets.load_kermany,
    datasets.load_mimic_cxr,
    datasets.load_montgomery,
    datasets.load_nih,
    datasets.load_rsna_pneumonia,
    datasets.load_shenzhen,
    datasets.load_siim_pneumothorax,
    datasets.load_vindr_cxr,
]
FIELDS = {*("X", "images", "paths", "labels", "label_names", "groups", "split", "table", "missing")}


def test_the_same_words_everywhere(each):
    data = each.load()
    n = len(data.paths)
    assert set(data) >= FIELDS
    assert data.X is data.paths
    assert data.images is None
    assert data.missing == []
    assert data.labels.shape == (n, len(data.label_names))
    assert data.labels.dtype == float
    assert set(np.unique(data.labels[~np.isnan(data.labels)])) <= {0, 1}
    assert data.groups.shape == (n,)
    assert data.split is None or set(data.split) <= {"train", "valid", "test"}
    assert {column.shape for column in data.table.values()} == {(n,)}
    if data.get("boxes"):
        assert len({len(column) for column in data.boxes.values()}) == 1
        assert set(data.boxes["label"]) <= set(data.label_names)
        assert (data.boxes["x_min"] < data.boxes["x_max"]).all()


def test_every_picture_is_there_and_can_be_read(each):
    paths = each.load().paths
    assert len(set(paths)) == len(paths)
    assert PathSource(paths).read(range(len(paths)), 8).shape == (len(paths), 1, 8, 8)


def test_the_published_split_keeps_these_patients_apart(each):
    data = each.load()
    if data.split is not None and each.root.name != "rsna":
        check_leakage(data.groups, data.split)


def test_what_is_returned_can_be_pickled(each):
    data = each.load()
    copy = pickle.loads(pickle.dumps(data))
    assert copy.paths == data.paths
    for name in (name for name in data if name.endswith("_masks")):
        np.testing.assert_array_equal(copy[name][1], data[name][1])


def test_loading_twice_gives_the_same_order(each):
    first, second = each.load(), each.load()
    assert first.paths == second.paths
    assert first.groups.tolist() == second.groups.tolist()


@pytest.mark.parametrize("load", LOADERS, ids=lambda load: load.__name__)
def test_an_empty_folder_says_what_to_download_and_where(load, tmp_path):
    pages = "NIH Clinical Center|PhysioNet|Kaggle|Stanford AIMI|National Library of Medicine"
    with pytest.raises(FileNotFoundError, match=f"download .*({pages})"):
        load(tmp_path)
    with pytest.raises(FileNotFoundError, match=f"nowhere is not a folder; .*({pages})"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "name", ["nih", "vindr", "vinbigdata", "rsna", "siim", "chexpert", "mimic"]
)
def test_a_picture_that_a_table_names_is_there_or_stops_or_is_left_out(name, published):
    each = published(name)
    before = each.load()
    # Not the last row, so that rows behind it move up.
    gone = 1
    Path(before.paths[gone]).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of \d+ pictures are not in .*missing='drop'"):
        each.load()
    after = each.load(missing="drop")
    kept = np.delete(np.arange(len(before.paths)), gone)
    assert after.paths == [before.paths[row] for row in kept]
    assert len(after.missing) == 1
    np.testing.assert_array_equal(after.labels, before.labels[kept])
    np.testing.assert_array_equal(after.groups, before.groups[kept])
    np.testing.assert_array_equal(after.split, before.split[kept])
    for name, column in before.table.items():
        assert after.table[name].tolist() == column[kept].tolist()
    if before.get("boxes"):
        of = [before.paths[row] for row in before.boxes["row"]]
        left = [after.paths[row] for row in after.boxes["row"]]
        assert left == [path for path in of if path != before.paths[gone]]
    with pytest.raises(ValueError, match="missing must be 'raise' or 'drop'"):
        each.load(missing="ignore")


def test_without_any_picture_dropping_is_refused_too(published):
    nih = published("nih")
    for folder in ("images_001", "images_002"):
        shutil.rmtree(nih.root / folder)
    nih.tree("images_001.tar.gz").touch()
    with pytest.raises(FileNotFoundError, match=r"4 of 4 .*there is images_001\.tar\.gz: unpack"):
        nih.load(missing="drop")


def test_a_blank_patient_is_refused(published):
    nih = published("nih")
    file = nih.root / "Data_Entry_2017_v2020.csv"
    file.write_text(file.read_text().replace("No Finding,0,5,", "No Finding,0,,"))
    with pytest.raises(ValueError, match=r"00000005_000\.png has no patient in the table"):
        nih.load()


def test_two_tables_of_one_name_are_refused(published):
    nih = published("nih")
    for folder in ("one", "two"):
        nih.tree.text(f"{folder}/test_list.txt", "00000003_000.png")
    (nih.root / "test_list.txt").unlink()
    with pytest.raises(ValueError, match=r"one.test_list\.txt and .*two.* are both there"):
        nih.load()


def test_links_are_followed_and_may_lead_in_circles(published, tmp_path):
    nih = published("nih")
    before = nih.load()
    shutil.move(nih.root / "images_001", tmp_path / "elsewhere")
    (nih.root / "images_001").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    (nih.root / "images_002" / "up").symlink_to(nih.root, target_is_directory=True)
    assert nih.load().paths == before.paths


def test_two_pictures_of_one_name_are_refused(published):
    nih = published("nih")
    nih.tree.pictures("copies/00000005_000.png")
    with pytest.raises(ValueError, match=r"are both picture '00000005_000\.png'"):
        nih.load()


@pytest.mark.parametrize("name", ["vindr", "vinbigdata"])
def test_a_set_without_patients_says_so_where_it_is_loaded(name, published):
    vindr = published(name)
    with pytest.warns(PatientsUnknownWarning, match="each picture is a group") as record:
        data = datasets.load_vindr_cxr(vindr.root)
    assert record[0].filename == __file__
    assert len(set(data.groups)) == len(data.paths)


def test_a_set_with_patients_warns_of_nothing(published):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("nih", "rsna", "siim", "chexpert", "mimic", "kermany", "shenzhen"):
            published(name).load()
