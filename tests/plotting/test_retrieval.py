import numpy as np
import pytest
from sklearn.neighbors import NearestNeighbors

from otcxr_sk.plotting import RetrievalDisplay

RANDOM = np.random.default_rng(0)
Z = RANDOM.normal(size=(20, 4))
IMAGES = RANDOM.uniform(size=(20, 16, 16))
PATIENTS = np.repeat(np.arange(5), 4)


def test_neighbors_are_those_of_scikit_learn():
    display = RetrievalDisplay.from_features(Z, IMAGES, [3, 7], k=4)
    model = NearestNeighbors(n_neighbors=5, metric="cosine").fit(Z)
    distance, rows = model.kneighbors(Z[[3, 7]])
    np.testing.assert_array_equal(display.neighbors, rows[:, 1:])
    np.testing.assert_allclose(display.similarity, 1 - distance[:, 1:])


def test_no_neighbor_is_of_the_querys_patient():
    # All images of a patient are the same, so that they would come first.
    same = RANDOM.normal(size=(5, 4))[PATIENTS]
    display = RetrievalDisplay.from_features(same, IMAGES, [0, 19], groups=PATIENTS, k=16)
    assert (PATIENTS[display.neighbors] != PATIENTS[display.queries][:, None]).all()


def test_a_row_is_the_query_and_its_neighbors_with_their_similarity():
    display = RetrievalDisplay.from_features(Z, IMAGES, [3], k=2)
    query, first, second = display.figure_.axes
    assert query.get_title() == "row 3"
    assert first.get_title() == f"row {display.neighbors[0, 0]}: {display.similarity[0, 0]:.3f}"
    assert len(second.images) == 1


def test_fewer_neighbors_than_asked_for_leave_places_empty():
    display = RetrievalDisplay.from_features(Z[:3], IMAGES[:3], [0], groups=["a", "a", "b"], k=5)
    assert display.neighbors.tolist() == [[2, -1, -1]]
    assert [len(ax.images) for ax in display.figure_.axes] == [1, 1, 0, 0]


def test_an_image_without_an_embedding_is_nobodys_neighbor():
    broken = Z.copy()
    broken[5] = np.nan
    display = RetrievalDisplay.from_features(broken, IMAGES, [3], k=19)
    assert 5 not in display.neighbors
    with pytest.raises(ValueError, match="not finite in row 5, which is a query"):
        RetrievalDisplay.from_features(broken, IMAGES, [3, 5])


@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        ([20], {}, "rows from 0 to 19"),
        ([-1], {}, "rows from 0 to 19"),
        ([], {}, "list of rows"),
        (3, {}, "list of rows"),
        ([True], {}, "list of rows"),
        ([0], {"k": 0}, "k == 0"),
        ([0], {"groups": [1, 2]}, "groups has 2 rows"),
    ],
)
def test_bad_input_is_refused(queries, options, message):
    with pytest.raises(ValueError, match=message):
        RetrievalDisplay.from_features(Z, IMAGES, queries, **options)


def test_lengths_have_to_agree():
    with pytest.raises(ValueError, match="Z has 20 rows for 3 images"):
        RetrievalDisplay.from_features(Z, IMAGES[:3], [0])
