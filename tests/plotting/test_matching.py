import numpy as np
from sklearn.utils import Bunch

from otcxr_sk.plotting import MatchingDisplay


def matching(plan):
    """Two equal views of one whole image, with 2 x 2 tokens."""
    identity = np.array([[1.0, 0, 0], [0, 1.0, 0]])
    return Bunch(
        views=np.random.default_rng(0).normal(size=(1, 2, 8, 8)),
        affine=np.stack([identity, identity])[None],
        plan=plan[None],
        grid=(2, 2),
        accuracy=1.0,
        chance=0.25,
    )


def test_each_framed_token_has_its_mass_and_its_true_place_in_the_other_view():
    figure = MatchingDisplay(matching(np.eye(4) / 4)).plot().figure_
    left, right = figure.axes
    framed = {patch.get_xy(): patch.get_edgecolor() for patch in left.patches}
    filled = {patch.get_xy(): patch.get_facecolor() for patch in right.patches}
    assert len(framed) == 4
    assert {xy: color[:3] for xy, color in framed.items()} == {
        xy: color[:3] for xy, color in filled.items()
    }
    marks = {tuple(np.ravel(line.get_data())) for line in right.lines}
    assert marks == {(0.25, 0.25), (0.25, 0.75), (0.75, 0.25), (0.75, 0.75)}


def test_the_title_gives_accuracy_and_chance():
    figure = MatchingDisplay(matching(np.full((4, 4), 1 / 16))).plot().figure_
    assert figure.get_suptitle() == "matching accuracy 1.00 (chance 0.25)"


def test_a_token_has_one_color_that_of_the_framed_token_that_sends_it_the_most():
    plan = np.full((4, 4), 1 / 16)
    plan[2] = [0.19, 0.02, 0.02, 0.02]
    left, right = MatchingDisplay(matching(plan)).plot().figure_.axes
    framed = {patch.get_xy(): patch.get_edgecolor()[:3] for patch in left.patches}
    filled = {patch.get_xy(): patch.get_facecolor()[:3] for patch in right.patches}
    assert len(right.patches) == 4
    assert filled[0, 0] == framed[0, 0.5]
    assert framed[0, 0.5] not in [color for xy, color in filled.items() if xy != (0, 0)]
