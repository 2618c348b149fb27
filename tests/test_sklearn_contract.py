"""scikit-learn's own checks, none of them excused."""

import pytest
from sklearn.base import clone
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from otcxr_sk import Objective, Optimizer, OTCXRClassifier, OTCXRPretrainer, Views

TINY = OTCXRPretrainer("test_resnet", image_size=32, epochs=1, batch_size=8)
WITH_GROUPS = clone(TINY).set_params(
    optimizer=Optimizer("lars"), views=Views(erase=0.2), objective=Objective(alpha=2.0)
)

# scikit-learn runs these on its own estimators, but not in `parametrize_with_checks`.
UNLISTED = [
    "check_estimators_partial_fit_n_features",
    "check_set_output_transform",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    *(
        pytest.param(name, marks=pytest.mark.slow)
        for name in (
            "check_dataframe_column_names_consistency",
            "check_global_output_transform_pandas",
            "check_global_set_output_transform_polars",
            "check_set_output_transform_pandas",
            "check_set_output_transform_polars",
        )
    ),
]

ABOUT_PARAMETERS = [
    "check_dict_unchanged",
    "check_estimator_cloneable",
    "check_estimator_repr",
    "check_estimators_overwrite_params",
    "check_estimators_pickle",
    "check_get_params_invariance",
    "check_no_attributes_set_in_init",
    "check_set_params",
]

# The checks mix arrays and frames on purpose, and their tables are no images.
pytestmark = [
    pytest.mark.filterwarnings("ignore:X (does not have|has) .*feature names"),
    pytest.mark.filterwarnings("ignore:X of shape .* is taken as"),
]


@parametrize_with_checks([TINY])
def test_check(estimator, check):
    check(estimator)


@pytest.mark.slow
@parametrize_with_checks([OTCXRClassifier(clone(TINY).set_params(epochs=0), epochs=2)])
def test_check_of_a_classifier(estimator, check):
    check(estimator)


@pytest.mark.parametrize("name", UNLISTED)
def test_unlisted_check(name):
    getattr(estimator_checks, name)("OTCXRPretrainer", TINY)


@pytest.mark.parametrize("name", ABOUT_PARAMETERS)
def test_check_with_groups(name):
    getattr(estimator_checks, name)("OTCXRPretrainer", clone(WITH_GROUPS))


def test_the_checks_are_not_switched_off_by_a_tag():
    assert TINY.__sklearn_tags__().input_tags.two_d_array
    assert len(list(estimator_checks_generator(TINY))) >= 45
