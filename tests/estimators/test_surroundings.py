"""What a program sets, or has installed, decides no result."""

import os
import pickle
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from functools import partial

import numpy as np
import pytest
import sklearn
import torch

from otcxr_sk.estimators import NonFiniteLossError


@contextmanager
def setting(change, value, usual):
    change(value)
    try:
        yield
    finally:
        change(usual)


SETTINGS = {
    "float64": partial(setting, torch.set_default_dtype, torch.float64, torch.float32),
    "float16": partial(setting, torch.set_default_dtype, torch.float16, torch.float32),
    "bfloat16": partial(setting, torch.set_default_dtype, torch.bfloat16, torch.float32),
    "default device": partial(setting, torch.set_default_device, "meta", None),
    "no gradients": partial(setting, torch.set_grad_enabled, False, True),
    "inference": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "autocast that is off": lambda: torch.autocast("cpu", enabled=False),
    "deterministic": partial(setting, torch.use_deterministic_algorithms, True, False),
    "denormals": partial(setting, torch.set_flush_denormal, True, False),
    "anomalies": lambda: torch.autograd.detect_anomaly(check_nan=True),
    "saved on the CPU": torch.autograd.graph.save_on_cpu,
    "errors of NumPy": lambda: np.errstate(all="raise"),
    "text of numbers": lambda: np.printoptions(legacy="1.13", precision=1),
    "scikit-learn": lambda: sklearn.config_context(
        assume_finite=True, working_memory=1, enable_metadata_routing=True
    ),
}
# These do not exclude one another.
TOGETHER = ["float16", "default device", "inference", "autocast", "errors of NumPy", "scikit-learn"]


def digest(estimator, X, stored):
    """Return what all methods return, from a fit and from a stored estimator."""
    loaded = pickle.loads(stored)
    module = loaded.to_torch()
    assert all(value.requires_grad and not value.is_inference() for value in module.parameters())
    return {
        "fit": estimator.fit(X).weights_,
        "history": np.array(list(estimator.history_.values())),
        "partial_fit": estimator.partial_fit(X).weights_,
        "transform": loaded.transform(X),
        "transform_dense": loaded.transform_dense(X),
        "score": loaded.score(X),
        "match": loaded.match(X[:3], random_state=0).plan,
        "to_torch": np.concatenate([v.numpy().ravel() for v in module.state_dict().values()]),
        "warm start": loaded.set_params(warm_start=True).fit(X).weights_,
    }


@pytest.fixture(scope="module")
def assert_same():
    known = {}

    def expect(estimator, X):
        stored = pickle.dumps(sklearn.clone(estimator).fit(X))
        return stored, digest(sklearn.clone(estimator), X, stored)

    def check(estimator, X, names):
        key = f"{estimator!r} {len(X)}"
        stored, expected = known[key] = known.get(key) or expect(estimator, X)
        with ExitStack() as stack:
            for name in names:
                stack.enter_context(SETTINGS[name]())
            found = digest(sklearn.clone(estimator), X, stored)
        for what, value in expected.items():
            np.testing.assert_array_equal(found[what], value, err_msg=what)

    return check


@pytest.mark.parametrize(
    "names", [["float64"], pytest.param(["autocast that is off"], marks=pytest.mark.slow), TOGETHER]
)
def test_settings_of_the_program_change_no_bit(names, assert_same, tiny, X):
    # Within an autocast that is off, torch would keep the first weights that it has cast.
    precision = "bfloat16" if "off" in names[0] else "float32"
    assert_same(tiny(precision=precision, epochs=2), X[:8], names)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Anomaly Detection")
@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize(
    "parameters",
    [
        {"encoder": "test_vit", "objective__cv_sim_depth": 1, "objective__epsilon": 0.01},
        {"encoder": "test_convnext", "precision": "bfloat16", "optimizer__ema": 0.9},
        {
            "encoder": "test_efficientnet",
            "precision": "float16",
            "optimizer__name": "lars",
            # Its first gradients would overflow at the first scale, which anomalies forbid.
            "objective__read_out": 0.0,
        },
        {"encoder": "dropout", "validation_fraction": 0.3, "accumulate": 2},
    ],
    ids=lambda parameters: parameters["encoder"],
)
def test_no_setting_changes_a_bit_of_any_kind_of_run(
    name, parameters, assert_same, stopping_encoder, tiny, X
):
    if parameters["encoder"] == "dropout":
        parameters = {**parameters, "encoder": stopping_encoder()}
    assert_same(tiny(**parameters), X[:16], [name])


BESIDE = ["jax", "jaxlib", "tensorflow", "cupy", "ot"]

USES = """
import tempfile
import numpy as np
import torch
torch.set_num_threads(1)
import otcxr_sk.cli
from otcxr_sk import OTCXRPretrainer
from otcxr_sk.datasets import find_near_duplicates, make_chest_phantoms
from otcxr_sk.estimators import NonFiniteLossError
from otcxr_sk.evaluation import KNNProbe, embedding_health, pixel_features
from otcxr_sk.plotting import MatchingDisplay
from otcxr_sk.training import TensorBoardLogger

X = make_chest_phantoms(24, image_size=32, random_state=0).images
groups = np.arange(len(X)) // 2
y = groups % 2
small = dict(image_size=32, batch_size=8, random_state=0, device="cpu")
callbacks = [KNNProbe(X, y, groups), TensorBoardLogger(tempfile.mkdtemp())]
encoder = OTCXRPretrainer("test_resnet", epochs=2, callbacks=callbacks, **small)
for changes in ({}, {"objective__epsilon": 0.005}, {"objective__transport": "direct"}):
    encoder.set_params(**changes).fit(X)
    encoder.score(X)
MatchingDisplay.from_estimator(encoder, X[:2])
embedding_health(encoder.transform(X))
find_near_duplicates(pixel_features(X))
try:
    encoder.set_params(learning_rate=1e30).fit(X)
except NonFiniteLossError:
    print("not finite")
"""


@pytest.mark.slow
def test_array_libraries_that_happen_to_be_installed_are_not_imported(tmp_path):
    for name in BESIDE:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('no backend')")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", USES],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "not finite", done.stderr


@pytest.mark.filterwarnings("ignore:4 of 4 images have values unlike those")
@pytest.mark.parametrize("epsilon", [0.1, 0.001])
@pytest.mark.parametrize("transport", ["inverse", "direct"])
def test_a_cost_that_is_not_finite_is_one_kind_of_error(epsilon, transport, tiny, X):
    options = {"objective__epsilon": epsilon, "objective__transport": transport}
    with pytest.raises(NonFiniteLossError, match="No epoch was completed"):
        tiny(learning_rate=1e30, epochs=2, **options).fit(X)
    estimator = tiny(epochs=0, match_stride=8, **options).fit(X)
    estimator.std_ = 1e-38
    with pytest.raises(NonFiniteLossError, match=r"loss on these images.*scaled like those"):
        estimator.score(1e3 * X)
    with pytest.raises(NonFiniteLossError, match=r"cost of transport.*scaled like those"):
        estimator.match(1e3 * X[:4], random_state=0)
