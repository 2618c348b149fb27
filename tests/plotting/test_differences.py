from dataclasses import replace

import numpy as np
import pytest

from otcxr_sk.evaluation import compare
from otcxr_sk.plotting import ComparisonDisplay

OPTIONS = {"reference": "other", "fractions": (0.1, 1.0), "draws": 2, "random_state": 0}


@pytest.fixture(scope="module")
def comparison(study):
    features = {"other": study.other, "one": study.Z}
    return compare(features, study.classes, study.patients, **study.parts, **OPTIONS)


def test_each_difference_is_a_point_in_the_row_of_its_interval(comparison):
    ax = ComparisonDisplay(comparison).plot().ax_
    _, *points = ax.lines
    assert len(points) == len(ax.collections) == len(comparison.fractions)
    for j, (point, bars) in enumerate(zip(points, ax.collections, strict=True)):
        low, high = np.array(bars.get_segments()).transpose(1, 2, 0)
        np.testing.assert_array_equal(point.get_xdata(), comparison.difference[:, j])
        np.testing.assert_array_equal(low, [comparison.low[:, j], point.get_ydata()])
        np.testing.assert_array_equal(high, [comparison.high[:, j], point.get_ydata()])


def test_an_interval_that_does_not_contain_its_difference_can_be_drawn(comparison):
    skewed = replace(comparison, low=comparison.difference + 0.01)
    ComparisonDisplay(skewed).plot()


def test_names_are_on_the_left_from_top_to_bottom_and_scores_on_the_right(comparison):
    ax = ComparisonDisplay(comparison).plot().ax_
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["other", "one"]
    assert ax.yaxis_inverted()
    *scores, head = (text.get_text() for text in ax.texts)
    assert scores == [f"{score:.3f}" for score in comparison.score.T.ravel()]
    assert head == "AUC"


def test_labels_and_legend_say_what_is_compared(comparison):
    ax = ComparisonDisplay(comparison).plot().ax_
    assert ax.get_xlabel() == "difference in AUC from other (95 % interval)"
    shares = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shares == ["10 % of labels", "100 % of labels"]


def test_from_features_compares_and_draws_on_given_axes(study, comparison):
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    display = ComparisonDisplay.from_features(
        {"other": study.other, "one": study.Z},
        study.classes,
        study.patients,
        ax=ax,
        **study.parts,
        **OPTIONS,
    )
    assert display.ax_ is ax
    assert display.figure_ is ax.figure
    assert display.comparison.rows() == comparison.rows()
