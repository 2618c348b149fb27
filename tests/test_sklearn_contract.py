"""scikit-learn's own checks, none of them excused."""

import pytest
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import estimator_checks_generator, parametrize_with_checks

from otcxr_sk import OTCXRPretrainer

TINY = OTCXRPretrainer("test_resnet", image_size=32, epochs=1, batch_size=8)

# scikit-learn runs these on its own estimators, but not in `parametrize_with_checks`.
UNLISTED = [
    "check_dataframe_column_names_consistency",
    "check_estimators_partial_fit_n_features",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
]


# The checks mix arrays and frames on purpose.
@pytest.mark.filterwarnings("ignore:X (does not have|has) .*feature names")
@parametrize_with_checks([TINY])
def test_check(estimator, check):
    check(estimator)


# The checks mix arrays and frames on purpose.
@pytest.mark.filterwarnings("ignore:X (has|does not have valid) feature names:UserWarning")
@pytest.mark.filterwarnings("ignore:X (does not have|has) .*feature names")
@pytest.mark.parametrize("name", UNLISTED)
def test_unlisted_check(name):
    getattr(estimator_checks, name)("OTCXRPretrainer", TINY)


def test_the_checks_are_not_switched_off_by_a_tag():
    assert TINY.__sklearn_tags__().input_tags.two_d_array
    assert len(list(estimator_checks_generator(TINY))) >= 45
