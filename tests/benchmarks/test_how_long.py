"""Runs of several lengths, and what is shown of them."""

import how_long
import pytest
from results import read_csv

from otcxr_sk import LAPTOP


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
@pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")
def test_every_epoch_of_a_run_is_in_the_table_and_its_curves_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("study.LAPTOP", {**LAPTOP, "epochs": 1, "image_size": 32})
    monkeypatch.setattr(how_long, "RUNS", {"short": {}, "longer": {"epochs": 2}})
    out = tmp_path / "out.csv"
    words = f"--phantoms 60 --images 40 --cache {tmp_path / 'cache'} --out {out}"
    how_long.main(words.split())
    rows = read_csv(out)
    assert [(row["run"], row["epoch"]) for row in rows] == [
        ("short", "1"),
        ("longer", "1"),
        ("longer", "2"),
    ]
    assert all(float(row[curve]) for row in rows for curve in how_long.CURVES)
    assert out.with_suffix(".png").stat().st_size
