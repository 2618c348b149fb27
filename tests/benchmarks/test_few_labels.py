"""The example of few labels, on the test patients or on none of them."""

import few_labels
import numpy as np
import pytest
from results import read_csv
from small_studies import SMALL
from study import split_off

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")


@pytest.mark.slow
@pytest.mark.parametrize("validate", [False, True])
def test_few_labels_evaluates_on_the_test_patients_or_on_none_of_them(
    data, tmp_path, monkeypatch, validate
):
    evaluated, compare = [], few_labels.compare

    def spied(*args, test, **options):
        evaluated.append(test)
        return compare(*args, test=test, **options)

    monkeypatch.setattr(few_labels, "compare", spied)
    monkeypatch.setattr(few_labels, "LAPTOP", SMALL)
    out, figure = tmp_path / "few.csv", tmp_path / "few.png"
    words = f"{data} --classes kind --pair 0 2 --epochs 1 --image-size 32 --seeds 1 --out {out}"
    words += f" --figure {figure}"
    few_labels.main([*words.split(), *["--validate"] * validate])
    rows = read_csv(out)
    assert len(rows) == 2 * 3 * 3  # tasks, fractions, features
    assert figure.stat().st_size
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    patients = np.load(data)["patient_ids"]
    _, kept_apart = split_off(np.arange(60), patients)
    for test in evaluated:
        assert np.isin(test, kept_apart).all() != validate
        assert np.isin(test, kept_apart).any() != validate
