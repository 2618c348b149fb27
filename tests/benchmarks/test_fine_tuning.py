"""Training with few labels, resumed."""

import fine_tuning
import pytest
from results import read_csv

from otcxr_sk import LAPTOP

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")


@pytest.mark.slow
def test_training_with_few_labels_is_resumed_without_training_again(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("otcxr_sk.estimators.supervised._training.STEPS", 3)
    monkeypatch.setattr("otcxr_sk.estimators.supervised._training.LEAST_EPOCHS", 1)
    monkeypatch.setattr("study.LAPTOP", {**LAPTOP, "epochs": 1, "image_size": 32})
    out, words = tmp_path / "few.csv", ["--starts", "pre-trained", "random", "--shares", "0.1"]
    words += f"--phantoms 40 --seeds 1 --cache {tmp_path / 'cache'} --out {out}".split()
    fine_tuning.main(words)
    rows, printed = read_csv(out), capsys.readouterr().out
    # Findings, lesions and lungs; frozen and not; two starts.
    assert len(rows) == 3 * 2 * 2
    assert len({row["labelled_patients"] for row in rows}) == 1
    monkeypatch.setattr(fine_tuning, "start", lambda *_, **__: pytest.fail("started again"))
    fine_tuning.main(words)
    assert (read_csv(out), capsys.readouterr().out) == (rows, printed)
