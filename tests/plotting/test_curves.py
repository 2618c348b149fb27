import numpy as np
import pytest
from sklearn.utils import Bunch

from otcxr_sk.evaluation import label_efficiency
from otcxr_sk.plotting import LabelEfficiencyDisplay

CURVE = Bunch(
    fractions=np.array([0.01, 0.5]),
    mean=np.array([0.6, 0.8]),
    std=np.array([0.1, 0.0]),
    n_patients=np.array([3.4, 170]),
)


def test_a_curve_shows_the_means_and_a_band_of_one_standard_deviation():
    ax = LabelEfficiencyDisplay({"one": CURVE}).plot().ax_
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), [[0.01, 0.6], [0.5, 0.8]])
    (band,) = ax.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.round(6).tolist()}
    assert corners == {(0.01, 0.5), (0.01, 0.7), (0.5, 0.8)}


def test_all_labels_have_no_band_rather_than_one_of_no_width():
    whole = CURVE | {"fractions": np.array([0.01, 0.5, 1]), "mean": np.array([0.6, 0.8, 0.9])}
    whole |= {"std": np.array([0.1, 0.1, 0]), "n_patients": np.array([3, 170, 340])}
    (band,) = LabelEfficiencyDisplay({"one": Bunch(**whole)}).plot().ax_.collections
    assert band.get_paths()[0].vertices[:, 0].max() == 0.5


def test_ticks_show_the_share_and_the_number_of_patients():
    ax = LabelEfficiencyDisplay({"one": CURVE}).plot().ax_
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["1 %\n3", "50 %\n170"]


@pytest.mark.parametrize("state", [0, np.random.RandomState(0)])
def test_all_embeddings_use_the_same_draws_of_patients(study, state):
    task, options = (study.labels, study.patients), {**study.parts, "draws": 2}
    curves = LabelEfficiencyDisplay.from_features(
        {"one": study.Z, "other": study.other, "again": study.Z},
        *task,
        random_state=state,
        **options,
    ).curves
    np.testing.assert_array_equal(curves["one"].scores, curves["again"].scores)
    if state == 0:
        alone = label_efficiency(study.other, *task, random_state=0, **options)
        np.testing.assert_array_equal(curves["other"].scores, alone.scores)
