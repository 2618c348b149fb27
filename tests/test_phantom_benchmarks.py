"""Benchmarks on phantoms: masks in the ablation, and copies among images."""

import ablate
import fine_tuning
import near_duplicates
import numpy as np
import pytest
from results import read_csv

from otcxr_sk import LAPTOP
from otcxr_sk.datasets import make_chest_phantoms

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")


@pytest.mark.slow
def test_an_ablation_on_phantoms_evaluates_masks_too(tmp_path, monkeypatch):
    monkeypatch.setattr("study.LAPTOP", {**LAPTOP, "epochs": 1, "image_size": 32})
    out = tmp_path / "ablation.csv"
    words = f"--phantoms 80 --seeds 1 --cache {tmp_path / 'cache'} --out {out}"
    ablate.main([*words.split(), "--variants", ablate.PIXELS, "laptop"])
    pixels, laptop = read_csv(out)
    assert pixels["lung masks, 10 %"] == "nan"
    assert 0.5 < float(laptop["lung masks, 10 %"]) < 1
    assert 0 <= float(laptop["lesion masks, 1 %"]) < float(laptop["lung masks, 1 %"])


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


def test_near_duplicates_are_measured_on_copies_and_on_pairs(tmp_path, capsys):
    phantoms = make_chest_phantoms(60, images_per_patient=1, image_size=32, random_state=0)
    images = np.concatenate([phantoms.images[:59], phantoms.images[:1]])
    kinds = [("bacteria", "virus")[i % 2] for i in range(60)]
    names = [f"person{i // 4}_{kind}_{i}.png" for i, kind in enumerate(kinds)]
    known = {"patient_ids": phantoms.groups, "file_names": names, "labels": np.arange(60) % 2}
    np.savez(tmp_path / "phantoms.npz", images=images, **known)
    (tmp_path / "files").mkdir()
    np.save(tmp_path / "files" / "0.npy", phantoms.images[0])
    figure = tmp_path / "pairs.png"
    words = f"{tmp_path}/phantoms.npz --classes labels --copies 5 --files {tmp_path}/files"
    near_duplicates.main([*words.split(), "--figure", str(figure)])
    printed = capsys.readouterr().out
    assert "1770 pairs of 60 images" in printed
    assert "array: among 60 images, 1 pair looks the same" in printed
    assert "files: among 1 images, 0 pairs look the same" in printed
    assert figure.stat().st_size
