"""Embeddings are written to arrays and files, and a file is there only once it is whole."""

import os
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk.estimators._output import Output

ROWS = np.random.default_rng(0).random((10, 2, 3), dtype=np.float32)


def write(out, rows=ROWS):
    with Output(out, rows.shape) as output:
        output.write(0, rows)
    return output.result()


@given(
    cuts=st.sets(st.integers(1, 9)).map(sorted),
    random=st.randoms(use_true_random=False),
    kind=st.sampled_from(["new", "array", "strided", "file"]),
)
def test_parts_may_come_in_any_order(tmp_path_factory, cuts, random, kind):
    out = {
        "new": lambda: None,
        "array": lambda: np.empty(ROWS.shape, np.float32),
        "strided": lambda: np.empty(ROWS.shape[::-1], np.float32).T,
        "file": lambda: tmp_path_factory.mktemp("out") / "rows.npy",
    }[kind]()
    parts = list(zip([0, *cuts], np.split(ROWS, cuts), strict=True))
    random.shuffle(parts)
    with Output(out, ROWS.shape) as output:
        for start, rows in parts:
            output.write(start, rows)
    result = output.result()
    np.testing.assert_array_equal(result, ROWS)
    assert result.dtype == np.float32
    if isinstance(out, np.ndarray):
        assert result is out
    if kind == "file":
        np.testing.assert_array_equal(np.load(out), ROWS)


def test_a_file_comes_back_as_a_read_only_map(tmp_path):
    result = write(tmp_path / "rows.npy")
    assert isinstance(result, np.memmap)
    assert not result.flags.writeable
    assert os.listdir(tmp_path) == ["rows.npy"]


def test_a_file_is_replaced_when_the_new_one_is_whole(tmp_path):
    path = str(tmp_path / "rows.npy")
    before = write(path)
    with Output(path, (2, 3)) as output:
        output.write(0, ROWS[0])
        np.testing.assert_array_equal(np.load(path), ROWS)
        output.write(1, ROWS[0, 1:])
    assert output.result().shape == (2, 3)
    # A map of the old file still shows the old rows.
    np.testing.assert_array_equal(before, ROWS)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_an_interruption_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "rows.npy"

    def stop():
        with Output(path, ROWS.shape) as output:
            output.write(0, ROWS[:5])
            raise error

    for before in ([], ["rows.npy"]):
        with pytest.raises(error):
            stop()
        assert os.listdir(tmp_path) == before
        write(path)


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / f".otcxr-{'0' * 32}.part").write_bytes(b"half" * 1000)
    np.testing.assert_array_equal(write(tmp_path / "rows.npy"), ROWS)
    assert os.listdir(tmp_path) == ["rows.npy"]


def test_of_two_writers_the_one_that_ends_last_wins(tmp_path):
    path = tmp_path / "rows.npy"
    with Output(path, ROWS.shape) as late:
        late.write(0, ROWS[:5])
        with Output(path, (4,)) as early:
            early.write(0, np.arange(4, dtype=np.float32))
        np.testing.assert_array_equal(np.load(path), np.arange(4))
        late.write(5, ROWS[5:])
    np.testing.assert_array_equal(np.load(path), ROWS)


def test_the_file_is_for_this_user_alone(tmp_path):
    write(tmp_path / "rows.npy")
    assert (tmp_path / "rows.npy").stat().st_mode & 0o777 == 0o600


def test_a_full_disk_is_an_error_that_leaves_nothing(tmp_path):
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    rows = np.zeros((2**20, 1), np.float32)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limits[1]))
        with pytest.raises(OSError, match="File too large"):
            write(tmp_path / "rows.npy", rows)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


def test_a_disk_that_is_too_small_is_refused(tmp_path):
    n = shutil.disk_usage(tmp_path).total // 1024 + 1
    with pytest.raises(OSError, match=r"rows\.npy'?: .* GB are needed and .* are free"):
        Output(tmp_path / "rows.npy", (n, 1024))
    assert os.listdir(tmp_path) == []


def sealed():
    array = np.empty((10, 2, 3), np.float32)
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "words"),
    [
        ("rows.csv", r"must be a \.npy file or an array, got 'rows\.csv'"),
        ("nowhere/rows.npy", r"there is no folder .*nowhere"),
        (7, "must be the path of a .npy file or a NumPy array"),
        (ROWS.tolist(), "or a NumPy array"),
        (np.empty((10, 2, 3)), r"float32 array of shape \(10, 2, 3\), got float64"),
        (np.empty((10, 6), np.float32), r"shape \(10, 2, 3\), got float32 of shape \(10, 6\)"),
        (sealed(), "read-only"),
    ],
)
def test_an_out_that_cannot_hold_the_rows_is_refused(tmp_path, monkeypatch, out, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        Output(out, ROWS.shape)


def test_a_folder_is_refused(tmp_path):
    (tmp_path / "rows.npy").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        Output(tmp_path / "rows.npy", ROWS.shape)
