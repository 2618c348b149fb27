import csv
import os
import subprocess
import sys

import joblib
import numpy as np
import pytest

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.cli import main
from otcxr_sk.datasets import make_chest_phantoms


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """An .npz with 24 patients, and a CSV with a complete and an incomplete label."""
    folder = tmp_path_factory.mktemp("own")
    data = make_chest_phantoms(24, image_size=32, random_state=0)
    np.savez(folder / "own.npz", images=data.images)
    with open(folder / "own.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["patient_id", "effusion", "side"])
        for row, patient in enumerate(data.groups):
            side = ["left", "right", ""][row % 3]
            writer.writerow([patient, data.labels[row, 2], side])
    return folder


@pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")
def test_demo_on_own_data_writes_a_model_predictions_and_a_figure(own_data, tmp_path, capsys):
    arguments = ["--data", own_data / "own.npz", "--labels", own_data / "own.csv"]
    options = ["--out", tmp_path, "--epochs", "1"]
    assert main(["demo", *map(str, arguments + options)]) == 0
    table = capsys.readouterr().out
    assert "raw pixels   untrained       otcxr" in table
    assert "effusion" in table

    images = np.load(own_data / "own.npz")["images"]
    model = joblib.load(tmp_path / "model.joblib")
    assert set(model) == {"effusion", "side=right"}
    with open(tmp_path / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    first = model["effusion"].predict_proba(images[[int(rows[0]["row"])]])[0, 1]
    assert float(rows[0]["effusion"]) == pytest.approx(first, abs=1e-3)
    assert (tmp_path / "matching.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.npz"], "nowhere.npz"),
        (["--epochs", "-1"], "epochs"),
    ],
)
def test_an_error_is_one_line_without_a_traceback(
    arguments, message, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("otcxr_sk.cli.DEMO_PATIENTS", 4)
    assert main(["demo", "--out", str(tmp_path), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


@pytest.mark.parametrize(
    ("labels", "found"),
    [
        ({}, "found: none"),
        ({"labels": [[0], [0], [1], [1]], "label_names": ["effusion"]}, "found: 'effusion'"),
    ],
)
def test_without_both_classes_of_a_label_in_training_nothing_is_trained(
    labels, found, tmp_path, capsys
):
    """Of two patients, one is trained on, and each has images of one class only."""
    images = make_chest_phantoms(4, images_per_patient=1, image_size=32, random_state=0).images
    np.savez(tmp_path / "own.npz", images=images, patient_ids=["a", "a", "b", "b"], **labels)
    assert main(["demo", "--data", str(tmp_path / "own.npz"), "--out", str(tmp_path)]) == 2
    out, error = capsys.readouterr()
    assert error.startswith("otcxr-sk: the demo needs a label")
    assert found in error
    assert out == ""


def test_labels_without_data_are_a_usage_error(capsys):
    with pytest.raises(SystemExit):
        main(["demo", "--labels", "some.csv"])
    assert "--labels needs --data" in capsys.readouterr().err


def test_info_describes_a_run_and_its_encoder(tmp_path, capsys):
    images = make_chest_phantoms(4, image_size=32, random_state=0).images
    run, encoder = tmp_path / "run", tmp_path / "encoder.safetensors"
    settings = {"image_size": 32, "epochs": 2, "random_state": 0, "validation_fraction": 0.25}
    fitted = OTCXRPretrainer("test_resnet", **settings, checkpoint=run).fit(images)
    fitted.save_encoder(encoder)

    assert main(["info", str(run)]) == 0
    shown = capsys.readouterr().out
    for words in (
        "8 images, 2 held out",
        "encoder='test_resnet'",
        "2 of 2 epochs completed, ended",
    ):
        assert words in shown
    for name, values in fitted.history_.items():
        (line,) = [line.split() for line in shown.splitlines() if line.startswith(f"  {name} ")]
        assert [float(number) for number in line[1:]] == pytest.approx(values, rel=1e-3)

    assert main(["info", str(encoder)]) == 0
    assert "test_resnet" in capsys.readouterr().out


def test_info_of_a_folder_without_a_run_is_a_one_line_error(tmp_path, capsys):
    assert main(["info", str(tmp_path)]) == 2
    out, error = capsys.readouterr()
    assert out == ""
    assert error.startswith("otcxr-sk: ")
    assert "holds no run" in error


def test_info_ends_quietly_when_its_reader_has_left(tmp_path):
    file = tmp_path / "encoder.safetensors"
    images = make_chest_phantoms(2, image_size=32, random_state=0).images
    OTCXRPretrainer("test_resnet", image_size=32, epochs=0).fit(images).save_encoder(file)
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "otcxr_sk.cli", "info", str(file)]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "")
