from base64 import b64decode
from io import BytesIO

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from otcxr_sk.plotting import EmbeddingDisplay, EmbeddingHealthDisplay, LabelEfficiencyDisplay

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
    legend = DISPLAYS[name](figure.add_subplot()).ax_.get_legend()
    # With equal axes, matplotlib's constrained layout settles in the second pass.
    for _ in range(2):
        figure.draw_without_rendering()
    box, page = legend.get_window_extent(), figure.bbox
    assert page.x0 <= box.x0
    assert box.x1 <= page.x1
    assert page.y0 <= box.y0
    assert box.y1 <= page.y1


def test_a_notebook_shows_what_was_drawn():
    display = DISPLAYS["health"](None)
    _, encoded = display._repr_html_().split("base64,")
    width, height = Image.open(BytesIO(b64decode(encoded.removesuffix('">')))).size
    assert (width, height) == tuple(display.figure_.get_size_inches() * display.figure_.dpi)


def test_a_display_that_is_not_drawn_shows_nothing_in_a_notebook():
    assert EmbeddingHealthDisplay({})._repr_html_() is None
