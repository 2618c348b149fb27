import warnings

import pytest

from otcxr_sk.training import CollapseAlarm, CollapseWarning

WELL = {"spread": 0.5, "effective_rank": 9.0}
FLAT = {"spread": 0.0, "effective_rank": 9.0}
THIN = {"spread": 0.5, "effective_rank": 1.2}
BLANK = {**WELL, "token_spread": 0.001}


def warned(scripted, rows, *, epochs=30, n_images=100, ended=True):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        scripted(CollapseAlarm(n_images), epochs=epochs).go(rows, ended)
    assert {warning.category for warning in caught} <= {CollapseWarning}
    return [str(warning.message) for warning in caught]


@pytest.mark.parametrize(
    ("bad", "what"),
    [(FLAT, "embeddings"), (THIN, "embeddings"), (BLANK, "tokens")],
    ids=["flat", "thin", "blank"],
)
def test_it_warns_once_at_the_first_collapsed_epoch_after_warm_up(bad, what, scripted):
    well = {"token_spread": 0.3, **WELL}
    # The first 3 of 30 epochs are warm-up.
    (message,) = warned(scripted, [bad, bad, bad, well, well, bad, bad])
    assert message.startswith(f"after epoch 6 of 30 the {what} have collapsed (spread ")


def test_it_warns_during_training(scripted):
    run = scripted(CollapseAlarm(100), epochs=30)

    def epochs():
        for _ in range(4):
            yield FLAT
        pytest.fail("training went on without a warning")

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(CollapseWarning):
            run.go(epochs())


def test_a_run_that_ends_within_warm_up_is_checked_at_the_end(scripted):
    assert len(warned(scripted, [WELL, FLAT])) == 1
    assert warned(scripted, [WELL, FLAT], ended=False) == []


@pytest.mark.parametrize(
    ("rows", "n_images"), [([WELL] * 9, 100), ([FLAT] * 3 + [WELL] * 3, 100), ([THIN] * 9, 8)]
)
def test_healthy_embeddings_warm_up_and_few_images_raise_no_warning(rows, n_images, scripted):
    assert warned(scripted, rows, n_images=n_images) == []


def test_a_run_without_epochs_does_not_warn(scripted):
    assert warned(scripted, []) == []
