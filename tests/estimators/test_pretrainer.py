"""OTCXRPretrainer: what it learns, what it tells, what it refuses."""

import warnings

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.utils._param_validation import InvalidParameterError, make_constraint
from torch import nn

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.estimators import CollapseWarning
from otcxr_sk.training.trainer import NonFiniteLossError

TERMS = {
    "loss",
    "transport",
    "variance",
    "covariance",
    "global_invariance",
    "global_variance",
    "global_covariance",
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


class Broken(nn.Module):
    """An encoder whose maps turn into NaN after some passes in training, or are constant."""

    def __init__(self, good_passes=None, constant=False):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.stem = nn.Conv2d(1, 16, 8, stride=8)
        self.good_passes, self.constant, self.passes = good_passes, constant, 0

    def forward(self, images):
        dense = self.stem(images)
        if self.constant:
            return torch.ones_like(dense) + 0 * dense
        self.passes += self.training
        if self.good_passes is not None and self.passes > self.good_passes:
            return dense * torch.nan
        return dense


def test_history_tells_every_term_of_every_epoch(fitted):
    assert set(fitted.history_) == TERMS
    assert fitted.n_epochs_ == 8
    for name, values in fitted.history_.items():
        assert len(values) == 8, name
        assert np.isfinite(values).all(), name
        assert all(type(value) is float for value in values), name


def test_the_loss_is_the_weighted_sum_of_its_terms(fitted):
    terms = {name: np.array(values) for name, values in fitted.history_.items()}
    dense = (
        fitted.alpha * terms["transport"]
        + fitted.beta * terms["variance"]
        + fitted.eta * terms["covariance"]
    )
    image_level = (
        terms["global_invariance"]
        + 1.5 * terms["global_variance"]
        + terms["global_covariance"] / 25
    )
    np.testing.assert_allclose(terms["loss"], dense + fitted.global_weight * image_level, rtol=1e-4)


def test_numbers_lie_where_the_docstring_says(fitted, X):
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


def test_a_loss_without_terms_is_refused(tiny, X):
    with pytest.raises(ValueError, match="all 0, so there is nothing to learn"):
        tiny(alpha=0, beta=0, eta=0, global_weight=0).fit(X)


def test_the_laptop_setting_is_of_parameters():
    assert OTCXRPretrainer(**LAPTOP).get_params().items() >= dict(LAPTOP).items()
    with pytest.raises(TypeError):
        LAPTOP["epochs"] = 1


def test_the_encoder_module_given_is_left_alone(tiny, X):
    module = Broken()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    fitted = tiny(module).fit(X)
    assert fitted.encoder is module
    assert fitted.encoder_name_ == "Broken"
    assert fitted.embedding_dim_ == 16
    assert all(value.equal(before[name]) for name, value in module.state_dict().items())
    assert module.training
    assert module.passes == 0


def test_weights_start_from_a_local_file(tmp_path, tiny, X):
    import safetensors.torch
    import timm

    saved = timm.create_model("test_resnet", in_chans=1, num_classes=0)
    with torch.random.fork_rng():
        for parameter in saved.parameters():
            nn.init.normal_(parameter, std=0.05)
    safetensors.torch.save_file(saved.state_dict(), tmp_path / "start.safetensors")
    started = tiny(weights=tmp_path / "start.safetensors", learning_rate=1e-12).fit(X)
    got = safetensors.torch.load(started.weights_.tobytes())
    stem = next(name for name in got if name.endswith("stem.0.weight") or "conv1.weight" in name)
    original = saved.state_dict()[stem.removeprefix("encoder.backbone.")]
    torch.testing.assert_close(got[stem], original, rtol=0, atol=1e-6)
    for wrong in (tmp_path / "none.safetensors", tmp_path):
        with pytest.raises(ValueError, match=r"weights must be an existing \.safetensors file"):
            tiny(weights=wrong).fit(X)


@pytest.mark.parametrize("encoder", ["test_vit", "test_convnext", "test_efficientnet", "resnet10t"])
def test_encoders_of_every_family(encoder, tiny, X):
    fitted = tiny(encoder).fit(X)
    embedding = fitted.transform(X)
    assert embedding.shape == (len(X), fitted.embedding_dim_)
    np.testing.assert_allclose(fitted.transform(X[5:7]), embedding[5:7], rtol=1e-4, atol=1e-5)
    assert np.isfinite(fitted.score(X))


@pytest.mark.parametrize(
    "parameters",
    [
        {"cv_sim_depth": 1},
        {"transport": "direct"},
        {"match_stride": 1},
        {"match_stride": 64},
        {"global_weight": 0.0},
        {"alpha": 0.0},
        {"horizontal_flip": 1.0},
        {"crop_scale": [1.0, 1.0]},
        {"erase": 0.0},
        {"weight_decay": 0.0},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"num_workers": 1},
        {"batch_size": 1000},
        {"accumulate": 2},
        {"optimizer": "lars"},
        {"learning_rate": "auto"},
        {"clip_norm": 0.1},
    ],
    ids=str,
)
def test_every_switch_trains(parameters, plain, tiny, X):
    fitted = tiny(**parameters).fit(X)
    assert np.isfinite(fitted.transform(X)).all()
    assert np.isfinite(fitted.score(X))
    # bfloat16 is what "auto" takes on some machines, and workers only share the work.
    if not {"precision", "num_workers"} & set(parameters):
        assert fitted.history_["loss"] != plain.history_["loss"]


def test_precision_changes_little(plain, tiny, X):
    exact, rounded = (tiny(precision=precision).fit(X) for precision in ("float32", "bf16"))
    assert exact.history_["loss"] == pytest.approx(rounded.history_["loss"], rel=0.05)
    assert exact.history_["loss"] != rounded.history_["loss"]


def test_workers_change_nothing(plain, tiny, X):
    np.testing.assert_array_equal(tiny(num_workers=1).fit(X).weights_, plain.weights_)


def test_progress_is_shown_only_if_wanted(capsys, tiny, X):
    tiny().fit(X)
    assert capsys.readouterr() == ("", "")
    tiny(verbose=1).fit(X)
    out, err = capsys.readouterr()
    assert out == ""
    assert "epoch=1/1" in err


def test_no_epochs_give_the_encoder_as_it_starts(plain, tiny, X):
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


def _wrong_values(name):
    """A value of another type, and every edge of the intervals overstepped."""
    yield object()
    for given in OTCXRPretrainer._parameter_constraints[name]:
        constraint = make_constraint(given)
        low, high = getattr(constraint, "left", None), getattr(constraint, "right", None)
        if low is not None:
            yield low if constraint.closed in ("neither", "right") else low - 1
            yield type(low)(low) - 1
        if high is not None:
            yield high + 1
        if hasattr(constraint, "options") and all(isinstance(o, str) for o in constraint.options):
            yield "nonsense"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        pytest.param(name, value, id=f"{name}-{number}")
        for name in OTCXRPretrainer._parameter_constraints
        for number, value in enumerate(_wrong_values(name))
    ],
)
def test_a_wrong_parameter_is_named(name, value, tiny, X):
    with pytest.raises(InvalidParameterError, match=f"'{name}' parameter"):
        tiny().set_params(**{name: value}).fit(X)


def test_every_parameter_is_constrained():
    assert set(OTCXRPretrainer._parameter_constraints) == set(OTCXRPretrainer().get_params())


@pytest.mark.parametrize(
    "scale", [(0.5,), (0.5, 0.6, 0.7), (0, 1), (0.9, 0.5), (0.5, 1.1), ("a", 1)]
)
def test_a_wrong_crop_scale_is_named(scale, tiny, X):
    with pytest.raises(ValueError, match="crop_scale must be"):
        tiny(crop_scale=scale).fit(X)


@pytest.mark.parametrize("shape", [(32,), (32, 32, 1), (0, 32), (-32, -32), ("a", 32), (31.5, 32)])
def test_a_wrong_image_shape_is_named(shape, tiny, X):
    with pytest.raises(ValueError, match="image_shape"):
        tiny(image_shape=shape).fit(X.reshape(len(X), -1))


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
        ({"encoder": Broken(), "weights": "w.safetensors"}, "weights= goes with a timm name"),
    ],
    ids=str,
)
def test_what_cannot_be_built_is_refused_before_images_are_read(
    parameters, words, monkeypatch, tiny, X
):
    monkeypatch.setattr("otcxr_sk.estimators._fitting.scan", _never)
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


def test_a_loss_that_is_not_finite_stops_in_the_first_epoch(tiny, X):
    estimator = tiny(learning_rate=1e30, epochs=3)
    with pytest.raises(NonFiniteLossError, match=r"in epoch 1\. No epoch was .*learning_rate"):
        estimator.fit(X)
    with pytest.raises(NotFittedError):
        estimator.transform(X)


def test_weights_of_the_last_good_epoch_are_kept(tiny, X):
    # 24 images in batches of 8 are three passes an epoch; the fifth is in the second epoch.
    estimator = tiny(Broken(good_passes=4), epochs=5)
    with pytest.raises(NonFiniteLossError, match=r"in epoch 2\. The weights of epoch 1 are kept"):
        estimator.fit(X)
    assert estimator.n_epochs_ == len(estimator.history_["loss"]) == 1
    assert np.isfinite(estimator.transform(X)).all()
    # A schedule of as many epochs, ended after the first, is the one whose weights those are.
    good = tiny(Broken(good_passes=3), epochs=5)
    with pytest.raises(NonFiniteLossError):
        good.fit(X)
    np.testing.assert_array_equal(estimator.weights_, good.weights_)
    assert not np.array_equal(estimator.weights_, tiny(Broken(), epochs=0).fit(X).weights_)


def test_collapse_warns(tiny, X):
    with pytest.warns(CollapseWarning, match=r"collapsed \(spread 0, effective rank 0\)"):
        tiny(Broken(constant=True)).fit(X)


def test_health_does_not_warn(tiny, X):
    with warnings.catch_warnings():
        warnings.simplefilter("error", CollapseWarning)
        tiny().fit(X)
