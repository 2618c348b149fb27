import csv
import re

import joblib
import numpy as np
import pytest

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.cli._demo import _time
from otcxr_sk.datasets import make_chest_phantoms

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")


@pytest.fixture(scope="module")
def own_data(tmp_path_factory):
    """An .npz with 24 patients, and a CSV with complete, incomplete and useless columns."""
    folder = tmp_path_factory.mktemp("own")
    data = make_chest_phantoms(24, image_size=32, random_state=0)
    np.savez(folder / "own.npz", images=data.images)
    with open(folder / "own.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["patient_id", "effusion", "side", "site"])
        for row, patient in enumerate(data.groups):
            side = ["left", "right", ""][row % 3]
            writer.writerow([patient, data.labels[row, 2], side, "here"])
    return folder


@pytest.mark.slow
def test_demo_on_own_data_writes_a_model_predictions_and_a_figure(own_data, tmp_path, run):
    files = ["--data", own_data / "own.npz", "--labels", own_data / "own.csv"]
    status, out, error = run("demo", *files, "--out", tmp_path, "--epochs", "1")
    assert status == 0
    assert "positive  raw pixels   untrained       otcxr" in out.decode()
    assert "left out: site: only one value, 'here'" in error

    images = np.load(own_data / "own.npz")["images"]
    model = joblib.load(tmp_path / "model.joblib")
    assert set(model) == {"effusion", "side=right"}
    with open(own_data / "own.csv", newline="") as stream:
        given = list(csv.DictReader(stream))
    with open(tmp_path / "predictions.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    first = model["effusion"].predict_proba(images[[int(rows[0]["row"])]])[0, 1]
    assert float(rows[0]["effusion"]) == pytest.approx(first, abs=1e-3)
    for row in rows:
        own = given[int(row["row"])]
        assert float(row["effusion (truth)"]) == float(own["effusion"])
        assert row["side=right (truth)"] == {"left": "0", "right": "1", "": ""}[own["side"]]
    positive = sum(row["effusion (truth)"] == "1" for row in rows)
    assert f"{positive} of {len(rows)}" in out.decode()
    assert (tmp_path / "matching.png").read_bytes().startswith(b"\x89PNG")
    encoder = OTCXRPretrainer.from_pretrained(tmp_path / "encoder")
    assert encoder.encoder_name_ == "resnet10t"


def test_the_time_of_training_is_told_by_a_few_of_its_steps():
    images = make_chest_phantoms(4, image_size=32, random_state=0).images
    settings = {"encoder": "test_resnet", "image_size": 32, "batch_size": 8, "verbose": 0}
    assert _time({**settings, "epochs": 8}, images) == ""
    told = _time({**settings, "epochs": 1000}, images)
    assert re.fullmatch(r", for about \d+ (s|min)", told)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "nowhere.npz"], "there is no 'nowhere.npz'"),
        (["--epochs", "-1"], "epochs"),
    ],
)
def test_an_error_is_one_line_without_a_traceback(arguments, message, tmp_path, run, monkeypatch):
    monkeypatch.setattr("otcxr_sk.cli._demo.DEMO_PATIENTS", 4)
    status, _, error = run("demo", "--out", tmp_path, *arguments)
    assert status in (1, 2)
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
    labels, found, tmp_path, run
):
    """Of two patients, one is trained on, and each has images of one class only."""
    images = make_chest_phantoms(4, images_per_patient=1, image_size=32, random_state=0).images
    np.savez(tmp_path / "own.npz", images=images, patient_ids=["a", "a", "b", "b"], **labels)
    status, out, error = run("demo", "--data", tmp_path / "own.npz", "--out", tmp_path / "out")
    assert (status, out, (tmp_path / "out").exists()) == (1, b"", False)
    assert error.startswith("otcxr-sk: the demo needs a label")
    assert found in error
