"""A group of parameters is to scikit-learn what a kernel is: set by name, cloned and printed."""

import pickle
from datetime import timedelta
from inspect import signature

import pytest
from sklearn.base import clone

from otcxr_sk import Cache, Checkpoint, Objective, Optimizer, Views

DEFAULTS = [Views(), Objective(), Optimizer(), Cache("folder"), Checkpoint("folder")]
CHANGED = [
    Views(crop_scale=(0.3, 0.9), erase=0.25),
    Objective(alpha=2.0, transport="direct"),
    Optimizer("lars", clip_norm=1.0),
    Cache("other folder", max_gb=2.0),
    Checkpoint("other folder", every=timedelta(minutes=5)),
]


def name(group):
    return type(group).__name__


each_pair = pytest.mark.parametrize(
    ("default", "changed"), list(zip(DEFAULTS, CHANGED, strict=True)), ids=map(name, DEFAULTS)
)
each = pytest.mark.parametrize("group", CHANGED, ids=name)


@each
def test_parameters_are_the_arguments_of_the_constructor(group):
    assert list(group.get_params()) == list(signature(type(group)).parameters)
    assert type(group)(**group.get_params()) == group


@each_pair
def test_a_group_that_is_given_the_parameters_of_another_equals_it(default, changed):
    group = clone(default)
    assert group == default != changed
    assert group.set_params(**changed.get_params()) is group
    assert group == changed


@each
def test_a_clone_or_a_pickled_copy_is_an_equal_but_other_object(group):
    for copy in (clone(group), pickle.loads(pickle.dumps(group))):
        assert copy == group
        assert copy is not group
        first = next(iter(copy.get_params()))
        assert copy.set_params(**{first: None}) != group


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (Views(), "Views()"),
        (Views(erase=0.25, crop_scale=(0.3, 0.9)), "Views(crop_scale=(0.3, 0.9), erase=0.25)"),
        (Views(erase=0.5).set_params(blur=1), "Views(blur=1)"),
        (Objective(transport="direct"), "Objective(transport='direct')"),
        (Optimizer(ema=0.99), "Optimizer(ema=0.99)"),
        (Cache("folder"), "Cache(folder='folder')"),
    ],
)
def test_the_repr_shows_what_differs_from_the_defaults(group, expected):
    assert repr(group) == expected


@pytest.mark.parametrize("group", [*DEFAULTS, *CHANGED[:4]], ids=repr)
def test_the_repr_makes_the_group_again(group):
    assert eval(repr(group)) == group


def test_an_unknown_parameter_is_refused_with_the_names_of_the_known():
    with pytest.raises(ValueError, match=r"Views has no parameter 'crop'; it has crop_scale, hor"):
        Views().set_params(crop=0.5)


def test_values_are_not_checked_before_fit():
    group = Views(erase="all").set_params(blur=-1)
    assert group.get_params().items() >= {"erase": "all", "blur": -1}.items()
