import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from otcxr_sk.training import EarlyStopping

numbers = st.lists(
    st.one_of(st.integers(-3, 3).map(float), st.floats(), st.just(math.nan)), max_size=12
)


def simulate(values, patience, higher):
    """Apply the rule epoch by epoch; return the best epoch and whether training stops."""
    best, best_epoch, waited = None, None, 0
    for epoch, value in enumerate(values, 1):
        if math.isnan(value):
            continue
        if best is None or (value > best if higher else value < best):
            best, best_epoch, waited = value, epoch, 0
        else:
            waited += 1
    return best_epoch, best is not None and waited >= patience


@given(values=numbers, patience=st.integers(1, 5), mode=st.sampled_from(["min", "max"]))
def test_the_best_epoch_and_the_end_follow_from_the_history(values, patience, mode):
    stopping = EarlyStopping("number", patience=patience, mode=mode)
    history = {"number": values, "other": values}
    best_epoch, over = simulate(values, patience, mode == "max")
    assert stopping.best_epoch(history) == best_epoch
    assert stopping.is_over(history) == over


@given(values=numbers, patience=st.integers(1, 5))
def test_more_patience_never_ends_sooner(values, patience):
    less, more = (EarlyStopping("loss", patience=p) for p in (patience, patience + 1))
    assert less.is_over({"loss": values}) >= more.is_over({"loss": values})


@pytest.mark.parametrize(
    ("monitor", "best"),
    [
        ("validation_loss", 1),
        ("loss", 1),
        ("transport", 1),
        ("effective_rank", 2),
        ("matching_accuracy", 2),
        ("spread", 2),
        ("knn_probe", 2),
    ],
)
def test_whether_higher_is_better_is_known_for_the_usual_numbers(monitor, best):
    assert EarlyStopping(monitor).best_epoch({monitor: [1.0, 2.0]}) == best


def test_the_first_of_equal_epochs_is_best():
    assert EarlyStopping("loss").best_epoch({"loss": [2.0, 1.0, 1.0]}) == 2


def test_a_run_without_epochs_does_not_stop():
    assert EarlyStopping().best_epoch({}) is None
    assert not EarlyStopping().is_over({})


def test_the_error_for_a_missing_number_names_those_that_there_are():
    with pytest.raises(ValueError, match="watches 'probe', which is not in the history, only loss"):
        EarlyStopping("probe").is_over({"loss": [1.0]})


@pytest.mark.parametrize(
    ("parameters", "error", "words"),
    [
        ({"patience": 0}, ValueError, "patience must be at least 1"),
        ({"patience": 2.5}, TypeError, "patience must be a number of epochs"),
        ({"patience": True}, TypeError, "patience must be a number of epochs"),
        ({"mode": "best"}, ValueError, "mode must be 'min', 'max' or None"),
    ],
)
def test_wrong_parameters_are_named(parameters, error, words):
    with pytest.raises(error, match=words):
        EarlyStopping(**parameters)
