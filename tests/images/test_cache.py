import errno
import os
import pickle
import signal
import subprocess
import sys
import textwrap
import time
import warnings
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from otcxr_sk._files import replacing
from otcxr_sk.images import ImageCache, PathSource, _cache
from otcxr_sk.images._pixels import Squares, to_float
from otcxr_sk.images.sources import _paths

SIZE = 16
PLENTY = 10**9


def cached(paths, folder, max_bytes=PLENTY, **options):
    return PathSource(paths, cache=ImageCache(folder, max_bytes), **options)


def entries(folder):
    return sorted(Path(folder).rglob("*.image"))


def test_no_file_is_decoded_twice(paths, tmp_path, decoded):
    first = cached(paths, tmp_path / "cache").read(range(7), SIZE)
    assert len(decoded) == 7
    again = cached(paths, tmp_path / "cache").read(range(7), SIZE)
    np.testing.assert_array_equal(again, first)
    backwards = cached(paths[::-1], tmp_path / "cache").read(range(7), SIZE)
    np.testing.assert_array_equal(backwards, first[::-1])
    assert len(decoded) == 7


def test_a_relative_path_is_the_same_file(paths, tmp_path, decoded, monkeypatch):
    cached(paths, tmp_path / "cache").read([2], SIZE)
    monkeypatch.chdir(paths[0].parent)
    cached(["2.png"], tmp_path / "cache").read([0], SIZE)
    assert len(decoded) == 1


def files_of_all_kinds(folder, shape):
    """Write an image as integers of 8 and 16 bits and as floats, with many and few digits."""
    gray = np.random.default_rng(0).random(shape)
    files = [folder / name for name in ("8.png", "16.png", "16.npy", "int16.npy", "float.npy")]
    Image.fromarray((gray * 255).astype(np.uint8)).save(files[0])
    Image.fromarray((gray * 65535).astype(np.uint16)).save(files[1])
    np.save(files[2], (gray * 65535).astype(np.uint16))
    np.save(files[3], (gray * 65535 - 2**15).astype(np.int16))
    np.save(files[4], (1000 * gray - 500).astype(np.float32))
    return files


def widths(folder):
    """Bytes that a pixel takes in each entry."""
    return sorted((file.stat().st_size - _cache._HEADER.size) / SIZE**2 for file in entries(folder))


@pytest.mark.parametrize(
    ("shape", "bytes_per_pixel"), [((40, 50), [4] * 5), ((SIZE, SIZE), [1, 2, 2, 4, 4])]
)
@pytest.mark.parametrize("resize", ["squash", "pad", "crop"])
def test_cached_images_are_the_same_to_the_bit(shape, bytes_per_pixel, resize, tmp_path):
    files = files_of_all_kinds(tmp_path, shape)
    exact = PathSource(files, resize=resize).read(range(5), SIZE)
    source = cached(files, tmp_path / "cache", resize=resize)
    for _ in range(2):
        assert source.read(range(5), SIZE).tobytes() == exact.tobytes()
    assert widths(tmp_path) == bytes_per_pixel


@given(data=st.data())
def test_numbers_are_shortened_only_if_no_bit_is_lost(data):
    kind = data.draw(st.sampled_from(["u1", "u2", "any"]))
    if kind == "any":
        floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
        numbers = np.array(data.draw(st.lists(floats, min_size=4, max_size=4)), np.float32)
    else:
        integers = st.integers(0, np.iinfo(kind).max)
        numbers = to_float(np.array(data.draw(st.lists(integers, min_size=4, max_size=4)), kind))
    image = Squares(numbers.reshape(1, 2, 2), np.array([False]))
    packed = _cache._pack(image)
    assert _cache._unpack(packed, 2).stack.tobytes() == image.stack.tobytes()
    if kind != "any":
        assert len(packed) <= _cache._HEADER.size + 4 * np.dtype(kind).itemsize


def test_each_size_and_way_of_resizing_has_its_own_entry(paths, tmp_path):
    for size in (SIZE, SIZE + 1):
        for how in ("pad", "crop", "squash"):
            for _ in range(2):
                found = cached(paths, tmp_path / "cache", resize=how).read([1], size)
                exact = PathSource(paths, resize=how).read([1], size)
                np.testing.assert_array_equal(found, exact)


def test_threads_share_a_cache(paths, tmp_path):
    expected = PathSource(paths).read(range(7), SIZE)
    sources = [cached(paths, tmp_path / str(n)) for n in range(5)]
    with ThreadPoolExecutor(8) as pool:
        found = pool.map(lambda source: source.read(range(7), SIZE), sources * 8)
        for images in found:
            np.testing.assert_array_equal(images, expected)
    assert len(entries(tmp_path)) == 7 * 5
    assert not list(tmp_path.rglob("*.part"))


def test_a_changed_file_is_read_again_even_if_size_and_modification_time_are_the_same(
    paths, tmp_path
):
    source = cached(paths, tmp_path / "cache")
    np.save(paths[0], np.full((9, 9), 10, np.uint8))
    os.rename(f"{paths[0]}.npy", paths[0])
    before = source.read([0], SIZE)
    stat = paths[0].stat()
    # Times of files tick in milliseconds.
    time.sleep(0.02)
    np.save(paths[0], np.full((9, 9), 20, np.uint8))
    os.rename(f"{paths[0]}.npy", paths[0])
    os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert paths[0].stat().st_size == stat.st_size
    assert paths[0].stat().st_mtime_ns == stat.st_mtime_ns
    assert before.max() == np.float32(10 / 255)
    assert source.read([0], SIZE).max() == np.float32(20 / 255)


def test_a_file_that_changes_while_it_is_read_is_not_cached(paths, tmp_path, monkeypatch):
    def replaced(path, read=_paths.read_gray):
        found = read(path)
        Image.new("L", (5, 5), 77).save(path)
        return found

    source = cached(paths, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr(_paths, "read_gray", replaced)
        source.read([0], SIZE)
    assert not entries(tmp_path)
    assert source.read([0], SIZE).max() == np.float32(77 / 255)


def test_a_deleted_file_is_an_error_although_its_image_is_cached(paths, tmp_path):
    source = cached(paths, tmp_path / "cache")
    source.read([0], SIZE)
    paths[0].unlink()
    with pytest.raises(ValueError, match="no such file"):
        source.read([0], SIZE)


def test_images_that_cannot_be_used_are_not_cached(paths, tmp_path):
    paths[0].write_bytes(paths[0].read_bytes()[:300])
    np.save(tmp_path / "nan.npy", np.full((4, 4), np.nan))
    source = cached([paths[0], tmp_path / "nan.npy"], tmp_path / "cache")
    for _ in range(2):
        _, problems = source.read_usable([0, 1], SIZE)
        assert [problem.row for problem in problems] == [0, 1]
    assert not entries(tmp_path)


def test_a_constant_image_is_also_refused_from_the_cache(tmp_path, decoded):
    almost = np.zeros((999, 999), np.uint8)
    almost[0, 0] = 1
    for name, pixels in {"constant.npy": almost * 0 + 51, "almost.npy": almost}.items():
        np.save(tmp_path / name, pixels)
    source = cached([tmp_path / "constant.npy", tmp_path / "almost.npy"], tmp_path / "cache")
    for _ in range(2):
        with pytest.raises(ValueError, match=r"row 0, .*constant, every pixel is 0\.2;"):
            source.read([1, 0], 8, refuse_constant=True)
        assert source.read([1], 8, refuse_constant=True).max() < 1e-6
    assert len(decoded) == 2


@given(data=st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_entry_is_replaced(paths, tmp_path, data):
    source = cached(paths, tmp_path / "cache")
    expected = source.read([0], SIZE)
    (entry,) = entries(tmp_path)
    whole = entry.read_bytes()
    way = data.draw(st.sampled_from(["cut", "longer", "changed", "pickle"]))
    if way == "cut":
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif way == "longer":
        damaged = whole + data.draw(st.binary(min_size=1, max_size=9))
    elif way == "changed":
        place = data.draw(st.integers(0, len(whole) - 1))
        damaged = bytearray(whole)
        damaged[place] ^= data.draw(st.integers(1, 255))
    else:
        damaged = pickle.dumps(np.zeros((SIZE, SIZE)))
    entry.write_bytes(damaged)
    np.testing.assert_array_equal(source.read([0], SIZE), expected)
    assert entry.read_bytes() == whole


def many(folder, n):
    """Write `n` small files that differ in brightness."""
    folder.mkdir(exist_ok=True)
    files = [folder / f"{row}.npy" for row in range(n)]
    for row, file in enumerate(files):
        np.save(file, np.full((4, 4), row % 251, np.uint8))
    return files


def test_the_limit_is_never_exceeded(tmp_path):
    files = many(tmp_path / "files", 600)
    entry = SIZE**2 + _cache._HEADER.size
    limit = 256 * entry
    source = cached(files, tmp_path / "cache", limit)
    for start in range(0, 600, 50):
        source.read(range(start, start + 50), SIZE)
        used = sum(file.stat().st_size for file in entries(tmp_path))
        assert used <= limit
    assert used > limit / 2


def test_the_least_recently_used_image_is_removed_first(tmp_path, monkeypatch, decoded):
    monkeypatch.setattr(_cache, "_FOLDERS", 1)
    monkeypatch.setattr(
        _cache.ImageCache,
        "_place",
        lambda self, key, place=ImageCache._place: os.path.join(
            self._folder, "00", Path(place(self, key)).name
        ),
    )
    files = many(tmp_path / "files", 4)
    source = cached(files, tmp_path / "cache", 3 * (SIZE**2 + _cache._HEADER.size))
    for row in (0, 1, 2, 0, 3):
        source.read([row], SIZE)
        time.sleep(0.02)
    decoded.clear()
    source.read([0, 2, 3], SIZE)
    assert decoded == []
    source.read([1], SIZE)
    assert decoded == [str(files[1])]


def test_images_larger_than_the_limit_are_read_with_a_warning(paths, tmp_path):
    with pytest.warns(UserWarning, match="not cached in .*larger than the limit"):
        found = cached(paths, tmp_path / "cache", 1000).read([0, 1], SIZE)
    np.testing.assert_array_equal(found, PathSource(paths).read([0, 1], SIZE))
    assert not entries(tmp_path)


def test_a_full_disk_is_a_single_warning(paths, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    source = cached(paths, tmp_path / "cache")
    monkeypatch.setattr(os, "replace", full)
    with pytest.warns(UserWarning, match="not cached in .*: No space left on device$") as caught:
        found = source.read(range(7), SIZE)
    assert len(caught) == 1
    np.testing.assert_array_equal(found, PathSource(paths).read(range(7), SIZE))
    assert not list((tmp_path / "cache").rglob("*.part"))


def remove_first(aside, _):
    os.unlink(aside)
    raise OSError(errno.ESTALE, "another process has taken the unfinished file")


def test_a_writer_that_slept_too_long_does_not_cache(paths, tmp_path, monkeypatch):
    source = cached(paths, tmp_path / "cache")
    with monkeypatch.context() as patch:
        patch.setattr("os.replace", remove_first)
        with pytest.warns(UserWarning, match="not cached.*another process has taken"):
            found = source.read([0], SIZE)
    np.testing.assert_array_equal(found, source.read([0], SIZE))


def test_a_path_that_cannot_be_a_folder_is_an_error_that_names_it(paths):
    with pytest.raises(ValueError, match=r"the cache folder '.*0\.png' cannot be used: \w"):
        ImageCache(paths[0], PLENTY)


def test_other_files_in_the_folder_are_not_removed(paths, tmp_path):
    source = cached(paths, tmp_path / "cache")
    source.read([0], SIZE)
    (entry,) = entries(tmp_path)
    others = [tmp_path / "cache" / "notes.txt", entry.parent / "photo.png"]
    for other in others:
        other.write_bytes(bytes(10**6))
    small = cached(many(tmp_path / "more", 900), tmp_path / "cache", 256 * 300)
    small.read(range(900), SIZE)
    assert all(other.exists() for other in others)
    assert (tmp_path / "cache" / "otcxr-images" / "CACHEDIR.TAG").exists()


def test_unfinished_entries_of_dead_processes_are_removed(paths, tmp_path):
    source = cached(paths, tmp_path / "cache")
    source.read([0], SIZE)
    (entry,) = entries(tmp_path)
    entry.unlink()
    (entry.parent / f".otcxr-{'0' * 32}.part").write_bytes(b"left")
    (entry.parent / "other.part").write_bytes(b"theirs")
    with replacing(entry.parent / "another.image"):
        source.read([0], SIZE)
        assert len(list(entry.parent.glob(".otcxr-*"))) == 1
    assert {file.name for file in entry.parent.iterdir()} == {
        entry.name,
        "another.image",
        "other.part",
    }


def _read_all(job):
    folder, files, seed = job
    warnings.simplefilter("error")
    order = np.random.default_rng(seed).permutation(len(files))
    limit = 256 * 2 * (SIZE**2 + _cache._HEADER.size)
    found = cached(files, folder, limit).read(order, SIZE)
    expected = (order % 251 / np.float32(255)).astype(np.float32)
    return bool((found == expected[:, np.newaxis, np.newaxis, np.newaxis]).all())


def test_processes_share_a_cache_that_overflows(tmp_path):
    files = many(tmp_path / "files", 700)
    jobs = [(tmp_path / "cache", files, seed) for seed in range(8)]
    with ProcessPoolExecutor(4, mp_context=get_context("fork")) as pool:
        assert all(pool.map(_read_all, jobs))
    used = sum(file.stat().st_size for file in entries(tmp_path))
    # Processes that write to one folder at the same time may each exceed its share by an entry.
    assert used <= 256 * (2 + 3) * (SIZE**2 + _cache._HEADER.size)


@pytest.mark.slow
def test_a_process_killed_while_it_writes_leaves_no_wrong_image(tmp_path):
    files = many(tmp_path / "files", 1500)
    script = textwrap.dedent(f"""
        from otcxr_sk.images import ImageCache, PathSource
        from pathlib import Path
        files = [Path({str(tmp_path / "files")!r}, f"{{row}}.npy") for row in range(1500)]
        print("ready", flush=True)
        cache = ImageCache({str(tmp_path / "cache")!r}, 10**9)
        PathSource(files, cache=cache).read(range(1500), 96)
    """)
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    while len(entries(tmp_path)) < 30:
        assert process.poll() is None, "all was written before the process could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    assert len(entries(tmp_path)) < 1500
    found = cached(files, tmp_path / "cache").read(range(1500), 96)
    expected = (np.arange(1500) % 251 / np.float32(255)).astype(np.float32)
    np.testing.assert_array_equal(found.min(axis=(1, 2, 3)), expected)
    np.testing.assert_array_equal(found.max(axis=(1, 2, 3)), expected)
