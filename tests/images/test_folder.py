import os

import numpy as np
import pytest
from PIL import Image

from otcxr_sk.images import UnusableImageWarning, list_images


def save(path, kind="PNG"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (3, 3), 9).save(path, kind)
    return str(path)


def test_images_of_all_folders_are_sorted_by_path(tmp_path):
    names = ["b.png", "a/z.png", "a/b/c.png", "a.png", "a/b.png", "10.png", "9.png"]
    paths = sorted(save(tmp_path / name) for name in names)
    assert list_images(tmp_path) == paths
    assert list_images(str(tmp_path)) == paths


def test_folders_nested_too_deep_are_an_error(tmp_path):
    deep = tmp_path
    for _ in range(70):
        deep = deep / "a"
        deep.mkdir()
    save(deep / "b.png")
    with pytest.raises(ValueError, match="are more than 64 deep"):
        list_images(tmp_path)


def test_files_with_the_content_of_an_image_are_listed_whatever_their_name(tmp_path, write_dicom):
    expected = [
        str(write_dicom(np.zeros((3, 3), np.uint8), name="IM0001")),
        str(write_dicom(np.zeros((3, 3), np.uint8), name="bare", preamble=False)),
        save(tmp_path / "jpeg.dat", "JPEG"),
        save(tmp_path / "image"),
        save(tmp_path / "scan.txt", "TIFF"),
    ]
    with open(tmp_path / "array", "wb") as file:
        np.save(file, np.zeros((3, 3)))
    (tmp_path / "labels.csv").write_text("path,label\na,1\n")
    (tmp_path / "README").touch()
    write_dicom(np.zeros((3, 3), np.uint8), name="DICOMDIR")
    images, others = list_images(tmp_path, return_others=True)
    assert images == sorted([*expected, str(tmp_path / "array")])
    assert others == sorted(str(tmp_path / name) for name in ("labels.csv", "README", "DICOMDIR"))


def test_files_with_the_suffix_of_an_image_are_listed_whatever_their_content(tmp_path):
    names = ["cut.png", "empty.JPG", "text.dcm", "gone.tif"]
    for name in names[:3]:
        (tmp_path / name).write_bytes(b"" if "empty" in name else b"nothing")
    (tmp_path / "gone.tif").symlink_to(tmp_path / "nowhere.tif")
    assert list_images(tmp_path) == sorted(str(tmp_path / name) for name in names)


def test_hidden_files_and_folders_are_skipped(tmp_path):
    kept = save(tmp_path / "a.png")
    for name in (".DS_Store", "._a.png", ".thumbnails/a.png", "sub/.b.png"):
        save(tmp_path / name)
    assert list_images(tmp_path, return_others=True) == ([kept], [])


def test_pipes_and_broken_links_are_not_opened(tmp_path):
    kept = save(tmp_path / "a.png")
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    images, others = list_images(tmp_path, return_others=True)
    assert images == [kept]
    assert others == [str(tmp_path / "gone"), str(tmp_path / "pipe")]


def test_links_are_followed_but_each_folder_is_listed_once(tmp_path):
    elsewhere = tmp_path / "elsewhere"
    save(elsewhere / "x.png")
    data = tmp_path / "data"
    save(data / "sub" / "a.png")
    for place in (data / "loop", data / "sub" / "up"):
        place.symlink_to(data)
    for name in ("linked", "twice"):
        (data / name).symlink_to(elsewhere)
    # Also further up, where everything else is.
    save(tmp_path / "outside.png")
    (data / "sub" / "out").symlink_to(tmp_path)
    (data / "sub" / "root").symlink_to("/")
    assert list_images(data) == [str(data / "linked" / "x.png"), str(data / "sub" / "a.png")]


def test_a_folder_without_images_is_an_error(tmp_path):
    (tmp_path / "notes.txt").write_text("none")
    with pytest.raises(ValueError, match=r"no image in .*: it has 1 file, none of them a PNG"):
        list_images(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"^there is no folder .*nowhere'; check"):
        list_images(tmp_path / "nowhere")
    with pytest.raises(NotADirectoryError, match=r"^there is no folder .*notes\.txt'; check"):
        list_images(tmp_path / "notes.txt")


def test_a_folder_that_cannot_be_listed_is_an_error_in_plain_words(tmp_path, monkeypatch):
    save(tmp_path / "a.png")
    closed = tmp_path / "closed"
    closed.mkdir()
    listed = os.scandir

    def scandir(folder):
        if folder == str(closed):
            raise PermissionError(13, "Permission denied", folder)
        return listed(folder)

    monkeypatch.setattr(os, "scandir", scandir)
    with pytest.raises(PermissionError, match=r"^cannot list the folder '.*closed': the system"):
        list_images(tmp_path)


def test_files_that_may_hold_images_that_are_not_read_are_told_of(tmp_path):
    kept = save(tmp_path / "a.png")
    names = ["b.dcm.gz", "c.nii.gz", "d.ZIP", "e.nii", "f.jp2", "g.npz", "h.tar.gz"]
    for name in [*names, "labels.csv", "labels.csv.gz", "labels.xlsx", "notes.txt"]:
        (tmp_path / name).write_bytes(b"anything")
    with pytest.warns(UnusableImageWarning, match=r"7 of its .*b\.dcm\.gz.*, \.\.\.\): unpack"):
        assert list_images(tmp_path) == [kept]
    # Who asks for the others sees them.
    assert len(list_images(tmp_path, return_others=True)[1]) == 11
    (tmp_path / "a.png").unlink()
    with pytest.raises(ValueError, match=r"it has 11 files, none .*; 7 of its files may hold"):
        list_images(tmp_path)
