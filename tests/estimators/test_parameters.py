"""Parameters and groups of parameters, and how wrong values are refused."""

import copy
import html
import inspect
from datetime import timedelta

import numpy as np
import pytest
from sklearn import config_context
from sklearn.base import clone
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.utils._param_validation import InvalidParameterError, make_constraint

from otcxr_sk import LAPTOP, PAPER, Cache, Checkpoint, Objective, Optimizer, OTCXRPretrainer, Views
from otcxr_sk.estimators._parameters import _OF_GROUPS as CONSTRAINTS_OF_GROUPS
from otcxr_sk.estimators._parameters import CONSTRAINTS, GROUPS
from otcxr_sk.training import Callback

EVERY_GROUP = {
    "optimizer": Optimizer("lars", weight_decay=0.1),
    "views": Views(erase=0.2),
    "objective": Objective(alpha=3.0),
    "cache": Cache("images", max_gb=2.0),
    "checkpoint": Checkpoint("run", every=5),
}


@pytest.fixture
def grouped():
    return OTCXRPretrainer(**{name: clone(group) for name, group in EVERY_GROUP.items()})


def test_there_are_at_most_26_parameters():
    assert len(inspect.signature(OTCXRPretrainer).parameters) <= 26


def test_every_parameter_is_constrained():
    assert CONSTRAINTS.keys() == OTCXRPretrainer().get_params().keys()
    assert CONSTRAINTS_OF_GROUPS.keys() == GROUPS.keys() == EVERY_GROUP.keys()
    for name, group in EVERY_GROUP.items():
        assert CONSTRAINTS_OF_GROUPS[name].keys() == group.get_params().keys()


def test_the_laptop_settings_are_parameters_and_can_be_extended():
    assert OTCXRPretrainer(**LAPTOP).get_params().items() >= dict(LAPTOP).items()
    assert OTCXRPretrainer(**LAPTOP | {"epochs": 3}).epochs == 3
    assert OTCXRPretrainer(**{"epochs": 3} | LAPTOP).epochs == LAPTOP["epochs"] != 3
    with pytest.raises(TypeError):
        LAPTOP["epochs"] = 1


def test_the_loss_of_the_paper_goes_with_other_settings_and_cannot_be_changed():
    before = PAPER["objective"].get_params()
    estimator = OTCXRPretrainer(**{**LAPTOP, **PAPER}).set_params(objective__alpha=7.0)
    assert estimator.objective.get_params() == before | {"alpha": 7.0}
    assert PAPER["objective"].get_params() == before


def test_deep_parameters_include_those_of_groups(grouped):
    deep = grouped.get_params(deep=True)
    for name, group in EVERY_GROUP.items():
        assert deep[name] is getattr(grouped, name)
        for key, value in group.get_params().items():
            assert deep[f"{name}__{key}"] == value
    assert not [name for name in grouped.get_params(deep=False) if "__" in name]


@pytest.mark.parametrize(
    ("given", "name", "value", "expected"),
    [
        ({}, "views__erase", 0.2, Views(erase=0.2)),
        ({}, "objective__alpha", 3.0, Objective(alpha=3.0)),
        ({}, "optimizer__ema", 0.9, Optimizer("adamw", ema=0.9)),
        ({"views": Views(blur=3.0)}, "views__erase", 0.2, Views(blur=3.0, erase=0.2)),
        ({"optimizer": "lars"}, "optimizer__ema", 0.9, Optimizer("lars", ema=0.9)),
        ({"optimizer": "lars"}, "optimizer__name", "adamw", Optimizer("adamw")),
        ({"cache": "folder"}, "cache__max_gb", 1.0, Cache("folder", max_gb=1.0)),
        ({"checkpoint": "folder"}, "checkpoint__every", 2, Checkpoint("folder", every=2)),
    ],
    ids=str,
)
def test_a_parameter_of_a_group_is_set_by_name(given, name, value, expected):
    estimator = OTCXRPretrainer(**given)
    assert estimator.set_params(**{name: value}) is estimator
    assert getattr(estimator, name.partition("__")[0]) == expected
    assert estimator.get_params()[name] == value


def test_a_group_and_its_parameters_can_be_set_at_once():
    for order in (1, -1):
        given = [("views__erase", 0.2), ("views", Views(blur=3.0)), ("epochs", 7)][::order]
        estimator = OTCXRPretrainer(views=Views(contrast=0.1)).set_params(**dict(given))
        assert estimator.views == Views(blur=3.0, erase=0.2)
        assert estimator.epochs == 7


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("cache__max_gb", r"cache is None .*set cache=Cache\(\.\.\.\)"),
        ("checkpoint__every", r"checkpoint is None .*set checkpoint=Checkpoint\(\.\.\.\)"),
        ("views__rotate", "Views has no parameter 'rotate'; it has crop_scale, .*, blur"),
        ("optimizer__momentum", "Optimizer has no parameter 'momentum'"),
        ("view__erase", "Invalid parameter 'view' for estimator OTCXRPretrainer"),
    ],
)
def test_a_parameter_that_does_not_exist_cannot_be_set(name, words):
    with pytest.raises(ValueError, match=words):
        OTCXRPretrainer().set_params(**{name: 1})


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("views", r"views is 'crop' and has no parameters; set views=Views\(\.\.\.\)"),
        ("objective", "objective is 'crop' and has no parameters; set objective=Objective"),
    ],
)
def test_a_wrong_value_is_not_turned_into_a_group(name, words):
    estimator = OTCXRPretrainer(**{name: "crop"})
    with pytest.raises(ValueError, match=words):
        estimator.set_params(**{f"{name}__erase": 0.2})
    assert getattr(estimator, name) == "crop"


def test_a_clone_has_equal_groups_of_its_own(grouped):
    first, second = clone(grouped), clone(grouped)
    for name, group in EVERY_GROUP.items():
        copies = [getattr(each, name) for each in (grouped, first, second)]
        assert copies == [group] * 3
        assert len(set(map(id, copies))) == 3
    first.set_params(views__erase=0.7)
    assert second.views.erase == grouped.views.erase == 0.2


def test_the_repr_shows_groups_without_their_defaults():
    assert repr(OTCXRPretrainer(views=Views(erase=0.2))) == (
        "OTCXRPretrainer(views=Views(erase=0.2))"
    )
    assert repr(OTCXRPretrainer(views=Views(), cache=Cache("folder"))) == (
        "OTCXRPretrainer(cache=Cache(folder='folder'), views=Views())"
    )
    estimator = OTCXRPretrainer(**EVERY_GROUP)
    with config_context(print_changed_only=False):
        every = repr(estimator)
    for shown in (repr(estimator), every, html.unescape(estimator._repr_html_())):
        # Lines are broken anywhere.
        words = "".join(shown.split())
        for group in EVERY_GROUP.values():
            assert "".join(repr(group).split()) in words


def test_a_search_over_parameters_of_groups(tiny, X):
    patients = np.arange(len(X)) // 2
    grid = {"views__erase": [0.0, 0.4], "objective__alpha": [1.0, 2.0]}
    search = GridSearchCV(tiny(), grid, cv=GroupKFold(2)).fit(X, groups=patients)
    assert len(search.cv_results_["params"]) == 4
    assert len(set(search.cv_results_["mean_test_score"])) == 4
    best = search.best_estimator_
    assert search.best_params_ == {
        "views__erase": best.views.erase,
        "objective__alpha": best.objective.alpha,
    }
    np.testing.assert_array_equal(tiny(**search.best_params_).fit(X).weights_, best.weights_)


@pytest.mark.slow
def test_a_search_over_whole_groups(tiny, X):
    grid = {"optimizer": ["adamw", Optimizer("lars")], "views": [None, Views(erase=0.0)]}
    search = GridSearchCV(tiny(), grid, cv=2, refit=False).fit(X)
    assert len(set(search.cv_results_["mean_test_score"])) == 4


def test_fit_changes_no_group(tiny, X):
    groups = {"views": Views(), "objective": Objective(), "optimizer": Optimizer()}
    estimator = tiny(**groups).fit(X)
    for name, group in groups.items():
        assert getattr(estimator, name) is group
        assert group == type(group)()


def _wrong_values(constraints):
    """Yield a value of another type, and values just outside the intervals."""
    yield object()
    for given in constraints:
        constraint = make_constraint(given)
        low, high = getattr(constraint, "left", None), getattr(constraint, "right", None)
        if low is not None:
            yield low if constraint.closed in ("neither", "right") else low - 1
            yield type(low)(low) - 1
        if high is not None:
            yield high if constraint.closed in ("neither", "left") else high + 1
            yield high + 1
        if hasattr(constraint, "options") and all(isinstance(o, str) for o in constraint.options):
            yield "nonsense"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name}-{number}")
        for name, constraints in CONSTRAINTS.items()
        for number, value in enumerate(_wrong_values(constraints))
    ],
)
def test_a_wrong_parameter_is_named(name, value, tiny, X):
    with pytest.raises(InvalidParameterError, match=f"'{name}' parameter of OTCXRPretrainer"):
        tiny().set_params(**{name: value}).fit(X)


@pytest.mark.parametrize(
    ("group", "name", "value"),
    [
        pytest.param(group, name, value, id=f"{group}__{name}-{number}")
        for group, of_group in CONSTRAINTS_OF_GROUPS.items()
        for name, constraints in of_group.items()
        for number, value in enumerate(_wrong_values(constraints))
    ],
)
def test_a_wrong_parameter_of_a_group_is_named(group, name, value, tiny, X, tmp_path):
    estimator = tiny(cache=tmp_path / "images", checkpoint=tmp_path / "run")
    estimator.set_params(**{f"{group}__{name}": value})
    with pytest.raises(InvalidParameterError, match=f"'{name}' parameter of {group.title()} must"):
        estimator.fit(X)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"views": "crop"}, "'views' parameter of OTCXRPretrainer must be"),
        ({"objective": "direct"}, "'objective' parameter of OTCXRPretrainer must be"),
        ({"optimizer": "sgd"}, "'optimizer' parameter of OTCXRPretrainer must be.*'lars'"),
        ({"views": Views(erase=2)}, "'erase' parameter of Views"),
        ({"views": Objective()}, "'views' parameter of OTCXRPretrainer must be"),
        ({"cache": Cache(None)}, "'folder' parameter of Cache"),
    ],
    ids=str,
)
@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_wrong_group_is_accepted_by_init_and_refused_when_training(
    method, parameters, words, tiny, X
):
    estimator = clone(tiny(**parameters))
    with pytest.raises(InvalidParameterError, match=words):
        getattr(estimator, method)(X)


@pytest.mark.parametrize(
    "scale", [(0.5,), (0.5, 0.6, 0.7), (0, 1), (0.9, 0.5), (0.5, 1.1), ("a", 1)]
)
def test_a_wrong_crop_scale_is_named(scale, tiny, X):
    with pytest.raises(ValueError, match="crop_scale must be"):
        tiny(views__crop_scale=scale).fit(X)


@pytest.mark.parametrize("shape", [(32,), (32, 32, 1), (0, 32), (-32, -32), ("a", 32), (31.5, 32)])
def test_a_wrong_image_shape_is_named(shape, tiny, X):
    with pytest.raises(ValueError, match="image_shape"):
        tiny(image_shape=shape).fit(X.reshape(len(X), -1))


def test_a_loss_without_terms_is_refused(tiny, X):
    with pytest.raises(ValueError, match="all 0, so there is nothing to learn"):
        tiny(objective=Objective(alpha=0, beta=0, eta=0, global_weight=0)).fit(X)


@pytest.mark.parametrize("name", ["views", "objective"])
def test_a_subclass_of_a_group_that_the_fitted_estimator_keeps_is_refused(name, tiny, X):
    subclass = type("Louder", (type(EVERY_GROUP[name]),), {})
    with pytest.raises(TypeError, match=f"{name} must be .* itself, not of the subclass Louder"):
        tiny(**{name: subclass()}).fit(X)


@pytest.mark.parametrize(
    ("cache", "words"),
    [
        (5, "The 'cache' parameter of OTCXRPretrainer must be"),
        (Cache(None), "The 'folder' parameter of Cache must be"),
        (Cache("images", max_gb=-1.0), "The 'max_gb' parameter of Cache must be"),
        ("", "cache needs the name of a folder"),
    ],
)
def test_a_wrong_cache_is_refused_after_fit_too(cache, words, fitted, X):
    with pytest.raises(ValueError, match=words):
        copy.deepcopy(fitted).set_params(cache=cache).transform(X)


def test_an_unknown_precision_is_named_after_fit_too(fitted, X):
    with pytest.raises(ValueError, match=r"precision must be one of .*'bfloat16'.* got 'bf16'"):
        copy.deepcopy(fitted).set_params(precision="bf16").transform(X)


@pytest.mark.parametrize("batch_size", [0, -1, 2.5, "8", None])
@pytest.mark.parametrize("method", ["transform", "score"])
def test_a_wrong_batch_size_is_named_after_fit_too(method, batch_size, fitted, X):
    changed = copy.deepcopy(fitted).set_params(batch_size=batch_size)
    with pytest.raises(
        ValueError, match=f"batch_size must be 1 or more images, got {batch_size!r}"
    ):
        getattr(changed, method)(X)


def test_groups_changed_during_or_after_a_run_change_nothing_of_it(tiny, X):
    class Meddler(Callback):
        def on_epoch_end(self, state):
            state.estimator().set_params(views__erase=0.0, objective__alpha=0.0)
            given.views.set_params(erase=0.9)

    scale = [0.5, 1.0]
    given = tiny(views=Views(crop_scale=scale), objective=Objective(), epochs=2)
    plain = tiny(epochs=2).fit(X)
    given.set_params(callbacks=[Meddler()]).fit(X)
    assert given.objective == Objective()
    np.testing.assert_array_equal(given.weights_, plain.weights_)
    scale[0] = 0.05
    assert given.score(X) == plain.score(X)


def test_a_negative_time_between_checkpoints_is_refused(tiny, X, tmp_path):
    checkpoint = Checkpoint(tmp_path / "run", every=timedelta(seconds=-1))
    with pytest.raises(ValueError, match="every must not be a negative time"):
        tiny(checkpoint=checkpoint).fit(X)
    assert not (tmp_path / "run").exists()
