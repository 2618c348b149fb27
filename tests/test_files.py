"""A file is whole or not there, and what another process writes is left alone."""

import os
import subprocess
import sys
from functools import partial

import pytest

from otcxr_sk._atomic import replacing


@pytest.fixture(params=[True, False], ids=["replaces a file", "new file"])
def path(request, tmp_path):
    path = tmp_path / "result.bin"
    if request.param:
        path.write_bytes(b"old")
    return path


@pytest.fixture
def aside(tmp_path):
    return tmp_path / "result.part"


def content(path):
    return path.read_bytes() if path.exists() else None


def write(path, aside, meanwhile, *args):
    """Write a new file, and call a function before it is complete."""
    with replacing(path, aside) as file:
        file.write(b"new")
        meanwhile(*args)


def fail(error):
    raise error


def test_a_file_appears_when_the_block_ends(path, aside):
    before = content(path)
    with replacing(path, aside) as file:
        file.write(b"new")
        file.flush()
        assert content(path) == before
    assert content(path) == b"new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_no_scratch_file(path, aside, error):
    before = content(path)
    with pytest.raises(error):
        write(path, aside, fail, error)
    assert content(path) == before
    assert not aside.exists()


def test_a_process_that_dies_leaves_the_old_file(path, aside):
    before = content(path)
    script = (
        "import os, sys; from otcxr_sk._atomic import replacing\n"
        "with replacing(*sys.argv[1:]) as file: file.write(b'new'); file.flush(); os._exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", script, path, aside]).returncode == 3
    assert content(path) == before


def test_a_rename_that_fails_leaves_no_scratch_file(tmp_path, aside):
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write(tmp_path / "folder", aside, lambda: None)
    assert (tmp_path / "folder" / "full").is_dir()
    assert not aside.exists()


def test_a_scratch_file_that_is_there_already_is_refused_and_kept(path, aside):
    before = content(path)
    aside.write_bytes(b"theirs")
    with pytest.raises(FileExistsError):
        write(path, aside, pytest.fail)
    assert content(path) == before
    assert content(aside) == b"theirs"


def take_over(aside):
    """Replace the scratch file as another process does that takes it for abandoned."""
    aside.unlink()
    aside.write_bytes(b"theirs")


@pytest.mark.parametrize(
    ("meddle", "theirs"), [(take_over, b"theirs"), (os.unlink, None)], ids=["taken over", "removed"]
)
def test_a_scratch_file_that_another_process_took_is_left_alone(path, aside, meddle, theirs):
    before = content(path)
    message = r"another process began to write '.*result\.bin'; this one gives up"
    with pytest.raises(RuntimeError, match=message):
        write(path, aside, meddle, aside)
    assert content(path) == before
    assert content(aside) == theirs


def test_an_error_does_not_remove_the_scratch_file_of_another_process(path, aside):
    with pytest.raises(ZeroDivisionError):
        write(path, aside, lambda: (take_over(aside), fail(ZeroDivisionError)))
    assert content(aside) == b"theirs"


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_durable_file_is_on_the_disk_before_it_is_renamed(path, aside, durable, monkeypatch):
    calls = []

    def recorded(name, call, *args):
        calls.append(name)
        return call(*args)

    for call in (os.fsync, os.replace):
        monkeypatch.setattr(os, call.__name__, partial(recorded, call.__name__, call))
    with replacing(path, aside, durable=durable) as file:
        file.write(b"new")
    assert calls[:2] == (["fsync", "replace"] if durable else ["replace"])
    assert content(path) == b"new"
