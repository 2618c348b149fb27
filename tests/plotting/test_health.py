import numpy as np

from otcxr_sk.evaluation import embedding_health
from otcxr_sk.plotting import EmbeddingHealthDisplay

SQUARE = np.array([[1.0, 1], [1, -1], [-1, 1], [-1, -1]])


def test_a_line_is_the_spectrum_and_a_dot_marks_the_effective_rank():
    spectrum, dot = EmbeddingHealthDisplay.from_features({"square": SQUARE}).ax_.lines
    np.testing.assert_allclose(spectrum.get_xydata(), [[1, 0.5], [2, 0.5]])
    np.testing.assert_allclose(dot.get_xydata(), [[2, 0.5]])


def test_rounding_errors_are_not_drawn():
    flat = np.hstack([SQUARE, 1e-9 * SQUARE])
    assert len(EmbeddingHealthDisplay.from_features({"flat": flat}).ax_.lines[0].get_xdata()) == 2


def test_a_collapsed_embedding_is_in_the_legend_without_a_line():
    ax = EmbeddingHealthDisplay({"same": embedding_health(np.ones((4, 3)))}).plot().ax_
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["same, rank 0.0"]
    assert sum(len(line.get_xdata()) for line in ax.lines) == 0
