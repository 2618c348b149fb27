import errno
import json
import os
import time
from contextlib import contextmanager
from datetime import timedelta

import pytest
import safetensors
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from otcxr_sk.training.checkpoint import KEEP, Checkpoint, Checkpoints, CheckpointWarning

laws = settings(
    max_examples=25,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def some(number=0):
    tensors = {
        "float": torch.randn(3, 4, generator=torch.Generator().manual_seed(number)),
        "half/and half": torch.arange(5).to(torch.bfloat16),
        "bytes": torch.arange(256, dtype=torch.uint8),
        "scalar": torch.tensor(number, dtype=torch.int64),
        "nothing": torch.empty(0, 2),
    }
    return Checkpoint(tensors, {"number": number, "third": 1 / 3, "words": ["ä", None, True]})


def assert_same(loaded, saved):
    assert loaded.tensors.keys() == saved.tensors.keys()
    for name, value in saved.tensors.items():
        assert loaded.tensors[name].dtype == value.dtype, name
        assert loaded.tensors[name].equal(value), name
    assert loaded.numbers == {**saved.numbers, "run": {}}


def filled(folder, n=KEEP):
    checkpoints = Checkpoints(folder)
    for number in range(n):
        checkpoints.save(some(number), number)
    return checkpoints


def newest(folder):
    return max(folder.glob("*.safetensors"))


def test_what_is_saved_is_loaded_to_the_bit(tmp_path):
    filled(tmp_path)
    assert_same(Checkpoints(tmp_path).load(), some(KEEP - 1))


def test_what_tells_the_run_is_in_every_checkpoint(tmp_path):
    checkpoints = Checkpoints(tmp_path)
    checkpoints.run["seed"] = 7
    checkpoints.save(some(), 1)
    assert checkpoints.load().numbers["run"] == {"seed": 7}


def test_an_empty_folder_holds_no_run(tmp_path):
    assert Checkpoints(tmp_path / "new" / "folder").load() is None


@pytest.mark.parametrize("places", [[1, 2, 3, 4, 5], [9, 10, 99, 100, 1_000_000]])
def test_the_last_ones_are_kept_and_the_newest_is_loaded(places, tmp_path):
    checkpoints = Checkpoints(tmp_path)
    for place in places:
        checkpoints.save(some(place), place)
    assert len(os.listdir(tmp_path)) == KEEP
    assert checkpoints.load().numbers["number"] == places[-1]
    os.unlink(newest(tmp_path))
    assert checkpoints.load().numbers["number"] == places[-2]


def test_a_checkpoint_is_a_safetensors_file_with_json(tmp_path):
    filled(tmp_path)
    with safetensors.safe_open(newest(tmp_path), "pt") as file:
        assert set(file.keys()) == set(some().tensors)
        assert json.loads(file.metadata()["numbers"])["words"] == ["ä", None, True]


@laws
@given(data=st.data())
def test_a_damaged_newest_falls_back_to_the_one_before(data, tmp_path):
    checkpoints = filled(tmp_path)
    path = newest(tmp_path)
    whole = path.read_bytes()
    way = data.draw(st.sampled_from(["cut", "longer", "changed"]))
    if way == "cut":
        damaged = whole[: data.draw(st.integers(0, len(whole) - 1))]
    elif way == "longer":
        damaged = whole + data.draw(st.binary(min_size=1, max_size=9))
    else:
        place = data.draw(st.integers(0, len(whole) - 1))
        damaged = bytearray(whole)
        damaged[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(damaged)
    with pytest.warns(CheckpointWarning, match=f"{path.name} is damaged and was removed"):
        loaded = checkpoints.load()
    assert_same(loaded, some(KEEP - 2))


def test_a_run_of_which_all_is_damaged_starts_anew(tmp_path):
    checkpoints = filled(tmp_path)
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.warns(CheckpointWarning) as warned:
        assert checkpoints.load() is None
    assert len(warned) == KEEP
    checkpoints.save(some(9), 0)
    assert_same(checkpoints.load(), some(9))


def test_other_files_are_neither_read_nor_removed(tmp_path):
    others = {"notes.txt", "model.safetensors", "checkpoint-1.safetensors"}
    for name in others:
        (tmp_path / name).write_bytes(b"mine")
    assert_same(filled(tmp_path, 5).load(), some(4))
    assert {path.name for path in tmp_path.iterdir() if path.read_bytes() == b"mine"} == others


def test_what_a_killed_process_left_unfinished_is_written_over(tmp_path):
    (tmp_path / "unfinished.part").write_bytes(b"half of a checkp")
    checkpoints = Checkpoints(tmp_path)
    assert checkpoints.load() is None
    checkpoints.save(some(), 0)
    assert [path.suffix for path in tmp_path.iterdir()] == [".safetensors"]


@contextmanager
def no_room(monkeypatch):
    """Files of this process can be no larger than a checkpoint is."""
    resource = pytest.importorskip("resource", reason="Windows has no limits of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def failing(function):
    @contextmanager
    def fails(monkeypatch):
        def full(*args, **kwargs):
            raise OSError(errno.ENOSPC, "No space left on device")

        with monkeypatch.context() as patched:
            patched.setattr(os, function, full)
            yield

    return fails


@pytest.mark.parametrize("disk_full", [no_room, failing("fsync"), failing("replace")])
def test_a_full_disk_warns_and_keeps_what_is_there(disk_full, tmp_path, monkeypatch):
    checkpoints = filled(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with (
        pytest.warns(CheckpointWarning, match=r"no checkpoint was written after step 7 \(.*kept"),
        disk_full(monkeypatch),
    ):
        checkpoints.save(some(7), 7)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    checkpoints.save(some(8), 8)
    assert_same(checkpoints.load(), some(8))


def test_a_folder_that_cannot_be_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"checkpoint_dir='.*file' cannot be used"):
        Checkpoints(tmp_path / "file")


def test_a_format_of_the_future_is_refused(tmp_path, monkeypatch):
    with monkeypatch.context() as future:
        future.setattr("otcxr_sk.training.checkpoint._FORMAT", "2")
        filled(tmp_path)
    with pytest.raises(ValueError, match="has the format '2', and this version of otcxr-sk reads"):
        Checkpoints(tmp_path).load()
    assert len(os.listdir(tmp_path)) == KEEP


def test_every_so_many_epochs_one_is_due(tmp_path):
    checkpoints = Checkpoints(tmp_path, 3)
    due = [(e, s) for e in range(1, 8) for s in range(3) if checkpoints.is_due(e, s)]
    assert due == [(3, 0), (6, 0)]


def test_one_is_due_when_its_time_has_passed_since_the_last(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    checkpoints = Checkpoints(tmp_path, timedelta(minutes=2))
    now[0] += 119
    assert not checkpoints.is_due(1, 0)
    now[0] += 1
    assert checkpoints.is_due(1, 0)
    assert checkpoints.is_due(0, 5)
    checkpoints.save(some(), 0)
    assert not checkpoints.is_due(1, 0)


def test_a_folder_is_for_one_run_at_a_time(tmp_path):
    with (
        Checkpoints(tmp_path).alone(),
        pytest.raises(ValueError, match="is being used by another run"),
        Checkpoints(tmp_path).alone(),
    ):
        pass
    with Checkpoints(tmp_path).alone():
        pass


def test_a_disk_without_locks_is_used_without(tmp_path, monkeypatch):
    def acquire(self):
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr("filelock.FileLock.acquire", acquire)
    with Checkpoints(tmp_path).alone(), Checkpoints(tmp_path).alone():
        pass
