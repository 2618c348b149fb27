import sys
from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from sklearn.utils import Bunch

from otcxr_sk import plotting
from otcxr_sk.plotting import (
    ComparisonDisplay,
    EmbeddingDisplay,
    EmbeddingHealthDisplay,
    HistoryDisplay,
    LabelEfficiencyDisplay,
    ProbeDisplay,
)

Z = np.random.default_rng(0).normal(size=(40, 5))
DISPLAYS = {
    "health": lambda ax: EmbeddingHealthDisplay.from_features({"a long name": Z}, ax=ax),
    "embedding": lambda ax: EmbeddingDisplay.from_features(Z, y=["a long name"] * 40, ax=ax),
    "curves": lambda ax: LabelEfficiencyDisplay.from_features(
        {"a long name": Z},
        np.arange(40) % 2,
        np.arange(40),
        train=range(20),
        test=range(20, 40),
        draws=2,
        random_state=0,
        ax=ax,
    ),
}


@pytest.mark.parametrize("layout", [None, "constrained"])
@pytest.mark.parametrize("name", DISPLAYS)
def test_a_legend_lies_within_the_figure_whose_axes_were_given(name, layout):
    figure = Figure(figsize=(4, 3), layout=layout)
    display = DISPLAYS[name](figure.add_subplot())
    assert display.ax_ is figure.axes[0]
    assert display.figure_ is figure
    legend = display.ax_.get_legend()
    # With equal axes, matplotlib's constrained layout settles in the second pass.
    for _ in range(2):
        figure.draw_without_rendering()
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0
    assert box.x1 <= page.x1
    assert page.y0 <= box.y0
    assert box.y1 <= page.y1


FORMULA = r"$\no formula$"
TASK = {"y": np.arange(40) % 2, "groups": np.arange(40), "train": range(20), "test": range(20, 40)}
NAMED = {
    "comparison": lambda: ComparisonDisplay.from_features(
        {FORMULA: Z}, **TASK, reference=FORMULA, fractions=[1.0], n_resamples=9
    ),
    "curves": lambda: LabelEfficiencyDisplay.from_features({FORMULA: Z}, **TASK, fractions=[1.0]),
    "embedding": lambda: EmbeddingDisplay.from_features(Z, y=[FORMULA, "other"] * 20),
    "health": lambda: EmbeddingHealthDisplay.from_features({FORMULA: Z}),
    "history": lambda: HistoryDisplay({FORMULA: {"loss": [1]}, "other": {"loss": [2]}}).plot(),
    "roc": lambda: ProbeDisplay.from_features({FORMULA: Z}, **TASK),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_name_is_shown_as_it_is_and_never_as_a_formula(name):
    figure = NAMED[name]().figure_
    figure.draw_without_rendering()
    shown = [text for text in figure.findobj(Text) if FORMULA in text.get_text()]
    assert shown
    assert not any(text.get_parse_math() for text in shown)


def test_a_notebook_shows_what_was_drawn():
    display = DISPLAYS["health"](None)
    _, encoded = display._repr_html_().split("base64,")
    width, height = Image.open(BytesIO(b64decode(encoded.removesuffix('">')))).size
    assert (width, height) == tuple(display.figure_.get_size_inches() * display.figure_.dpi)


def test_a_display_that_is_not_drawn_shows_nothing_in_a_notebook():
    assert EmbeddingHealthDisplay({})._repr_html_() is None


@pytest.mark.parametrize(
    "display", [ComparisonDisplay, EmbeddingHealthDisplay, LabelEfficiencyDisplay, ProbeDisplay]
)
def test_an_embedding_with_nan_costs_no_other_one(display, study):
    bad = study.Z.copy()
    bad[3] = np.nan
    task, options = (study.classes, study.patients), dict(study.parts)
    if display is EmbeddingHealthDisplay:
        task, options = (), {}
    elif display is not ProbeDisplay:
        options |= {"draws": 2, "random_state": 0}
    if display is ComparisonDisplay:
        options["reference"] = "other"
    features = {"bad": bad, "other": study.other, "one": study.Z}
    with pytest.warns(UserWarning, match="bad.*row 3 has NaN or infinity") as caught:
        drawn = display.from_features(features, *task, **options)
    assert caught[0].filename == __file__
    if display is ComparisonDisplay:
        assert np.isnan(drawn.comparison.score).all(axis=1).tolist() == [True, False, False]
    else:
        labels = [text.get_text() for text in drawn.ax_.get_legend().get_texts()]
        assert [label.split(",")[0] for label in labels] == ["other", "one"]
    drawn.figure_.draw_without_rendering()
    if display is not ComparisonDisplay:
        with pytest.raises(ValueError, match="row 3 has NaN"):
            display.from_features({"bad": bad, "worse": bad}, *task, **options)


# What suffices to begin to draw.
ONE = np.ones((1, 1, 1))
RESULTS = {
    "ComparisonDisplay": [Bunch(names=("one",), fractions=(1.0,))],
    "DenseDisplay": [ONE, ONE[..., None]],
    "EmbeddingDisplay": [np.ones((2, 2))],
    "EmbeddingHealthDisplay": [{}],
    "ExplanationDisplay": [Bunch(contributions=ONE, score=np.ones(1), classes=[0, 1]), ONE],
    "HistoryDisplay": [{"": {"loss": [1.0]}}],
    "LabelEfficiencyDisplay": [{}],
    "MatchingDisplay": [Bunch(views=ONE)],
    "NearDuplicatesDisplay": ["pair"],
    "ProbeDisplay": [{}],
    "RetrievalDisplay": [None, None, np.ones((1, 1)), None],
    "TransportDisplay": [Bunch(plan=ONE)],
}


@pytest.mark.parametrize("name", [name for name in plotting.__all__ if name.endswith("Display")])
def test_without_matplotlib_the_error_names_the_extra(monkeypatch, name):
    display = getattr(plotting, name)(*RESULTS[name])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"otcxr-sk\[plots\]"):
        display.plot()
