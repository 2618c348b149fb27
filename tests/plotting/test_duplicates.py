import numpy as np
import pytest

from otcxr_sk.datasets import find_near_duplicates, make_chest_phantoms
from otcxr_sk.plotting import NearDuplicatesDisplay


@pytest.fixture(scope="module")
def images():
    phantoms = make_chest_phantoms(5, image_size=64, return_masks=False, random_state=0).images
    return np.concatenate([phantoms, phantoms[:3]])


@pytest.fixture(scope="module")
def found(images):
    return find_near_duplicates(images, np.arange(13) % 10, split=["train"] * 10 + ["test"] * 3)


def test_a_pair_is_two_images_side_by_side(images, found):
    figure = NearDuplicatesDisplay(found).plot().figure_
    assert len(figure.axes) == 2 * len(found) == 6
    shown = [ax.images[0].get_array() for ax in figure.axes]
    for first, second in zip(shown[::2], shown[1::2], strict=True):
        np.testing.assert_array_equal(first, second)


def test_titles_give_row_patient_and_part_of_the_split(found):
    figure = NearDuplicatesDisplay(found).plot().figure_
    titles = [ax.get_title() for ax in figure.axes]
    assert titles[:2] == ["row 0\npatient 0\ntrain", "row 10\npatient 0\ntest"]
    assert [cell.get_suptitle() for cell in figure.subfigs[:3]] == ["identical"] * 3


def test_similar_images_show_how_many_bits_differ(images):
    darker = (images[:1] * 0.8).astype(np.uint8)
    found = find_near_duplicates(np.concatenate([images[:10], darker]))
    figure = NearDuplicatesDisplay(found).plot().figure_
    assert figure.subfigs[0].get_suptitle() == f"hashes differ in {found.distance[0]} bits"


def test_most_limits_the_pairs_and_columns_sets_the_layout(found):
    assert len(NearDuplicatesDisplay(found).plot(most=1).figure_.axes) == 2
    wide = NearDuplicatesDisplay(found).plot(columns=3).figure_
    assert wide.get_figwidth() > 2 * wide.get_figheight()


def test_from_source_finds_and_draws_pairs(images, found):
    display = NearDuplicatesDisplay.from_source(images, threshold=4)
    assert display.duplicates.pairs.tolist() == found.pairs.tolist()
    assert len(display.figure_.axes) == 6


def test_drawing_no_pairs_is_an_error(images):
    with pytest.raises(ValueError, match="no pairs to draw"):
        NearDuplicatesDisplay.from_source(images[:10])
