"""Nothing that is written names a file, a folder, a patient or a machine that was not asked for."""

import hashlib
import io
import os
import zipfile
import zlib

import joblib
import numpy as np
import pytest
import skops.io
from PIL import Image

from otcxr_sk import Cache, Checkpoint, OTCXRPretrainer
from otcxr_sk.cli import main
from otcxr_sk.datasets import check_leakage
from otcxr_sk.evaluation import linear_probe
from otcxr_sk.images import without_names
from otcxr_sk.training import CSVLogger, TensorBoardLogger

N = 24
PATIENTS = [f"PLANTED-PATIENT-{row // 2:02}" for row in range(N)]
BROKEN = (3, 17)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Images whose paths name patients, two of them broken, and a table."""
    folder = tmp_path_factory.mktemp("x") / "PLANTED-FOLDER"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (N, 40, 40), np.uint8)
    rows = []
    for row, (image, patient) in enumerate(zip(images, PATIENTS, strict=True)):
        name = f"{patient}-PLANTED-NAME-{row:02}.png"
        Image.fromarray(image).save(folder / name)
        if row in BROKEN:
            (folder / name).write_bytes(b"\x89PNG broken")
        rows.append(f"{name},{patient},{row % 2}")
    (folder / "labels.csv").write_text("path,patient_id,sick\n" + "\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def paths(folder):
    return [str(path) for path in sorted(folder.glob("*.png"))]


@pytest.fixture(scope="module")
def weights(folder):
    images = np.random.default_rng(0).random((4, 32, 32), np.float32)
    file = folder / "PLANTED-WEIGHTS.safetensors"
    make(epochs=0).fit(images).save_encoder(file)
    return file


def make(**parameters):
    settings = {"image_size": 32, "epochs": 1, "batch_size": 8, "random_state": 0, **parameters}
    return OTCXRPretrainer("test_resnet", on_error="nan", **settings)


@pytest.fixture(scope="module")
def written(folder, paths, weights, tmp_path_factory):
    """A folder with one of every kind of file that the library writes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("socket.gethostname", lambda: "PLANTED-HOST")
        return write_all(paths, weights, tmp_path_factory.mktemp("written"))


def write_all(paths, weights, place):
    encoder = make(
        validation_fraction=0.25,
        weights=weights,
        cache=Cache(place / "cache"),
        checkpoint=Checkpoint(place / "run"),
        callbacks=[CSVLogger(place / "log.csv"), TensorBoardLogger(place / "board")],
    )
    encoder.fit(paths, groups=PATIENTS)
    assert [problem["row"] for problem in encoder.skipped_] == list(BROKEN)
    encoder.transform(paths, out=place / "z.npy")
    encoder.save_encoder(place / "encoder.safetensors")
    encoder.set_params(weights=None, cache=None, checkpoint=None, callbacks=None)
    joblib.dump(encoder, place / "encoder.joblib")
    skops.io.dump(encoder, place / "encoder.skops")
    return place


def layers(content):
    """Yield content, and what is packed in it."""
    yield content
    if zipfile.is_zipfile(io.BytesIO(content)):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            yield from (archive.read(name) for name in archive.namelist())
    try:
        yield zlib.decompress(content)
    except zlib.error:
        return


def planted(folder, secrets):
    """Return what of `secrets` is found in or as the name of a file, and where."""
    found = set()
    for path in folder.rglob("*"):
        inside = [*layers(path.read_bytes())] if path.is_file() else []
        for secret in secrets:
            forms = [secret.encode(encoding) for encoding in ("utf-8", "utf-16-le", "utf-32-le")]
            # What anybody can compute who guesses it.
            for digest in (hashlib.md5, hashlib.sha256):
                known = digest(secret.encode()).hexdigest()
                forms += [known[:16].encode(), bytes.fromhex(known)[:8]]
            if secret in path.name or any(form in layer for form in forms for layer in inside):
                found.add((secret, path.name))
    return found


def test_no_file_names_what_was_not_asked_for(written, folder, paths):
    kinds = {path.suffix for path in written.rglob("*") if path.is_file()}
    assert kinds >= {".image", ".safetensors", ".csv", ".npy", ".joblib", ".skops"}
    secrets = ["PLANTED", str(folder), *paths, *PATIENTS]
    secrets += [os.path.basename(path) for path in paths]
    assert planted(written, secrets) == set()


def test_a_search_would_find_it(written, tmp_path):
    (tmp_path / "clear").write_bytes(b"... PLANTED ...")
    joblib.dump({"x": ["PLANTED"]}, tmp_path / "packed", compress=("zlib", 3))
    np.save(tmp_path / "wide.npy", np.array(["PLANTED"]))
    (tmp_path / "digest").write_text(hashlib.sha256(b"PLANTED").hexdigest())
    assert {name for _, name in planted(tmp_path, ["PLANTED"])} == {
        "clear",
        "packed",
        "wide.npy",
        "digest",
    }


def test_what_is_written_is_for_this_user_alone(written):
    ours = [path for path in written.rglob("*") if path.suffix not in (".joblib", ".skops")]
    assert {path.stat().st_mode & 0o077 for path in ours} == {0}


def test_copies_do_not_name_the_files_that_were_left_out(written):
    copied = joblib.load(written / "encoder.joblib")
    assert [(one["row"], one["file"]) for one in copied.skipped_] == [(row, None) for row in BROKEN]
    assert all("intact copy" in one["reason"] for one in copied.skipped_)


def test_what_a_reason_quotes_is_not_in_a_dump():
    problem = {"row": 1, "file": "a", "reason": "its item is '/data/PLANTED.png', not an image"}
    assert without_names(problem) == {"row": 1, "file": None, "reason": "its item is ..."}
    assert without_names({**problem, "reason": "it is empty"})["reason"] == "it is empty"


def test_a_message_names_rows_instead_of_patients():
    groups, y, parts = PATIENTS, [0, 1] * (N // 2), np.array(["train", "test"] * (N // 2))
    train, test = np.flatnonzero(parts == "train"), np.flatnonzero(parts == "test")
    mixed = [7, *PATIENTS[1:]]
    for call in (
        lambda: check_leakage(groups, parts),
        lambda: check_leakage(mixed, parts),
        lambda: linear_probe(np.eye(N), y, groups, train=train, test=test),
    ):
        with pytest.raises(ValueError, match=r"rows? 0") as caught:
            call()
        assert "PLANTED" not in str(caught.value)


@pytest.mark.slow
def test_the_demo_writes_rows_instead_of_patients(folder, tmp_path):
    for row, path in enumerate(sorted(folder.glob("*.png"))):
        image = np.random.default_rng(row).integers(0, 256, (40, 40), np.uint8)
        Image.fromarray(image).save(tmp_path / path.name)
    (tmp_path / "labels.csv").write_bytes((folder / "labels.csv").read_bytes())
    out = tmp_path / "out"
    assert main(["demo", "--data", str(tmp_path), "--epochs", "0", "--out", str(out)]) == 0
    assert planted(out, ["PLANTED", *PATIENTS]) == set()
    assert {path.stat().st_mode & 0o077 for path in [out, *out.iterdir()]} == {0}
    assert (out / "predictions.csv").read_text().startswith("row,sick")
