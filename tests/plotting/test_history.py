import numpy as np
import pytest
from sklearn.exceptions import NotFittedError

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.plotting import HistoryDisplay

LONG = {
    "loss": [3.0, 2.0, 1.0],
    "matching_accuracy": [0.1, 0.2, 0.3],
    "matching_chance": [0.1, 0.1, 0.1],
}
SHORT = {"loss": [4.0], "validation_loss": [5.0], "spread": [0.5], "knn_auc": [0.7]}


def titles(display):
    return [ax.get_title() for ax in display.figure_.axes]


def test_a_panel_shows_a_column_by_epoch():
    figure = HistoryDisplay({"long": LONG}).plot().figure_
    (line,) = figure.axes[0].lines
    np.testing.assert_array_equal(line.get_xydata(), [[1, 3], [2, 2], [3, 1]])


def test_there_is_a_panel_for_each_column_that_a_run_has():
    assert titles(HistoryDisplay({"long": LONG}).plot()) == [
        "loss",
        "matching accuracy (dashed: chance)",
    ]
    both = HistoryDisplay({"long": LONG, "short": SHORT}).plot()
    assert titles(both) == [
        "loss",
        "held-out loss",
        "matching accuracy (dashed: chance)",
        "spread of embeddings",
    ]


def test_several_runs_have_a_color_each_and_are_named_once():
    figure = HistoryDisplay({"long": LONG, "short": SHORT}).plot().figure_
    loss, held_out = figure.axes[:2]
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["long", "short"]
    assert loss.lines[0].get_color() != loss.lines[1].get_color() == held_out.lines[0].get_color()


def test_chance_is_dashed_in_the_color_of_its_run():
    accuracy, chance = HistoryDisplay({"long": LONG}).plot().figure_.axes[1].lines
    assert (accuracy.get_linestyle(), chance.get_linestyle()) == ("-", "--")
    assert accuracy.get_color() == chance.get_color()
    np.testing.assert_array_equal(chance.get_ydata(), LONG["matching_chance"])


def test_fitted_estimators_are_drawn_alone_or_by_name():
    X = np.random.default_rng(0).uniform(size=(8, 32, 32))
    encoder = OTCXRPretrainer("test_resnet", image_size=32, epochs=0, random_state=0).fit(X)
    with pytest.raises(ValueError, match="no epochs to draw"):
        HistoryDisplay.from_estimator(encoder)
    encoder.history_ = LONG
    alone = HistoryDisplay.from_estimator(encoder)
    assert titles(alone)[0] == "loss"
    assert not alone.figure_.legends
    assert list(HistoryDisplay.from_estimator({"a": encoder, "b": encoder}).histories) == ["a", "b"]
    with pytest.raises(NotFittedError):
        HistoryDisplay.from_estimator(OTCXRPretrainer())


def test_a_run_without_epochs_is_an_error():
    with pytest.raises(ValueError, match="no epochs to draw"):
        HistoryDisplay({"none": {}, "empty": {"loss": []}}).plot()
