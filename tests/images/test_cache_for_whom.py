"""Who can see cached images, and what others lay in the place of files is not used."""

import os
import stat
import warnings
from pathlib import Path

import numpy as np
import pytest

from otcxr_sk.images import ImageCache, PathSource

SIZE = 16
PLENTY = 10**9


def cached(paths, folder):
    return PathSource(paths, cache=ImageCache(folder, PLENTY))


def entries(folder):
    return sorted(Path(folder).rglob("*.image"))


def modes(folder):
    return {
        kind: {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*") if check(path)}
        for kind, check in (("files", Path.is_file), ("folders", Path.is_dir))
    }


def test_images_are_kept_for_this_user_alone(paths, tmp_path):
    cached(paths, tmp_path / "cache").read(range(3), SIZE)
    assert modes(tmp_path / "cache") == {"files": {0o600}, "folders": {0o700}}


def test_a_group_shares_the_images_if_that_was_chosen(paths, tmp_path):
    cache = ImageCache(tmp_path / "cache", PLENTY, shared=True)
    PathSource(paths, cache=cache).read(range(3), SIZE)
    assert modes(tmp_path / "cache") == {"files": {0o660}, "folders": {0o2770}}


@pytest.mark.parametrize("mode", [0o755, 0o750, 0o777, 0o701])
def test_a_folder_that_is_open_to_others_is_not_used_unless_that_was_chosen(tmp_path, mode):
    (tmp_path / "otcxr-images").mkdir()
    (tmp_path / "otcxr-images").chmod(mode)
    with pytest.raises(ValueError, match=r"open to others.*shared=True"):
        ImageCache(tmp_path, PLENTY)
    ImageCache(tmp_path, PLENTY, shared=True)


def test_a_folder_that_another_user_has_linked_is_not_used(tmp_path):
    (tmp_path / "mine").mkdir(0o700)
    (tmp_path / "otcxr-images").symlink_to(tmp_path / "mine")
    for shared in (False, True):
        with pytest.raises(ValueError, match=r"it is a link|is open to others"):
            ImageCache(tmp_path, PLENTY, shared=shared)


def test_a_group_shares_a_folder_that_was_made_for_it(tmp_path):
    ImageCache(tmp_path / "made" / "cache", PLENTY, shared=True)
    assert {
        stat.S_IMODE(folder.stat().st_mode)
        for folder in (tmp_path / "made").rglob("*")
        if folder.is_dir()
    } == {0o2770}


def test_a_link_in_the_place_of_a_part_of_a_shared_cache_is_not_followed(paths, tmp_path):
    cache = ImageCache(tmp_path / "cache", PLENTY, shared=True)
    entry = Path(cache.entry(str(paths[0]), SIZE, "squash").place)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "old.image").write_bytes(b"precious")
    entry.parent.symlink_to(tmp_path / "precious")
    with pytest.warns(UserWarning, match="not cached.*it is a link"):
        PathSource(paths, cache=cache).read([0], SIZE)
    assert os.listdir(tmp_path / "precious") == ["old.image"]


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_what_is_no_regular_file_is_no_entry(paths, tmp_path, what):
    source = cached(paths, tmp_path / "cache")
    expected = source.read([0], SIZE)
    (entry,) = entries(tmp_path)
    entry.rename(tmp_path / "stored")
    {
        "link": lambda: entry.symlink_to(tmp_path / "stored"),
        "pipe": lambda: os.mkfifo(entry),
        "folder": entry.mkdir,
    }[what]()
    with warnings.catch_warnings():
        # A folder cannot be replaced by an entry.
        warnings.simplefilter("ignore" if what == "folder" else "error")
        np.testing.assert_array_equal(source.read([0], SIZE), expected)
    assert entry.is_dir() if what == "folder" else stat.S_ISREG(entry.lstat().st_mode)
