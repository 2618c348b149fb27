"""Warnings point at the line of the user's code from which the library was called."""

import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from inspect import currentframe

import numpy as np
import pytest
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

from otcxr_sk import OTCXRPretrainer
from otcxr_sk._warning import warn_user
from otcxr_sk.estimators._inputs import check_images
from otcxr_sk.evaluation import KNNProbe, embedding_health, knn_probe


def function_of(module, body):
    """Return a function of one argument that another module defines."""
    defined = {"__name__": module, "warn_user": warn_user}
    exec(f"def function(argument):\n    {body}\n    return argument", defined)
    return defined["function"]


warn = function_of("otcxr_sk.images._read", "warn_user('low contrast')")


def at_the_line_above(caught):
    (warning,) = caught
    return (warning.filename, warning.lineno) == (__file__, currentframe().f_back.f_lineno - 1)


def test_a_warning_points_at_the_call_of_the_library():
    with pytest.warns(UserWarning, match="low contrast") as caught:
        warn(None)
    assert at_the_line_above(caught)


@pytest.mark.parametrize(
    "module", ["otcxr_sk", "otcxr_sk.estimators._fit", "sklearn.pipeline", "joblib", "contextlib"]
)
def test_calls_within_libraries_are_passed_over(module):
    between = function_of(module, "argument(None)")
    with pytest.warns(UserWarning, match="low contrast") as caught:
        function_of(module, "argument[0](argument[1])")((between, warn))
    assert at_the_line_above(caught)


def test_scikit_learn_is_passed_over():
    pipeline = make_pipeline(FunctionTransformer(), FunctionTransformer(warn))
    with pytest.warns(UserWarning, match="low contrast") as caught:
        pipeline.fit_transform(np.zeros((2, 1)))
    assert at_the_line_above(caught)


def test_of_several_lines_of_the_user_it_is_the_nearest():
    def callback(_):
        warn(None)

    line = callback.__code__.co_firstlineno + 1
    with pytest.warns(UserWarning, match="low contrast") as caught:
        function_of("otcxr_sk.training._trainer", "argument(None)")(callback)
    (warning,) = caught
    assert (warning.filename, warning.lineno) == (__file__, line)


@pytest.mark.parametrize("module", ["sklearn_extra.pipeline", "my_package.sklearn", "__main__"])
def test_a_module_whose_name_is_only_similar_is_the_user_s(module):
    users = function_of(module, "argument(None)")
    with pytest.warns(UserWarning, match="low contrast") as caught:
        users(warn)
    (warning,) = caught
    assert (warning.filename, warning.lineno) == ("<string>", 2)


def test_the_category_is_kept():
    warn_of_future = function_of("otcxr_sk", "warn_user('soon', FutureWarning)")
    with pytest.warns(FutureWarning, match="soon"):
        warn_of_future(None)


def test_threads_leave_the_filters_as_they_were():
    rows = np.random.default_rng(0).random((16, 9))
    y, groups, parts = np.arange(16) % 2, np.arange(16), (np.arange(8), np.arange(8, 16))

    def work(_):
        for X in (rows, rows.reshape(16, 3, 3)):
            check_images(X, OTCXRPretrainer(), image_shape=None, fitting=True)
        knn_probe(rows, y, groups, train=parts[0], test=parts[1])
        embedding_health(rows)
        KNNProbe(rows, y)

    work(0)
    before, interval = list(warnings.filters), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(50)))
    finally:
        sys.setswitchinterval(interval)
    assert warnings.filters == before
