import numpy as np
import pytest

from otcxr_sk.datasets import load_labelled
from otcxr_sk.evaluation import linear_probe, pixel_features


def test_the_numbers_are_those_of_the_library(as_json, folder, model, embedding):
    status, [found] = as_json("evaluate", model, folder, "--split", "part")
    data = load_labelled(folder)
    sick = data.labels[:, data.label_names.index("sick")]
    parts = {part: np.flatnonzero(data.table["part"] == part) for part in ("train", "test")}
    (label,) = found["labels"]
    assert (status, found["train"], found["test"], found["test_patients"]) == (0, 40, 24, 6)
    assert label["auc"] == linear_probe(embedding, sick, data.groups, **parts)
    assert label["auc_pixels"] == linear_probe(pixel_features(data.X), sick, data.groups, **parts)
    assert label["low"] <= label["difference"] <= label["high"]
    assert (label["test_positive"], label["test_negative"]) == (12, 12)
    assert set(found["left_out"]) == {"one", "age"}


def test_a_person_sees_what_stands_behind_a_number(run, folder, model):
    status, out, error = run("evaluate", model, folder, "--label", "sick")
    head, row = out.decode().splitlines()
    assert status == 0
    assert head.split()[:4] == ["label", "positive", "in", "test"]
    positive, of, total = row.split()[1:4]
    assert (of, 0 < int(positive) < int(total)) == ("of", True)
    assert "left out: one: only one value" in error


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_a_report_is_a_page_that_names_nobody(run, folder, model, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "report.html"
    arguments = ["report", model, folder, "--label", "sick", "--title", "A first look"]
    assert run(*arguments, "--out", out)[:2] == (0, b"")
    page = out.read_text()
    assert "A first look" in page
    assert "PLANTED" not in page
