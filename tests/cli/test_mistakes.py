"""What users get wrong, each answered in a line or two with what to do, and nothing half done."""

import zlib

import joblib
import numpy as np
import pytest
from PIL import Image

from otcxr_sk.estimators import OTCXRPretrainer


@pytest.fixture
def refused(run, tmp_path, monkeypatch):
    """Run what must fail in an empty folder; return the message."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        before = sorted(tmp_path.rglob("*"))
        status, out, error = run(*arguments)
        assert (status, out) == (1, b"")
        assert error.startswith("otcxr-sk: ")
        assert "Traceback" not in error
        assert len(error.splitlines()) <= 2
        assert sorted(tmp_path.rglob("*")) == before
        return error

    return call


def written(path, text):
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_mistyped_folder(refused, folder, model):
    wrong = folder.with_name(folder.name + "s")
    assert f"did you mean '{folder.name}'?" in refused("embed", model, wrong)


def test_a_folder_without_images(refused, tmp_path):
    written(tmp_path / "empty" / "notes.txt", "none")
    assert "there is no image in 'empty'" in refused("pretrain", "empty", "--out", "m")


def test_a_table_without_images(refused, tmp_path, model):
    table = written(tmp_path / "x" / "labels.csv", "path,patient_id,sick\na.png,1,0\nb.png,2,1\n")
    assert "'a.png' is not a file in x" in refused("evaluate", model, "x")
    assert "pass the table as --labels" in refused("embed", model, table)


def test_a_column_that_is_not_there(refused, folder, model):
    assert "did you mean 'sick'?" in refused("evaluate", model, folder, "--label", "sik")
    assert "the table has 'path'" in refused("evaluate", model, folder, "--split", "fold")
    assert "only one value" in refused("report", model, folder, "--label", "one")


def test_rows_that_are_wrong(refused, folder, model, tmp_path):
    twice = written(tmp_path / "t.csv", "path,patient_id,sick\n" + 2 * "PLANTED-00.png,1,1\n")
    assert "is also in row 2; remove one" in refused("evaluate", model, folder, "--labels", twice)
    rows = "PLANTED-00.png,1,1\nimages/PLANTED-04.png,2,0\n"
    astray = written(tmp_path / "t.csv", "path,patient_id,sick\n" + rows)
    error = refused("evaluate", model, folder, "--labels", astray)
    assert "row 3: path 'images/PLANTED-04.png' is not a file" in error
    assert "correct it, or leave such rows out" in error


def test_a_table_without_patients(refused, folder, model, tmp_path):
    table = written(tmp_path / "t.csv", "path,sick\nPLANTED-00.png,1\nPLANTED-04.png,0\n")
    assert "add or rename one" in refused("evaluate", model, folder, "--labels", table)


def test_labels_with_one_class(refused, folder, model, tmp_path):
    rows = "".join(f"PLANTED-{row:02}.png,{row // 4},{int(row == 0)}\n" for row in range(64))
    table = written(tmp_path / "t.csv", "path,patient_id,sick\n" + rows)
    assert "no label is 0 for some" in refused("evaluate", model, folder, "--labels", table)


def test_a_patient_in_both_parts(refused, folder, model, tmp_path, monkeypatch):
    """Told before any image is read, and by rows: the id is nobody's business."""
    monkeypatch.setattr(OTCXRPretrainer, "transform", None)
    rows = "".join(f"PLANTED-{row:02}.png,PLANTED,{row % 2},{row % 2}\n" for row in range(8))
    rows = rows.replace(",0\n", ",train\n").replace(",1\n", ",test\n")
    table = written(tmp_path / "t.csv", "path,patient_id,sick,part\n" + rows)
    error = refused("evaluate", model, folder, "--labels", table, "--split", "part")
    assert "1 of 1 patients is in both train and test, such as in rows 0 and 1" in error
    assert "PLANTED" not in error


def test_a_truncated_file(refused, folder, model, tmp_path):
    whole = (folder / "PLANTED-00.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    assert "cut.png" in refused("embed", model, "cut.png", "--out", "e.csv")
    assert "cut.png" in refused("embed", model, "cut.png", "--out", "e.npy")


def test_a_hostile_file(refused, model, tmp_path):
    """A file of a hundred bytes that claims to be 60,000 pixels high and wide."""
    Image.new("L", (8, 8)).save(tmp_path / "bomb.png")
    content = bytearray((tmp_path / "bomb.png").read_bytes())
    content[16:24] = 2 * (60_000).to_bytes(4)
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4)
    (tmp_path / "bomb.png").write_bytes(content)
    assert "decompression bombs" in refused("embed", model, "bomb.png")


def test_an_output_that_exists(refused, run, folder, model, tmp_path):
    (tmp_path / "m").mkdir()
    assert "is no model, so it is not replaced" in refused("pretrain", folder, "--out", "m")
    written(tmp_path / "e.npy", "mine")
    assert "--overwrite" in refused("embed", model, folder, "--out", "e.npy")
    assert (tmp_path / "e.npy").read_text() == "mine"
    assert run("embed", model, folder, "--out", "e.npy", "--overwrite")[0] == 0
    assert len(np.load(tmp_path / "e.npy")) == 64


def test_a_folder_that_is_no_model_is_not_replaced(refused, folder, model, tmp_path):
    written(tmp_path / "mine" / "notes.txt", "mine")
    for place in ("mine", "mine/notes.txt"):
        error = refused("pretrain", folder, "--out", place, "--overwrite")
        assert "is no model, so it is not replaced" in error
    (tmp_path / "e.csv").mkdir()
    assert "is a folder" in refused("embed", model, folder, "--out", "e.csv", "--overwrite")


@pytest.mark.parametrize("command", ["embed", "report", "pretrain"])
def test_an_output_that_cannot_be_written(command, refused, folder, model, monkeypatch):
    name = {"embed": "e.csv", "report": "r.html", "pretrain": "m"}[command]
    given = ["pretrain", folder] if command == "pretrain" else [command, model, folder]
    assert "create it first" in refused(*given, "--out", f"no/such/{name}")

    def full(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("otcxr_sk.cli._options.require_writable", full)
    assert "Permission denied" in refused(*given, "--out", name)


def test_a_model_that_is_none(refused, folder, model, tmp_path):
    joblib.dump(OTCXRPretrainer(), tmp_path / "m.joblib")
    written(tmp_path / "run" / "x.txt", "")
    written(tmp_path / "broken" / "config.json", "{")
    (tmp_path / "e.safetensors").write_bytes((model / "encoder.safetensors").read_bytes())
    for name, why in {
        "m.joblib": "any code",
        "e.safetensors": "weights alone",
        "run": "holds no model",
        "broken": "config.json is not a JSON object, or a damaged one; copy the whole folder again",
        "no": "there is no 'no'",
    }.items():
        assert why in refused("embed", name, folder)


def test_a_wrong_extension(refused, folder, model):
    assert ".npy or .csv or .parquet" in refused("embed", model, folder, "--out", "e.txt")
    assert ".onnx or .pt2 or .safetensors" in refused("export", model, "e.pt")
    assert ".html" in refused("report", model, folder, "--out", "report.pdf")
    assert ".png" in refused("inspect", folder, "--png", "sheet.jpg")


def test_nothing_on_stdin(refused, model, on_stdin):
    on_stdin(b"\n")
    assert "stdin names no files" in refused("embed", model, "-")


def test_a_parameter_that_is_not_there(refused, folder):
    error = refused("pretrain", folder, "--out", "m", "--set", "views__eraze=1")
    assert "eraze" in error
    error = refused("pretrain", folder, "--out", "m", "--set", "learning_rat=1")
    assert "did you mean 'learning_rate'?" in error


def test_more_than_one_npz(refused, model, tmp_path):
    for name in ("a.npz", "b.npz"):
        (tmp_path / name).touch()
    assert "name nothing beside it" in refused("embed", model, "a.npz", "b.npz")
