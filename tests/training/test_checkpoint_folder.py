"""A checkpoint folder among other users and programs: private, locked, and never misread."""

import errno
import os
import shutil
from hashlib import sha256

import pytest
import safetensors.torch
import torch
from small_runs import saved_in

from otcxr_sk.training._checkpoint import (
    KEEP,
    CheckpointFolder,
    CheckpointWarning,
    RunState,
)


def some(number=0):
    return RunState({"a": torch.full((3,), number)}, {"number": number})


def filled(folder, n=KEEP):
    return saved_in(folder, map(some, range(n)))


def test_the_folder_and_what_is_in_it_are_for_this_user_alone(tmp_path):
    checkpoints = CheckpointFolder(tmp_path / "a" / "run")
    with checkpoints.alone():
        checkpoints.save(some(), 0)
    modes = {path.name[:10]: path.stat().st_mode & 0o777 for path in tmp_path.rglob("*")}
    assert modes == {"a": 0o700, "run": 0o700, ".in-use": 0o600, "checkpoint": 0o600}


def test_a_folder_is_left_if_something_is_in_it_or_it_was_there_before(tmp_path):
    for folder, content, left in (
        (tmp_path / "new", None, False),
        (tmp_path / "used", "notes.txt", True),
        (tmp_path, None, True),
    ):
        with CheckpointFolder(folder).alone():
            if content:
                (folder / content).touch()
        assert folder.exists() == left


def test_a_run_that_is_refused_touches_nothing(tmp_path):
    first = CheckpointFolder(tmp_path)
    with first.alone():
        first.save(some(), 0)
        (tmp_path / f".otcxr-{'0' * 32}.part").write_bytes(b"being written")
        before = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
        with pytest.raises(ValueError, match="another run"), CheckpointFolder(tmp_path).alone():
            pass
        assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("what", ["link", "pipe", "folder", "device"])
def test_what_is_no_file_is_no_checkpoint(tmp_path, what):
    name = tmp_path / f"checkpoint-{9:09}-{'0' * 64}.safetensors"
    {
        "link": lambda: name.symlink_to(tmp_path / "nowhere"),
        "pipe": lambda: os.mkfifo(name),
        "folder": name.mkdir,
        "device": lambda: name.symlink_to("/dev/zero"),
    }[what]()
    checkpoints = CheckpointFolder(tmp_path)
    assert checkpoints.load() is None
    for place in range(3):
        checkpoints.save(some(place), place)
    assert checkpoints.load().numbers["number"] == 2
    assert os.path.lexists(name)


def test_a_checkpoint_that_a_cleaner_takes_while_it_is_written_ends_no_run(tmp_path, monkeypatch):
    checkpoints = filled(tmp_path)
    real = os.fsync

    def clean(opened):
        for file in tmp_path.glob(".otcxr-*"):
            file.unlink()
        real(opened)

    monkeypatch.setattr(os, "fsync", clean)
    with pytest.warns(CheckpointWarning, match="another process has taken the unfinished file"):
        checkpoints.save(some(9), 9)
    assert checkpoints.load().numbers["number"] == KEEP - 1


def test_a_folder_that_vanishes_ends_no_run(tmp_path):
    (tmp_path / "run").mkdir()
    checkpoints = filled(tmp_path / "run")
    shutil.rmtree(tmp_path / "run")
    with pytest.warns(CheckpointWarning, match="no checkpoint was written"):
        checkpoints.save(some(9), 9)


def test_what_was_just_saved_is_never_what_is_removed(tmp_path):
    checkpoints = CheckpointFolder(tmp_path)
    for number in range(2):
        name = f"checkpoint-{999_999_990 + number:09}-{'0' * 64}.safetensors"
        (tmp_path / name).write_bytes(b"laid there")
    checkpoints.save(some(7), 1)
    with pytest.warns(CheckpointWarning, match="is damaged and was removed"):
        assert checkpoints.load().numbers["number"] == 7


def test_a_huge_file_is_not_read_to_find_that_it_is_no_checkpoint(tmp_path):
    with open(tmp_path / f"checkpoint-{9:09}-{'0' * 64}.safetensors", "wb") as file:
        file.truncate(2**40)
    with pytest.warns(CheckpointWarning, match="is damaged and was removed"):
        assert CheckpointFolder(tmp_path).load() is None


def stored_as(folder, tensors, header):
    """Store a file as a checkpoint whose checksum is right."""
    content = safetensors.torch.save(tensors, header)
    name = f"checkpoint-{1:09}-{sha256(content).hexdigest()}.safetensors"
    (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    "numbers", ["", "[]", "7", "{", "[" * 100_000, '{"run": NaN', '"' + "x" * 1000]
)
def test_what_another_program_wrote_is_refused(tmp_path, numbers):
    stored_as(tmp_path, {"a": torch.zeros(3)}, {"format": "2", "numbers": numbers})
    with pytest.raises(ValueError, match=r"checkpoint-.* was not written by otcxr-sk"):
        CheckpointFolder(tmp_path).load()


def test_another_format_is_quoted_briefly(tmp_path):
    stored_as(tmp_path, {"a": torch.zeros(3)}, {"format": "\x1b" + "9" * 10**6})
    with pytest.raises(ValueError, match=r"has the format '\\x1b9+\.\.\.'") as raised:
        CheckpointFolder(tmp_path).load()
    assert len(str(raised.value)) < 600


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS])
def test_a_disk_without_locks_is_used_with_a_warning(tmp_path, monkeypatch, code):
    def no_locks(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_locks)
    for _ in range(2):
        with (
            pytest.warns(CheckpointWarning, match="has no locks, so nothing keeps another run"),
            CheckpointFolder(tmp_path).alone(),
        ):
            pass


def test_a_lock_that_cannot_be_opened_is_refused_by_name(tmp_path):
    (tmp_path / ".in-use").mkdir()
    with (
        pytest.raises(ValueError, match=r"cannot be used: its file \.in-use: .*irectory"),
        CheckpointFolder(tmp_path).alone(),
    ):
        pass
