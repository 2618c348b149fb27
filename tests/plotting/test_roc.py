import numpy as np
from sklearn.utils import Bunch

from otcxr_sk.evaluation import probe_roc
from otcxr_sk.plotting import ProbeDisplay

CURVES = {
    "one": Bunch(fpr=np.array([0, 0.5, 1]), tpr=np.array([0, 1, 1]), auc=0.75),
    "chance": Bunch(fpr=np.array([0, 1]), tpr=np.array([0, 1]), auc=0.5),
}


def test_each_embedding_is_a_curve_with_its_area_in_the_legend():
    ax = ProbeDisplay(CURVES).plot().ax_
    _, *lines = ax.lines
    for line, curve in zip(lines, CURVES.values(), strict=True):
        np.testing.assert_array_equal(line.get_xydata(), np.stack([curve.fpr, curve.tpr], axis=1))
    texts = [text.get_text() for text in ax.get_legend().get_texts()]
    assert texts == ["one, AUC 0.750", "chance, AUC 0.500"]


def test_from_features_probes_and_draws_on_given_axes(study):
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    task, options = (study.classes, study.patients), {**study.parts, "probe": "knn"}
    display = ProbeDisplay.from_features({"Z": study.Z}, *task, ax=ax, **options)
    assert display.ax_ is ax
    expected = probe_roc(study.Z, *task, **options)
    np.testing.assert_array_equal(display.curves["Z"].tpr, expected.tpr)
