"""Downloads from a local server, of a miniature whose checksum replaces the published one."""

import errno
import hashlib
import os
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest

from otcxr_sk._files import locked
from otcxr_sk.datasets import PatientsUnknownWarning, Radiographs, fetch_medmnist, get_data_home
from otcxr_sk.datasets.published import _medmnist as medmnist

COUNTS = {"train": 5, "val": 2, "test": 3}
pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.datasets.PatientsUnknownWarning")


def files_in(folder):
    return {path.name for path in folder.rglob("*") if path.is_file()}


def miniature(file, size, labels, **changes):
    random = np.random.default_rng(0)
    arrays = {}
    for part, n in COUNTS.items():
        arrays[f"{part}_images"] = random.integers(0, 256, (n, size, size), dtype=np.uint8)
        arrays[f"{part}_labels"] = random.integers(0, 2, (n, labels), dtype=np.uint8)
    arrays |= changes
    np.savez_compressed(file, **arrays)
    return arrays


@pytest.fixture
def server():
    """Serve files from a dict, whole or from a given byte; can break off."""
    state = SimpleNamespace(files={}, asked=[], stop_after=None, announce=True)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            data = state.files.get(self.path.lstrip("/"))
            wanted = self.headers.get("Range")
            state.asked.append((self.path.lstrip("/"), wanted))
            if data is None:
                self.send_error(404)
                return
            start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted else 0
            if start >= len(data):
                self.send_error(416)
                return
            self.send_response(206 if wanted else 200)
            if state.announce:
                self.send_header("Content-Length", str(len(data) - start))
            self.end_headers()
            self.wfile.write(data[start : state.stop_after])

        def log_message(self, *_):
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{httpd.server_port}/"
    yield state
    httpd.shutdown()
    httpd.server_close()
    thread.join()


@pytest.fixture
def publish(server, monkeypatch, tmp_path):
    """Replace a published file by a miniature."""
    monkeypatch.setattr(medmnist, "_URL", server.url)
    monkeypatch.setenv("OTCXR_SK_DATA", str(tmp_path / "home"))

    def put(name="pneumoniamnist", size=28, labels=1, **changes):
        file = tmp_path / "published.npz"
        arrays = miniature(file, size, labels, **changes)
        data = file.read_bytes()
        server.files[f"{name}.npz" if size == 28 else f"{name}_{size}.npz"] = data
        monkeypatch.setitem(medmnist._MD5[name], size, hashlib.md5(data).hexdigest())
        return arrays

    return put


@pytest.mark.parametrize(("name", "labels"), [("chestmnist", 14), ("pneumoniamnist", 1)])
@pytest.mark.parametrize("size", [28, 64])
def test_images_labels_and_split_are_those_published(publish, server, name, labels, size):
    stored = publish(name, size, labels)
    data = fetch_medmnist(name, size=size)
    for what in ("images", "labels"):
        expected = np.concatenate([stored[f"{part}_{what}"] for part in COUNTS])
        np.testing.assert_array_equal(data[what], expected)
    assert data.X is data.images
    assert data.images.dtype == np.uint8
    assert not data.images.flags.writeable
    assert data.labels.dtype == float
    assert len(data.label_names) == labels
    assert data.split.tolist() == ["train"] * 5 + ["valid"] * 2 + ["test"] * 3
    assert type(data) is Radiographs
    assert (data.paths, data.table, data.missing) == (None, {}, [])
    assert server.asked == [(f"{name}.npz" if size == 28 else f"{name}_{size}.npz", None)]


def test_a_warning_says_that_patients_are_unknown(publish):
    publish()
    with pytest.warns(PatientsUnknownWarning, match="PneumoniaMNIST is published without") as seen:
        data = fetch_medmnist("pneumoniamnist")
    assert seen[0].filename == __file__
    assert data.groups.tolist() == list(range(10))


def test_the_second_call_does_not_use_the_network(publish, server):
    publish()
    first = fetch_medmnist("pneumoniamnist")
    server.files.clear()
    second = fetch_medmnist("pneumoniamnist")
    np.testing.assert_array_equal(first.images, second.images)
    assert len(server.asked) == 1


def test_an_interrupted_download_is_resumed(publish, server, tmp_path):
    stored = publish()
    server.stop_after = 1000
    with pytest.raises(OSError, match=r"pneumoniamnist\.npz .*call again to resume"):
        fetch_medmnist("pneumoniamnist")
    assert (tmp_path / "home" / "medmnist" / "pneumoniamnist.npz.part").stat().st_size == 1000
    server.stop_after = None
    data = fetch_medmnist("pneumoniamnist")
    assert server.asked[-1] == ("pneumoniamnist.npz", "bytes=1000-")
    np.testing.assert_array_equal(data.images[:5], stored["train_images"])
    assert not list((tmp_path / "home").rglob("*.part"))


def test_a_complete_but_unverified_download_is_used(publish, server, tmp_path):
    publish()
    part = tmp_path / "home" / "medmnist" / "pneumoniamnist.npz.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(server.files["pneumoniamnist.npz"])
    assert len(fetch_medmnist("pneumoniamnist").images) == 10


def test_a_download_with_a_wrong_checksum_is_not_kept(publish, server, tmp_path):
    publish()
    good = server.files["pneumoniamnist.npz"]
    server.files["pneumoniamnist.npz"] = good[:-1] + b"x"
    with pytest.raises(ValueError, match=r"pneumoniamnist\.npz does not have the published MD5"):
        fetch_medmnist("pneumoniamnist")
    assert files_in(tmp_path / "home") == {"pneumoniamnist.npz.lock"}
    server.files["pneumoniamnist.npz"] = good
    assert len(fetch_medmnist("pneumoniamnist").images) == 10


def test_an_altered_file_in_the_cache_is_downloaded_again(publish, server, tmp_path):
    publish()
    fetch_medmnist("pneumoniamnist")
    (tmp_path / "home" / "medmnist" / "pneumoniamnist.npz").write_bytes(b"broken")
    assert len(fetch_medmnist("pneumoniamnist").images) == 10
    assert len(server.asked) == 2


def test_md5_is_used_where_it_is_forbidden_for_security(publish, monkeypatch):
    publish()
    usual = hashlib.md5

    def md5(*data, usedforsecurity=True):
        if usedforsecurity:
            raise ValueError
        return usual(*data, usedforsecurity=False)

    monkeypatch.setattr(hashlib, "md5", md5)
    assert len(fetch_medmnist("pneumoniamnist").images) == 10


def damage_images(file):
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def damage_header(file):
    file.write_bytes(file.read_bytes().replace(b"(10, 28, 28)", b"(99, 28, 28)"))


def cut_short(file):
    file.write_bytes(file.read_bytes()[:-1])


def lengthen(file):
    file.write_bytes(file.read_bytes() + b"x")


def become_a_link(file):
    file.rename(file.with_name("elsewhere"))
    file.symlink_to("elsewhere")


def become_a_pipe(file):
    file.unlink()
    os.mkfifo(file)


@pytest.mark.parametrize(
    "change",
    [damage_images, damage_header, cut_short, lengthen, become_a_link, become_a_pipe, os.unlink],
)
def test_unpacked_images_that_were_changed_are_unpacked_anew(publish, server, tmp_path, change):
    publish()
    before = np.array(fetch_medmnist("pneumoniamnist").images)
    (file,) = (tmp_path / "home" / "medmnist").glob("*.npy")
    change(file)
    np.testing.assert_array_equal(fetch_medmnist("pneumoniamnist").images, before)
    assert file.is_file()
    assert not file.is_symlink()
    assert len(server.asked) == 1


def hard_link(part, victim):
    os.link(victim, part)


def symbolic_link(part, victim):
    part.symlink_to(victim)


def link_to_nothing(part, victim):
    part.symlink_to(victim.with_name("nothing"))


def pipe(part, _):
    os.mkfifo(part)


def file_that_others_may_write(part, _):
    part.write_bytes(b"x" * 100)
    part.chmod(0o666)


@pytest.mark.parametrize(
    "prepare", [hard_link, symbolic_link, link_to_nothing, pipe, file_that_others_may_write]
)
def test_a_part_that_somebody_has_prepared_is_replaced(publish, server, tmp_path, prepare):
    publish()
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    folder = tmp_path / "home" / "medmnist"
    folder.mkdir(parents=True)
    prepare(folder / "pneumoniamnist.npz.part", victim)
    assert len(fetch_medmnist("pneumoniamnist").images) == 10
    assert server.asked == [("pneumoniamnist.npz", None)]
    assert victim.read_bytes() == b"precious"
    assert not (tmp_path / "nothing").exists()
    assert not (folder / "pneumoniamnist.npz").stat().st_mode & 0o077


def test_folders_are_for_this_user_alone(publish, tmp_path):
    publish()
    fetch_medmnist("pneumoniamnist")
    assert (tmp_path / "home").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "home" / "medmnist").stat().st_mode & 0o777 == 0o700


def test_an_archive_that_is_a_link_is_not_followed(publish, server, tmp_path):
    publish()
    fetch_medmnist("pneumoniamnist")
    become_a_link(tmp_path / "home" / "medmnist" / "pneumoniamnist.npz")
    assert len(fetch_medmnist("pneumoniamnist").images) == 10
    assert len(server.asked) == 2


@pytest.mark.parametrize("length", [True, False])
def test_a_server_that_never_ends_is_left(publish, server, monkeypatch, tmp_path, length):
    publish()
    server.announce = length
    server.files["pneumoniamnist.npz"] += bytes(10 * 2**20)
    monkeypatch.setattr(medmnist, "_MOST_LABELS", 2**20)
    monkeypatch.setattr(medmnist, "_MOST_IMAGES", 10)
    with pytest.raises(OSError, match="the server sends more than such a file has"):
        fetch_medmnist("pneumoniamnist")
    part = tmp_path / "home" / "medmnist" / "pneumoniamnist.npz.part"
    assert part.stat().st_size == 0


def test_another_process_that_downloads_is_told_of(publish, server, tmp_path):
    publish()
    folder = tmp_path / "home" / "medmnist"
    folder.mkdir(parents=True)
    told = pytest.raises(OSError, match=r"another process is downloading .*npz; call again")
    with locked(folder / "pneumoniamnist.npz.lock"), told:
        fetch_medmnist("pneumoniamnist")
    assert server.asked == []
    assert len(fetch_medmnist("pneumoniamnist").images) == 10


def test_a_full_disk_is_told_of_and_leaves_nothing(publish, monkeypatch, tmp_path):
    publish()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(medmnist.Npz, "chunks", full)
    with pytest.raises(OSError, match=r"cannot write .*\.npy: No space left on device; make room"):
        fetch_medmnist("pneumoniamnist")
    left = files_in(tmp_path / "home")
    assert left == {"pneumoniamnist.npz", "pneumoniamnist.npz.lock"}


def test_what_a_killed_process_left_is_removed(publish, tmp_path):
    publish()
    fetch_medmnist("pneumoniamnist")
    left = tmp_path / "home" / "medmnist" / f".otcxr-{'0' * 32}.part"
    left.touch()
    fetch_medmnist("pneumoniamnist")
    assert not left.exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"cannot create .*file.home: .*; pass another data_home"):
        fetch_medmnist("pneumoniamnist", data_home=tmp_path / "file" / "home")


@pytest.mark.usefixtures("publish")
def test_a_failed_download_says_how_to_do_it_by_hand():
    with pytest.raises(OSError, match=r"pneumoniamnist_224\.npz \(.*404.*by hand to .*home"):
        fetch_medmnist("pneumoniamnist", size=224)


def test_an_archive_of_color_images_is_refused_and_leaves_nothing(publish, tmp_path):
    publish(val_images=np.zeros((2, 28, 28, 3), np.uint8))
    with pytest.raises(ValueError, match=r"holds uint8 \(2, 28, 28, 3\), not uint8 \(n, 28, 28\)"):
        fetch_medmnist("pneumoniamnist")
    assert not list((tmp_path / "home").rglob("*.npy"))


def test_an_archive_of_something_else_is_refused(publish, server, monkeypatch):
    publish(val_labels=np.array([[None], [None]]))
    with pytest.raises(ValueError, match=r"pneumoniamnist\.npz cannot be read as an \.npz"):
        fetch_medmnist("pneumoniamnist")
    server.files["pneumoniamnist.npz"] = b"nothing"
    monkeypatch.setitem(medmnist._MD5["pneumoniamnist"], 28, hashlib.md5(b"nothing").hexdigest())
    with pytest.raises(ValueError, match=r"pneumoniamnist\.npz cannot be read as an \.npz"):
        fetch_medmnist("pneumoniamnist")


def test_unknown_names_and_sizes_are_refused():
    with pytest.raises(ValueError, match="'chestmnist', 'pneumoniamnist', got 'pathmnist'"):
        fetch_medmnist("pathmnist")
    with pytest.raises(ValueError, match="size must be one of 28, 64, 128, 224, got 32"):
        fetch_medmnist("chestmnist", size=32)
    sums = [md5 for sizes in medmnist._MD5.values() for md5 in sizes.values()]
    assert len(set(sums)) == 8
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in sums)


def test_the_data_home_is_the_argument_or_the_variable_or_in_the_home_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("OTCXR_SK_DATA", str(tmp_path / "a"))
    assert get_data_home() == tmp_path / "a"
    assert get_data_home(tmp_path / "b").is_dir()
    monkeypatch.delenv("OTCXR_SK_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get_data_home() == tmp_path / "otcxr_sk_data"
