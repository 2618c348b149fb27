"""What is opened is a regular file; what is written is whole, private and goes through no link."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from functools import partial
from multiprocessing import get_context

import psutil
import pytest

from otcxr_sk import _files
from otcxr_sk._files import (
    continue_file,
    create_file,
    create_folder,
    is_aside,
    locked,
    open_file,
    read_file,
    remove_leftovers,
    replacing,
    require_writable,
)


@pytest.fixture(params=[True, False], ids=["replaces a file", "new file"])
def path(request, tmp_path):
    path = tmp_path / "result.bin"
    if request.param:
        path.write_bytes(b"old")
    return path


def content(path):
    return path.read_bytes() if path.exists() else None


def asides(folder):
    return [file for file in folder.iterdir() if is_aside(file.name)]


def permissions(path):
    return stat.S_IMODE(path.lstat().st_mode)


def write(path, meanwhile, *args):
    """Write a new file, and call a function before it is complete."""
    with replacing(path) as file:
        file.write(b"new")
        meanwhile(*args)


def fail(error):
    raise error


def in_a_process(function, *args):
    """Return the exit code of a forked process that calls a function."""
    process = get_context("fork").Process(target=function, args=args)
    process.start()
    process.join()
    return process.exitcode


def test_a_file_appears_when_the_block_ends(path):
    before = content(path)
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        assert content(path) == before
    assert content(path) == b"new"
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_folder_is_told_of_with_the_path_that_was_given(tmp_path):
    path = tmp_path / "nowhere" / "result.bin"
    with pytest.raises(FileNotFoundError) as caught:
        write(path, list)
    assert str(caught.value).endswith(f": {str(path)!r}")


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_leaves_the_old_file_and_nothing_else(path, error):
    before = content(path)
    with pytest.raises(error):
        write(path, fail, error)
    assert content(path) == before
    assert not asides(path.parent)


def test_a_rename_that_fails_leaves_nothing(tmp_path):
    (tmp_path / "folder" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match="folder"):
        write(tmp_path / "folder", lambda: None)
    assert (tmp_path / "folder" / "full").is_dir()
    assert not asides(tmp_path)


def take_over(folder):
    (aside,) = asides(folder)
    aside.unlink()
    aside.write_bytes(b"theirs")


def remove(folder):
    (aside,) = asides(folder)
    aside.unlink()


@pytest.mark.parametrize(("meddle", "left"), [(take_over, [b"theirs"]), (remove, [])])
def test_an_unfinished_file_that_another_process_took_is_left_alone(path, meddle, left):
    before = content(path)
    with pytest.raises(OSError, match=r"another process has taken the unfinished.*result\.bin"):
        write(path, meddle, path.parent)
    assert content(path) == before
    assert [content(aside) for aside in asides(path.parent)] == left


@pytest.mark.parametrize("durable", [True, False])
def test_only_a_durable_file_is_on_the_disk_before_it_is_renamed(path, durable, monkeypatch):
    calls = []

    def recorded(name, call, *args):
        calls.append(name)
        return call(*args)

    for call in (os.fsync, os.replace):
        monkeypatch.setattr(os, call.__name__, partial(recorded, call.__name__, call))
    with replacing(path, durable=durable) as file:
        file.write(b"new")
    assert calls[:2] == (["fsync", "replace"] if durable else ["replace"])
    assert content(path) == b"new"


def test_a_link_in_the_place_of_a_file_is_replaced_and_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "result").symlink_to(tmp_path / "precious")
    write(tmp_path / "result", lambda: None)
    assert content(tmp_path / "precious") == b"precious"
    assert content(tmp_path / "result") == b"new"
    assert not (tmp_path / "result").is_symlink()


@pytest.fixture(params=[0o000, 0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.usefixtures("umask")
def test_what_is_written_is_private_whatever_the_umask(tmp_path):
    (tmp_path / "old").write_bytes(b"")
    (tmp_path / "old").chmod(0o666)
    for name in ("old", "new"):
        write(tmp_path / name, lambda: None)
        assert permissions(tmp_path / name) == 0o600
    create_file(tmp_path / "other").close()
    assert permissions(tmp_path / "other") == 0o600
    create_folder(tmp_path / "a" / "b")
    assert permissions(tmp_path / "a") == permissions(tmp_path / "a" / "b") == 0o700


@pytest.mark.usefixtures("umask")
def test_what_is_shared_has_the_permissions_that_were_chosen(tmp_path):
    with replacing(tmp_path / "file", mode=0o660) as file:
        file.write(b"new")
    assert permissions(tmp_path / "file") == 0o660
    create_folder(tmp_path / "folder", 0o2770)
    assert permissions(tmp_path / "folder") == 0o2770


def die_while_writing(path):
    with replacing(path) as file:
        file.write(b"new")
        file.flush()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_by_the_next_one_that_writes_there(path):
    before = content(path)
    assert in_a_process(die_while_writing, path) == -signal.SIGKILL
    assert content(path) == before
    assert len(asides(path.parent)) == 1
    write(path.with_name("other"), lambda: None)
    assert not asides(path.parent)


def wait_to_be_killed(pipe):
    pipe.send(os.getpid())
    time.sleep(60)


def die_with_a_child(path, pipe):
    with replacing(path):
        get_context("fork").Process(target=wait_to_be_killed, args=(pipe,)).start()
        os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed_even_if_a_child_of_it_lives(path):
    ours, theirs = get_context("fork").Pipe(duplex=False)
    with ours, theirs:
        assert in_a_process(die_with_a_child, path, theirs) == -signal.SIGKILL
        child = ours.recv()
        try:
            assert len(asides(path.parent)) == 1
            remove_leftovers(path.parent)
            assert not asides(path.parent)
        finally:
            os.kill(child, signal.SIGKILL)


def test_a_pipe_is_replaced(tmp_path):
    os.mkfifo(tmp_path / "it")
    write(tmp_path / "it", lambda: None)
    assert content(tmp_path / "it") == b"new"


@pytest.mark.parametrize("kind", ["folder", "link to a device"])
def test_folders_and_devices_are_not_replaced(kind, tmp_path):
    SPECIAL[kind](tmp_path / "it")
    before = (tmp_path / "it").lstat()
    with pytest.raises(OSError, match=r"it is a (folder|device)"):
        write(tmp_path / "it", lambda: None)
    assert (tmp_path / "it").lstat().st_ino == before.st_ino
    assert not asides(tmp_path)


def test_a_full_disk_is_told_of_with_the_name_of_the_file(path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match=r"No space left.*result\.bin"):
        write(path, lambda: None)


def test_what_another_process_is_writing_is_not_removed(path):
    with replacing(path) as file:
        file.write(b"new")
        in_a_process(remove_leftovers, path.parent)
        remove_leftovers(path.parent)
        assert len(asides(path.parent)) == 1
    assert content(path) == b"new"


def test_where_there_are_no_locks_only_what_is_old_is_removed(path, monkeypatch):
    def no_locks(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    in_a_process(die_while_writing, path)
    monkeypatch.setattr("fcntl.flock", no_locks)
    remove_leftovers(path.parent)
    (left,) = asides(path.parent)
    write(path, lambda: None)
    assert asides(path.parent) == [left]
    os.utime(left, (0, 0))
    remove_leftovers(path.parent)
    assert not asides(path.parent)


@pytest.mark.parametrize("what", ["link", "pipe", "folder"])
def test_what_is_no_file_is_not_removed_whatever_its_name(tmp_path, what):
    name = tmp_path / f".otcxr-{'0' * 32}.part"
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    {"link": partial(name.symlink_to, precious), "pipe": partial(os.mkfifo, name),
     "folder": name.mkdir}[what]()  # fmt: skip
    remove_leftovers(tmp_path)
    assert os.path.lexists(name)
    assert content(precious) == b"precious"


def test_a_file_is_created_only_where_there_is_nothing(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileExistsError):
        create_file(tmp_path / "link")
    assert not (tmp_path / "nowhere").exists()


def test_whether_a_folder_can_be_written_to_is_found_out_without_a_trace(tmp_path):
    require_writable(tmp_path)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        require_writable(tmp_path / "nowhere")


SPECIAL = {
    "pipe": os.mkfifo,
    "folder": os.mkdir,
    "link to a device": partial(os.symlink, "/dev/zero"),
    "link to nothing": partial(os.symlink, "nowhere"),
    "nothing": lambda path: None,
}


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("follow", [True, False])
def test_only_regular_files_are_opened_and_nothing_blocks(kind, follow, tmp_path):
    SPECIAL[kind](tmp_path / "it")
    with pytest.raises(OSError, match="it") as raised:
        open_file(tmp_path / "it", follow=follow)
    assert os.fspath(raised.value.filename) == str(tmp_path / "it")


def test_a_device_is_not_opened():
    with pytest.raises(OSError, match="not a regular file"):
        open_file("/dev/zero")


def test_a_link_is_followed_only_where_the_user_may_have_made_it(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    (tmp_path / "link").symlink_to(tmp_path / "file")
    assert read_file(tmp_path / "link", 7) == b"content"
    with pytest.raises(OSError, match="symbolic link") as raised:
        read_file(tmp_path / "link", 7, follow=False)
    assert raised.value.errno == errno.ELOOP
    assert read_file(tmp_path / "file", 7, follow=False) == b"content"


def test_no_more_is_read_than_a_file_may_have(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    assert read_file(tmp_path / "file", 7) == b"content"
    with pytest.raises(OSError, match="it has more than 6 bytes"):
        read_file(tmp_path / "file", 6)


def hold(path):
    try:
        with locked(path) as held:
            sys.exit(7 if held else 8)
    except BlockingIOError:
        sys.exit(3)


def test_a_lock_keeps_other_processes_out_until_it_is_released(tmp_path):
    with locked(tmp_path / "lock") as held:
        assert held
        assert in_a_process(hold, tmp_path / "lock") == 3
    assert in_a_process(hold, tmp_path / "lock") == 7
    assert permissions(tmp_path / "lock") == 0o600


@pytest.mark.parametrize("code", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_told(tmp_path, monkeypatch, code):
    def no_locks(*_):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("fcntl.flock", no_locks)
    with locked(tmp_path / "lock") as held:
        assert not held


def test_a_link_in_the_place_of_a_lock_is_removed_and_its_target_kept(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / "lock").symlink_to(tmp_path / "precious")
    with locked(tmp_path / "lock") as held:
        assert held
        assert in_a_process(hold, tmp_path / "lock") == 3
    assert not (tmp_path / "lock").is_symlink()
    assert content(tmp_path / "precious") == b"precious"


def test_a_process_that_exits_at_once_leaves_the_old_file(path):
    before = content(path)
    script = (
        "import os, sys; from otcxr_sk._files import replacing\n"
        "with replacing(sys.argv[1]) as file: file.write(b'new'); file.flush(); os._exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", script, path]).returncode == 3
    assert content(path) == before


@pytest.fixture(params=["Python 3.11", "Python 3.13"])
def windows(request, monkeypatch):
    """Lack what Windows lacks, and rename or remove no file that is open."""
    missing = ["geteuid", "O_DIRECTORY", "O_NOFOLLOW", "O_NONBLOCK", "O_NOCTTY", "O_CLOEXEC"]
    for name in [*missing, *["fchmod"] * (request.param == "Python 3.11")]:
        monkeypatch.delattr(os, name)
    for name in ("_NO_LINK", "_NO_WAITING", "_CLOSED_ON_EXEC"):
        monkeypatch.setattr(_files, name, 0)
    monkeypatch.setattr(_files, "fcntl", None)

    def unless_open(act, path, *more):
        if os.fspath(path) in [file.path for file in psutil.Process().open_files()]:
            raise PermissionError(errno.EACCES, "Permission denied", path)
        act(path, *more)

    for name in ("replace", "unlink"):
        monkeypatch.setattr(os, name, partial(unless_open, getattr(os, name)))


@pytest.mark.usefixtures("windows")
def test_on_windows_a_file_appears_whole_or_not_at_all(path):
    before = content(path)
    with pytest.raises(ValueError, match="half"):
        write(path, fail, ValueError("half"))
    assert content(path) == before
    assert not asides(path.parent)
    with replacing(path, mode=0o660) as file:
        file.write(b"new")
    assert content(path) == b"new"
    assert not asides(path.parent)


@pytest.mark.usefixtures("windows")
def test_on_windows_what_a_killed_process_left_is_removed_when_it_is_old(path):
    in_a_process(die_while_writing, path)
    (left,) = asides(path.parent)
    remove_leftovers(path.parent)
    assert asides(path.parent) == [left]
    os.utime(left, (0, 0))
    remove_leftovers(path.parent)
    assert not asides(path.parent)


@pytest.mark.usefixtures("windows")
def test_on_windows_folders_are_created_and_files_continued(tmp_path):
    create_folder(tmp_path / "shared", 0o2770)
    for _ in range(2):
        with continue_file(tmp_path / "shared" / "file") as file:
            file.seek(0, os.SEEK_END)
            file.write(b"more")
    assert content(tmp_path / "shared" / "file") == b"moremore"
