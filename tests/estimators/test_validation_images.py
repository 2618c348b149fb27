"""Images held out of training: no patient on both sides, and training as if they were not there."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from sklearn import config_context
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from otcxr_sk.estimators._fit import draw_seed, hold_out
from otcxr_sk.estimators._inputs import check_groups, numbered

PATIENTS = np.array([f"patient {number % 9}" for number in range(24)])


def rows_held_out(fraction, groups=PATIENTS):
    """Rows that a fit with random_state=0 holds out, and the others."""
    held_out = hold_out(
        numbered(check_groups(groups, len(PATIENTS)), len(PATIENTS)), fraction, draw_seed(0)
    )
    return held_out, np.setdiff1d(np.arange(len(PATIENTS)), held_out)


@given(
    groups=st.lists(st.text("abc", min_size=1, max_size=2), min_size=4, max_size=40),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
)
def test_no_patient_is_on_both_sides(groups, fraction, seed):
    patients = numbered(check_groups(groups, len(groups)), len(groups))
    try:
        held_out = hold_out(patients, fraction, seed)
    except ValueError as error:
        assume("validation_fraction" not in str(error))
        raise
    training = np.setdiff1d(np.arange(len(groups)), held_out)
    assert min(len(held_out), len(training)) >= 2
    assert not {groups[row] for row in held_out} & {groups[row] for row in training}
    np.testing.assert_array_equal(hold_out(patients, fraction, seed), held_out)


@given(n=st.integers(4, 60), fraction=st.floats(0.1, 0.9), seed=st.integers(0, 99))
def test_the_share_held_out_is_of_patients(n, fraction, seed):
    patients = np.repeat(np.arange(n), 3)
    expected = np.ceil(fraction * n)
    assume(expected < n)
    held_out = hold_out(patients, fraction, seed)
    assert len(np.unique(patients[held_out])) == expected


def test_nothing_is_held_out_unless_asked_for():
    assert len(hold_out(np.arange(9), 0.0, 0)) == 0


@pytest.mark.parametrize("groups", [PATIENTS, None], ids=["patients", "images"])
@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_training_is_that_of_the_other_images_alone(groups, num_workers, tiny, X):
    options = {"epochs": 3, "num_workers": num_workers}
    fitted = tiny(validation_fraction=0.3, **options).fit(X, groups=groups)
    held_out, training = rows_held_out(0.3, groups)
    alone = tiny(**options).fit(X[training])
    np.testing.assert_array_equal(fitted.weights_, alone.weights_)
    assert (fitted.mean_, fitted.std_) == (alone.mean_, alone.std_)
    losses, read = (fitted.history_.pop(f"validation_{name}") for name in ("loss", "read_out"))
    assert fitted.history_ == alone.history_
    assert len(losses) == len(read) == 3
    assert all(0 < error < 4 for error in read)
    assert -fitted.score(X[held_out]) == pytest.approx(losses[-1], rel=1e-5)


@pytest.fixture
def files(X, tmp_path):
    paths = []
    for number, pixels in enumerate(X):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray((255 * np.clip(pixels, 0, 1)).astype(np.uint8)).save(paths[-1])
    return paths


def test_unusable_images_are_left_out_on_their_side_and_named_by_row(files, tiny):
    held_out, training = rows_held_out(0.4)
    bad = sorted([int(held_out[1]), int(training[2])])
    for row in bad:
        files[row].write_bytes(b"broken")
    with pytest.raises(ValueError, match="2 of 24 images cannot be used"):
        tiny(validation_fraction=0.4).fit(files, groups=PATIENTS)
    fitted = tiny(validation_fraction=0.4, on_error="nan").fit(files, groups=PATIENTS)
    assert sorted(problem["row"] for problem in fitted.skipped_) == bad
    good = [files[row] for row in training if row not in bad]
    np.testing.assert_array_equal(fitted.weights_, tiny().fit(good).weights_)
    losses = fitted.history_["validation_loss"]
    rest = [files[row] for row in held_out if row not in bad]
    assert -fitted.score(rest) == pytest.approx(losses[-1], rel=1e-5)


def test_groups_can_be_routed_as_metadata(tiny, X):
    with config_context(enable_metadata_routing=True):
        encoder = tiny(validation_fraction=0.3).set_fit_request(groups=True)
        pipeline = make_pipeline(encoder, StandardScaler()).fit(X, groups=PATIENTS)
    direct = tiny(validation_fraction=0.3).fit(X, groups=PATIENTS)
    np.testing.assert_array_equal(pipeline[0].weights_, direct.weights_)


@pytest.mark.parametrize(
    "wrap",
    [
        list,
        np.array,
        pd.Series,
        pd.Categorical,
        pl.Series,
        pa.array,
        lambda patients: [patient.encode() for patient in patients],
        lambda patients: np.array(patients, dtype=object)[:, None],
        lambda patients: np.ma.masked_array(patients, mask=False),
    ],
)
def test_patients_in_any_wrapping_are_split_in_the_same_way(wrap):
    for expected, found in zip(
        rows_held_out(0.3), rows_held_out(0.3, wrap([*PATIENTS])), strict=True
    ):
        np.testing.assert_array_equal(expected, found)


def test_groups_change_nothing_when_no_images_are_held_out(tiny, X):
    np.testing.assert_array_equal(tiny().fit(X, groups=PATIENTS).weights_, tiny().fit(X).weights_)


@pytest.mark.parametrize(
    ("groups", "fraction", "words"),
    [
        (PATIENTS[:-1], 0.3, "groups has 23 rows for 24 images"),
        (["one"] * 24, 0.3, "validation_fraction=0.3 of 1 patient leaves none"),
        (None, 0.01, "leaves 23 images to train on and 1 held out"),
        (["one"] * 23 + ["two"], 0.5, "at least 2 of each are needed"),
        ([1.0, np.nan] * 12, 0.3, "groups: row 1 has no patient"),
    ],
)
def test_a_split_that_cannot_be_is_refused_before_images_are_read(
    groups, fraction, words, tiny, X, monkeypatch
):
    monkeypatch.setattr("otcxr_sk.estimators._fit.scan", _never)
    with pytest.raises(ValueError, match=words):
        tiny(validation_fraction=fraction).fit(X, groups=groups)


def _never(*args, **kwargs):
    raise AssertionError("images were read")


def test_a_run_of_other_patients_is_another_run(tiny, X, tmp_path):
    options = {"validation_fraction": 0.3, "checkpoint": tmp_path}
    tiny(**options).fit(X, groups=PATIENTS)
    with pytest.raises(ValueError, match="holds another run: the groups differ"):
        tiny(**options).fit(X, groups=PATIENTS[::-1])
    # Patients may be renamed as long as the same images belong together.
    tiny(**options).fit(X, groups=np.char.add("the ", PATIENTS))
