"""Training: what it learns, what it reports, and how it fails."""

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.pipeline import make_pipeline
from torch import nn

from otcxr_sk import PAPER
from otcxr_sk.estimators import CollapseWarning, NonFiniteLossError
from otcxr_sk.training import Callback

TERMS = {
    "loss",
    "transport",
    "variance",
    "covariance",
    "global_invariance",
    "global_variance",
    "global_covariance",
    "read_out",
    "token_spread",
    "marginal_error",
    "matching_accuracy",
    "matching_chance",
    "spread",
    "effective_rank",
    "learning_rate",
}


@pytest.fixture(scope="module")
def plain(tiny, X):
    return tiny().fit(X)


def test_history_has_every_term_of_every_epoch(fitted):
    assert set(fitted.history_) == TERMS
    assert fitted.n_epochs_ == 8
    for name, values in fitted.history_.items():
        assert len(values) == 8, name
        assert np.isfinite(values).all(), name
        assert all(type(value) is float for value in values), name


def test_the_loss_of_the_paper_is_what_it_prints(tiny, X):
    estimator = tiny(**PAPER).fit(X)
    terms = {name: np.array(values) for name, values in estimator.history_.items()}
    weights = estimator.objective
    printed = sum(
        weight * terms[name]
        for weight, name in (
            (weights.alpha, "transport"),
            (weights.beta, "variance"),
            (weights.eta, "covariance"),
        )
    )
    np.testing.assert_allclose(terms["loss"], printed, rtol=1e-4)
    # The cost of a plan lies in [0, 2].
    assert 0 <= terms["transport"][0] <= 2


def test_history_lies_in_the_documented_ranges(fitted, X):
    ranges = {
        "transport": (0, 2),
        "marginal_error": (0, 0.1),
        "matching_accuracy": (0, 1),
        "matching_chance": (0, 1),
        "spread": (0, 1),
        "effective_rank": (1, len(X)),
        "learning_rate": (0, fitted.learning_rate),
    }
    for name, (low, high) in ranges.items():
        assert low <= min(fitted.history_[name]) <= max(fitted.history_[name]) <= high, name


def test_training_lowers_the_loss(fitted, tiny, blobs, X):
    assert fitted.history_["loss"][-1] < fitted.history_["loss"][0]
    assert fitted.score(blobs(24, seed=1)) > tiny(match_stride=8).fit(X).score(blobs(24, seed=1))


def test_the_encoder_module_given_is_left_alone(stopping_encoder, tiny, X):
    module = stopping_encoder()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fitted = tiny(module).fit(X)
    assert fitted.encoder is module
    assert fitted.encoder_name_ == "StoppingEncoder"
    assert fitted.embedding_dim_ == 16
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    assert module.training
    assert module.passes == 0


@pytest.mark.parametrize("encoder", ["test_vit", "test_convnext", "test_efficientnet", "resnet10t"])
def test_an_encoder_of_every_family_can_be_trained(encoder, tiny, X):
    fitted = tiny(encoder).fit(X)
    embedding = fitted.transform(X)
    assert embedding.shape == (len(X), fitted.embedding_dim_)
    np.testing.assert_allclose(fitted.transform(X[5:7]), embedding[5:7], rtol=1e-4, atol=1e-5)
    assert np.isfinite(fitted.score(X))


@pytest.mark.parametrize(
    "parameters",
    [
        {"objective__cv_sim_depth": 1},
        {"objective__read_out": 0.0},
        {"objective__transport": "direct"},
        {"match_stride": 1},
        {"match_stride": 64},
        {"objective__global_weight": 0.0},
        {"objective__alpha": 0.0},
        {"views__horizontal_flip": 1.0},
        {"views__crop_scale": [1.0, 1.0]},
        {"views__erase": 0.0},
        {"optimizer__weight_decay": 0.0},
        {"precision": "bfloat16"},
        {"precision": "float16"},
        {"num_workers": 1},
        {"batch_size": 1000},
        {"accumulate": 2},
        {"optimizer": "lars"},
        {"learning_rate": "auto"},
        {"optimizer__clip_norm": 0.1},
    ],
    ids=str,
)
def test_training_works_with_every_option(parameters, plain, tiny, X):
    fitted = tiny(**parameters).fit(X)
    assert np.isfinite(fitted.transform(X)).all()
    assert np.isfinite(fitted.score(X))
    # "auto" may be bfloat16 already, and workers change only who reads the images.
    if not {"precision", "num_workers"} & set(parameters):
        assert fitted.history_["loss"] != plain.history_["loss"]


def test_progress_is_shown_only_if_wanted(capsys, tiny, X):
    tiny().fit(X)
    assert capsys.readouterr() == ("", "")
    tiny(verbose=1).fit(X)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch=1/1" in err


def test_without_epochs_the_encoder_is_untrained(plain, tiny, X):
    untrained = tiny(epochs=0).fit(X)
    assert untrained.n_epochs_ == 0
    assert untrained.history_ == {}
    assert untrained.mean_ == plain.mean_
    assert np.isfinite(untrained.score(X))
    assert not np.allclose(untrained.transform(X), plain.transform(X), rtol=1e-3)


@pytest.mark.parametrize("method", ["score", "fit"])
def test_one_image_is_too_few(method, fitted, X):
    with pytest.raises(ValueError, match="1 sample"):
        getattr(clone(fitted) if method == "fit" else fitted, method)(X[:1])


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"encoder": "resnet81"}, r"no model named 'resnet81'; did you mean .*'resnet18'"),
        ({"encoder": "zzzzzz"}, r"no model named 'zzzzzz'; see timm.list_models"),
        ({"image_size": 16}, "below the stride of 'test_resnet', 32 pixels"),
        ({"device": "nonsense"}, "device='nonsense' cannot be used"),
        ({"device": "cuda:99"}, "device='cuda:99' cannot be used"),
        ({"encoder": nn.Flatten()}, "dense map of shape"),
        ({"encoder": nn.Conv2d(3, 8, 3)}, "cannot take images of 32 x 32 pixels in one channel"),
        ({"encoder": nn.Conv2d(1, 8, 64)}, "cannot take images of 32 x 32 pixels"),
        (
            {"encoder": nn.Conv2d(1, 8, 8), "weights": "w.safetensors"},
            "weights= goes with a timm name",
        ),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused_before_images_are_read(
    parameters, words, monkeypatch, tiny, X
):
    monkeypatch.setattr("otcxr_sk.estimators._fit.scan", _never)
    with pytest.raises(ValueError, match=words):
        tiny(**parameters).fit(X)


def _never(*args, **kwargs):
    raise AssertionError("images were read")


def test_a_failed_fit_leaves_an_estimator_unfitted(tiny, X):
    estimator = tiny("resnet81")
    with pytest.raises(ValueError, match="resnet81"):
        estimator.fit(X)
    with pytest.raises(NotFittedError):
        estimator.transform(X)


@pytest.mark.parametrize("method", ["fit", "partial_fit"])
def test_a_failed_first_fit_leaves_no_trace(method, tiny, X):
    estimator = tiny()
    before = estimator.__getstate__()
    rows = np.where(np.arange(len(X))[:, None] == 3, 1.0, X.reshape(len(X), -1))
    with pytest.raises(ValueError, match="1 of 24 images cannot be used"):
        getattr(estimator, method)(rows)
    assert estimator.__getstate__() == before


def test_after_a_failed_fit_an_estimator_embeds_as_before(tiny, X):
    rows = pd.DataFrame(X.reshape(len(X), -1)).add_prefix("pixel")
    estimator = tiny().fit(rows)
    expected = estimator.transform(rows)
    broken = X.copy()
    broken[3] = 1.0
    for other in (broken, rows.add_prefix("other ") * np.nan):
        with pytest.raises(ValueError, match=r"cannot be used|contains NaN"):
            estimator.fit(other)
        np.testing.assert_array_equal(estimator.transform(rows), expected)


def test_during_a_fit_on_images_rows_are_embedded_as_before(tiny, X):
    class Meanwhile(Callback):
        def on_epoch_end(self, state):
            self.embedding = estimator.transform(rows)

    rows = X.reshape(len(X), -1)
    estimator = tiny().fit(rows)
    expected = estimator.transform(rows)
    meanwhile = Meanwhile()
    estimator.set_params(callbacks=[meanwhile], random_state=1).fit(X)
    np.testing.assert_array_equal(meanwhile.embedding, expected)
    with pytest.raises(ValueError, match="too few axes for several images"):
        estimator.transform(rows)


def test_a_loss_that_is_not_finite_stops_in_the_first_epoch(tiny, X):
    estimator = tiny(learning_rate=1e30, epochs=3)
    with pytest.raises(NonFiniteLossError, match=r"in epoch 1\. No epoch was .*learning_rate"):
        estimator.fit(X)
    with pytest.raises(NotFittedError):
        estimator.transform(X)


def test_weights_of_the_last_good_epoch_are_kept(stopping_encoder, tiny, X):
    # 24 images in batches of 8 are three passes an epoch; the fifth is in the second epoch.
    estimator = tiny(stopping_encoder(fail_at=5), epochs=5)
    with pytest.raises(NonFiniteLossError, match=r"in epoch 2\. The weights of epoch 1 are kept"):
        estimator.fit(X)
    assert estimator.n_epochs_ == len(estimator.history_["loss"]) == 1
    assert np.isfinite(estimator.transform(X)).all()
    # A run of the same schedule that fails at the next step after epoch 1 has them, too.
    good = tiny(stopping_encoder(fail_at=4), epochs=5)
    with pytest.raises(NonFiniteLossError):
        good.fit(X)
    np.testing.assert_array_equal(estimator.weights_, good.weights_)
    assert not np.array_equal(
        estimator.weights_, tiny(stopping_encoder(), epochs=0).fit(X).weights_
    )


def test_collapse_warns_at_the_line_of_the_user(collapsed_encoder, tiny, X):
    with pytest.warns(CollapseWarning, match=r"collapsed \(spread 0, effective rank 0\)") as told:
        make_pipeline(tiny(collapsed_encoder())).fit(X)
    assert {warning.filename for warning in told} == {__file__}


def test_what_reads_in_training_is_neither_saved_nor_scored(tiny, X, tmp_path):
    plain, reading = (tiny(objective__read_out=weight).fit(X) for weight in (0.0, 40.0))
    assert len(reading.weights_) == len(plain.weights_)
    assert not any("read_out" in name for name in load(reading.weights_.tobytes()))
    assert 0 < reading.history_["read_out"][0] < 4
    assert "read_out" not in plain.history_
    # The loss of what both have; they were trained differently.
    assert reading.score(X) == pytest.approx(plain.score(X), rel=0.2)
    again = reading.set_params(warm_start=True).fit(X)
    assert again.n_epochs_ == len(again.history_["read_out"]) == 2
