"""What all readers of published data sets have in common."""

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

from otcxr_sk import datasets
from otcxr_sk.datasets import PatientsUnknownWarning, Radiographs, check_leakage
from otcxr_sk.images import PathSource

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.datasets.PatientsUnknownWarning")


def test_every_reader_returns_the_same_fields(each):
    data = each.load()
    n = len(data.paths)
    assert type(data) is Radiographs
    assert data.X.tolist() == data.paths
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


def test_every_image_exists_and_can_be_read(each):
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
    assert type(copy) is Radiographs
    assert copy.paths == data.paths
    for name in (name for name in data if name.endswith("_masks")):
        np.testing.assert_array_equal(copy[name][1], data[name][1])


def test_a_reader_writes_nothing(each):
    def folder():
        found = {path: path.stat() for path in each.root.rglob("*")}
        return {path: (stat.st_size, stat.st_mtime_ns) for path, stat in found.items()}

    before = folder()
    each.load()
    assert folder() == before


def test_loading_twice_gives_the_same_order(each):
    first, second = each.load(), each.load()
    assert first.paths == second.paths
    assert first.groups.tolist() == second.groups.tolist()


@pytest.mark.parametrize(
    "name", ["nih", "vindr", "vinbigdata", "rsna", "siim", "chexpert", "mimic"]
)
def test_a_missing_image_is_an_error_or_its_row_is_dropped(name, published):
    each = published(name)
    before = each.load()
    # Not the last row, so that later rows move up.
    gone = 1
    Path(before.paths[gone]).unlink()
    with pytest.raises(FileNotFoundError, match=r"1 of \d+ images are not in .*missing='drop'"):
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


def test_a_blank_patient_is_refused(published):
    nih = published("nih")
    file = nih.root / "Data_Entry_2017_v2020.csv"
    file.write_text(file.read_text().replace("No Finding,0,5,", "No Finding,0,,"))
    with pytest.raises(ValueError, match=r"00000005_000\.png has no patient ID in the table"):
        nih.load()


@pytest.mark.parametrize("name", ["vindr", "vinbigdata"])
def test_a_set_without_patients_warns_at_the_line_that_loads_it(name, published):
    vindr = published(name)
    with pytest.warns(PatientsUnknownWarning, match="each image is its own group") as record:
        data = datasets.load_vindr_cxr(vindr.root)
    assert record[0].filename == __file__
    assert len(set(data.groups)) == len(data.paths)


def test_a_set_with_patients_does_not_warn(published):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("nih", "rsna", "siim", "chexpert", "mimic", "kermany", "shenzhen"):
            published(name).load()
