"""Small files that claim or become large ones, and what tables must not say: errors in bounds."""

import gzip
import io
import ntpath
import os
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib import format as npy

from otcxr_sk.datasets import _tables, load_labelled
from otcxr_sk.datasets._tables import below, read_table
from otcxr_sk.images import ImageReadError

SECONDS = 2
pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.datasets.PatientsUnknownWarning")


def labels_csv(tmp_path, text):
    """Make a folder of images with this table."""
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in "abcd":
        (folder / f"{name}.png").touch()
    (folder / "labels.csv").write_text(text)
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "../secret.png",
        "a/../../secret.png",
        "/etc/passwd",
        "",
        "a.png/../..",
        "x" * 5000,
        "a/" * 3000,
    ],
)
def test_a_table_leads_to_no_file_outside_its_folder(tmp_path, name):
    (tmp_path / "secret.png").touch()
    folder = labels_csv(tmp_path, f"path,patient_id\n{name},p\n")
    with pytest.raises(
        (ValueError, FileNotFoundError), match=r"labels\.csv, row 2: path"
    ) as raised:
        load_labelled(folder)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    "name",
    ["\\x", "/x", "C:x", "C:\\x", "..\\x", "a/../../x", "\\\\host\\share\\x", "//host/share/x"],
)
def test_on_windows_a_table_leads_to_no_file_outside_its_folder(name, monkeypatch):
    windows = SimpleNamespace(path=ntpath, sep=ntpath.sep, pardir=ntpath.pardir)
    monkeypatch.setattr(_tables, "os", windows)
    assert below(Path("data"), name) is None
    assert below(Path("data"), "a/b.png") == r"data\a\b.png"


@given(st.lists(st.sampled_from(["..", ".", "a", "b", ""]), max_size=8).map("/".join))
def test_what_a_table_names_is_below_its_folder_or_refused(name):
    found = below(Path("/data"), name)
    inside = os.path.abspath(os.path.join("/data", "./" + name))
    if name.startswith("/"):
        assert found is None
    elif found is None:
        assert not f"{inside}/".startswith("/data/")
    else:
        assert os.path.abspath(found) == inside
        assert f"{inside}/".startswith("/data/")


@pytest.mark.parametrize(
    ("part", "row"),
    [
        ("mimic-cxr-2.0.0-metadata.csv", "../../../../../secret,10000,1"),
        ("mimic-cxr-2.0.0-metadata.csv", "secret,10/../../../../..,1"),
        ("mimic-cxr-2.0.0-metadata.csv", "secret,10000,1/../s2"),
    ],
)
def test_mimic_leads_to_no_file_outside_its_folder(published, part, row):
    mimic = published("mimic")
    (mimic.root / f"{part}.gz").unlink()
    mimic.tree.text(part, "dicom_id,subject_id,study_id", row)
    name = row.split(",")[0]
    mimic.tree.text(
        "mimic-cxr-2.0.0-split.csv.gz", "dicom_id,study_id,subject_id,split", f"{name},1,1,train"
    )
    with pytest.raises(ValueError, match=r"metadata\.csv, row 2: '.*secret' is outside .*files"):
        mimic.load()


def gzip_of(text):
    return gzip.compress(text * (2**24 // len(text)))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (gzip_of(b"a\n"), "no table is compressed that much"),
        (gzip_of(b"\n"), "no table is compressed that much"),
        (gzip_of(b"a,"), "more than 1048576 characters"),
        (gzip_of(b'"a\n",'), "more than 1048576 characters"),
        (gzip_of(b'"'), "a value is too long|more than 1048576 characters"),
        (gzip_of(bytes(16)), "more than 1048576 characters"),
        (gzip.compress(",".join(map(str, range(20_000))).encode()), "more than 10000 columns"),
        (b"a\n1\n", "damaged, or not compressed"),
    ],
)
def test_a_small_compressed_table_never_becomes_a_large_one(tmp_path, content, reason):
    file = tmp_path / "table.csv.gz"
    file.write_bytes(content)
    began = time.process_time()
    with pytest.raises(ValueError, match=rf"table\.csv\.gz.*({reason})"):
        read_table(file)
    assert time.process_time() - began < SECONDS


def test_a_published_table_may_be_compressed_well(tmp_path):
    file = tmp_path / "table.csv.gz"
    row = b"02aa804e-bde0afdd,10000032,50414267,train\n"
    file.write_bytes(gzip.compress(b"dicom_id,study_id,subject_id,split\n" + row * 100_000))
    assert len(read_table(file).lines) == 100_000


def npz_of(path, **members):
    """Write an archive of members that may claim anything."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, (claimed, content) in members.items():
            with archive.open(f"{name}.npy", "w") as file:
                npy.write_array_header_1_0(file, {"fortran_order": False, **claimed})
                for part in content:
                    file.write(part)
    return path


def member(shape, dtype, size):
    """Return an array of zeros in pieces."""
    return {"shape": shape, "descr": dtype}, [bytes(2**20)] * (size >> 20) + [bytes(size % 2**20)]


MEMBERS = {
    "more than there is": {"images": member((10**6, 10**4, 10**4), "|u1", 0)},
    "less than there is": {"images": member((4, 4, 4), "|u1", 65)},
    "too much": {"images": member((257, 2**10, 2**10), "|u1", 257 * 2**20)},
    "objects": {"images": member((1, 1, 1), "|O", 8)},
    "nothing": {"images": member((2**40, 2**20, 1), "|S0", 0)},
    "many dimensions": {"images": member((1,) * 40, "|u1", 1)},
    "long text": {
        "images": member((9, 1, 1), "|u1", 9), "patient_ids": member((9,), "<U4000000", 9 * 2**24)
    },
    "many values": {
        "images": member((2**22, 1, 1), "|u1", 2**22), "labels": member((2**22,), "|b1", 2**22)
    },
    "many columns": {
        "images": member((1, 1, 1), "|u1", 1), "labels": member((1, 20_000), "|b1", 20_000)
    },
    "no text": {
        "images": member((1, 1, 1), "|u1", 1),
        "patient_ids": ({"shape": (1,), "descr": "<U1"}, [b"\xff" * 4]),
    },
}  # fmt: skip


@pytest.mark.parametrize("name", MEMBERS)
def test_a_small_archive_never_becomes_large_arrays(tmp_path, name):
    file = npz_of(tmp_path / "data.npz", **MEMBERS[name])
    began = time.process_time()
    with pytest.raises(ValueError, match=r"data\.npz.*(numpy\.savez|at most 10000)"):
        load_labelled(file)
    assert time.process_time() - began < SECONDS


def test_a_member_whose_stream_ends_early_is_refused_and_shows_no_memory(tmp_path):
    start = io.BytesIO()
    claimed = {"descr": "|u1", "fortran_order": False, "shape": (1, 1000, 1000)}
    npy.write_array_header_1_0(start, claimed)
    content = start.getvalue() + bytes(10)
    file = npz_of(tmp_path / "data.npz")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("images.npy", content)
    written = file.read_bytes()
    size, long = (n.to_bytes(4, "little") for n in (len(content), len(content) + 10**6 - 10))
    # Where both headers of the member give its size.
    places = [22, written.index(b"PK\1\2") + 24]
    assert all(written[place : place + 4] == size for place in places)
    changed = bytearray(written)
    for place in places:
        changed[place : place + 4] = long
    file.write_bytes(changed)
    with pytest.raises(ValueError, match=r"data\.npz cannot be read as an \.npz of plain arrays"):
        load_labelled(file)


@pytest.mark.parametrize("shape", [(1, 1, 2**20), (1, 2**20, 1), (1, 10**4, 10**4)])
def test_images_of_an_archive_have_the_limits_of_those_in_files(tmp_path, shape):
    np.savez(tmp_path / "data.npz", images=np.zeros(shape, np.uint8), patient_ids=["a"])
    with pytest.raises(ValueError, match=r"data\.npz: .*pixels"):
        load_labelled(tmp_path / "data.npz")


def test_an_archive_with_two_lists_or_twins_or_thousands_of_members_is_refused(tmp_path):
    good = npz_of(tmp_path / "good.npz", images=member((1, 1, 1), "|u1", 1)).read_bytes()
    many = {f"x{number}": member((1,), "|u1", 1) for number in range(1001)}
    npz_of(tmp_path / "many.npz", images=member((1, 1, 1), "|u1", 1), **many)
    npz_of(tmp_path / "twins.npz", images=member((1,), "|u1", 1), imagex=member((1,), "|u1", 1))
    twins = (tmp_path / "twins.npz").read_bytes()
    (tmp_path / "twins.npz").write_bytes(twins.replace(b"imagex", b"images"))
    (tmp_path / "two.npz").write_bytes(good + good)
    for name in ("many", "twins", "two"):
        with pytest.raises(ValueError, match=rf"{name}\.npz cannot be read as an \.npz"):
            load_labelled(tmp_path / f"{name}.npz")


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(tmp_path, method):
    file = tmp_path / "data.npz"
    array = io.BytesIO()
    np.save(array, np.zeros((1, 1, 1)))
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("images.npy", array.getvalue())
    with pytest.raises(ValueError, match=r"data\.npz cannot be read as an \.npz"):
        load_labelled(file)


def test_a_large_archive_that_compresses_little_is_read(tmp_path):
    images = np.random.default_rng(0).random((40, 50, 60)).astype(">f4").transpose(0, 2, 1)
    np.savez_compressed(tmp_path / "x.npz", images=images, patient_ids=np.arange(40))
    np.testing.assert_array_equal(load_labelled(tmp_path / "x.npz").images, images)


def test_a_long_value_does_not_widen_the_others(tmp_path):
    rows = [f"{name}.png,{name},{row % 2},\n" for row, name in enumerate("abcd")]
    rows[0] = rows[0].replace(",\n", f",{'n' * 100_000}\n")
    folder = labels_csv(tmp_path, "path,patient_id,ill,note\n" + "".join(rows))
    data = load_labelled(folder)
    assert data.label_names == ["ill"]
    folder.joinpath("labels.csv").write_text(f"path,patient_id\na.png,{'p' * 1000}\n")
    with pytest.raises(ValueError, match="row 2: patient_id has more than 128 characters"):
        load_labelled(folder)


def test_there_are_not_thousands_of_targets(tmp_path):
    header = ",".join(["path", "patient_id", *map(str, range(1001))])
    rows = "".join(f"{name}.png,{name}{f',{row}' * 1001}\n" for row, name in enumerate("ab"))
    with pytest.raises(ValueError, match="more than 1000 targets"):
        load_labelled(labels_csv(tmp_path, f"{header}\n{rows}"))


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("99999999999 99999999999", "is not a list"),
        ("1 " * 30_000 + "1 1", "is not a list|ends at pixel"),
        ("0 999999999", "ends at pixel 999999999"),
        ("9" * 100_000 + " 1", "is not a list"),
        ("1 ٣", "is not a list"),
    ],
)
def test_a_mask_is_no_larger_than_its_image(published, code, message):
    siim = published("siim")
    name = "1.2.276.0.7230010.3.1.4.8323329.6904"
    siim.tree.text("train-rle.csv", "ImageId,EncodedPixels", f"{name},{code}")
    with pytest.raises(ValueError, match=f"the mask of '{name}' ({message})"):
        siim.load().lesion_masks[0]


def test_the_masks_of_an_image_cannot_cover_it_a_thousand_times(published):
    siim = published("siim")
    name = "1.2.276.0.7230010.3.1.4.8323329.6904"
    whole = f"0 {np.prod(siim.load().lesion_masks[0].shape)}"
    siim.tree.text("train-rle.csv", "ImageId,EncodedPixels", *[f"{name},{whole}"] * 1000)
    with pytest.raises(ValueError, match="are more than its image can have"):
        siim.load().lesion_masks[0]


@pytest.mark.parametrize("size", [(0, 10), (60_000, 60_000)])
def test_a_header_that_claims_no_image_is_refused(published, size):
    siim = published("siim")
    path = siim.load().paths[0]
    siim.tree.dicom(path, PatientID="p", Rows=size[0], Columns=size[1])
    with pytest.raises(ImageReadError, match="no number of rows or columns, or one that"):
        siim.load()


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("nih", "BBox_List_2017.csv", "225.5", "nan", "row 2: the box is not four numbers"),
        ("nih", "BBox_List_2017.csv", "225.5", "1e308", "row 2: the box is not four numbers"),
        ("rsna", "stage_2_train_labels.csv", "264.0", "", "row 3: the box is not four numbers"),
        ("rsna", "stage_2_train_labels.csv", ",,,,,0", ",,,,,nan", "row 2: Target is nan"),
        ("vinbigdata", "train.csv", "1264", "-1e300", "the box is not four numbers of pixels"),
        ("vinbigdata", "train.csv", "691,", ",", "row 3: the box is not four numbers of pixels"),
        ("vinbigdata", "train.csv", ",14,", ",1e300,", "row 2 .*: class_id is not a number from 0"),
        ("vinbigdata", "train.csv", ",14,", ",nan,", "row 2 .*: class_id is not a number from 0"),
        (
            "vindr",
            "annotations/image_labels_train.csv",
            "0,1,0",
            "0,1e300,0",
            "label is not 0, 1",
        ),
    ],
)
def test_absurd_numbers_are_refused(published, name, file, old, new, message):
    each = published(name)
    text = (each.root / file).read_text()
    assert old in text
    (each.root / file).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=rf"\.csv, {message}|\.csv, row .*{message}"):
        each.load()


@pytest.mark.parametrize(
    "text", ["[" * 10**6, "{" * 9, '[{"subset_img_id": []}]', "1", '"a"', "[1]", "[" + "9" * 5000]
)
def test_a_mapping_of_something_else_is_refused(published, text):
    rsna = published("rsna")
    rsna.tree("pneumonia-challenge-dataset-mappings_2018.json").write_text(text)
    with pytest.raises(ValueError, match=r"mappings_2018\.json is not a list of subset_img_id"):
        rsna.load()


@pytest.mark.parametrize("name", ["train_val_list.txt", "Data_Entry_2017_v2020.csv"])
def test_a_pipe_in_the_place_of_a_table_is_named_at_once(published, name):
    nih = published("nih")
    (nih.root / name).unlink()
    os.mkfifo(nih.root / name)
    with pytest.raises(ValueError, match=rf"{name} cannot be read \(it is not a regular file\)"):
        nih.load()


def test_a_list_longer_than_any_is_not_read(published):
    nih = published("nih")
    with open(nih.root / "test_list.txt", "r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ValueError, match=r"test_list\.txt cannot be read \(it has more than"):
        nih.load()


def test_folders_nested_as_in_no_data_set_are_refused(published):
    nih = published("nih")
    nih.tree("/".join(["d"] * 200) + "/x.png").touch()
    with pytest.raises(ValueError, match="folders within folders, more than 64 deep"):
        nih.load()
