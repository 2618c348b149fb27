"""A saved estimator does all that the fitted one could, bit for bit."""

import copy
import gc
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import weakref

import joblib
import numpy as np
import pytest
import skops.io
import timm
from safetensors.numpy import load
from sklearn.base import clone
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

from otcxr_sk import Objective, Optimizer, OTCXRPretrainer, Views, __version__

X = np.random.default_rng(0).random((7, 32, 32), dtype=np.float32)


class Patches(nn.Module):
    """A user's encoder, with buffers."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 8, stride=8)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, images):
        return self.norm(self.stem(images)).relu()


@pytest.fixture(scope="module")
def fitted(tiny):
    return tiny(batch_size=4).fit(X)


def by_pickle(estimator, folder):
    return pickle.loads(pickle.dumps(estimator))


def by_oldest_pickle(estimator, folder):
    return pickle.loads(pickle.dumps(estimator, protocol=2))


def by_joblib(estimator, folder):
    joblib.dump(estimator, folder / "model.joblib")
    return joblib.load(folder / "model.joblib")


def by_compressed_joblib(estimator, folder):
    joblib.dump(estimator, folder / "model.joblib.gz", compress=3)
    return joblib.load(folder / "model.joblib.gz")


def by_memory_map(estimator, folder):
    # A file that is mapped must not be overwritten.
    file = folder / f"{len(list(folder.iterdir()))}.joblib"
    joblib.dump(estimator, file)
    return joblib.load(file, mmap_mode="r")


def by_deepcopy(estimator, folder):
    return copy.deepcopy(estimator)


def by_skops(estimator, folder):
    data = skops.io.dumps(estimator)
    untrusted = skops.io.get_untrusted_types(data=data)
    assert set(untrusted) <= {PRETRAINER, *OF_GROUPS}
    return skops.io.loads(data, trusted=untrusted)


PRETRAINER = "otcxr_sk.estimators._pretrainer.OTCXRPretrainer"
OF_GROUPS = [f"{group.__module__}.{group.__name__}" for group in (Objective, Optimizer, Views)]

WAYS = [
    by_pickle,
    by_oldest_pickle,
    by_joblib,
    by_compressed_joblib,
    by_memory_map,
    by_deepcopy,
    by_skops,
]


def assert_same(loaded, fitted):
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))
    np.testing.assert_array_equal(loaded.transform_dense(X), fitted.transform_dense(X))
    assert loaded.score(X) == fitted.score(X)
    plans = (model.match(X, random_state=0).plan for model in (loaded, fitted))
    np.testing.assert_array_equal(*plans)


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_gives_the_same_bits(way, fitted, tmp_path):
    loaded = way(fitted, tmp_path)
    assert_same(loaded, fitted)
    assert loaded.get_params() == fitted.get_params()
    assert loaded.history_ == fitted.history_
    assert loaded.encoder_name_ == "test_resnet"
    assert loaded.get_feature_names_out().tolist() == fitted.get_feature_names_out().tolist()


def test_a_memory_mapped_estimator_reads_its_weights_from_the_file(fitted, tmp_path):
    assert isinstance(by_memory_map(fitted, tmp_path).weights_, np.memmap)


@pytest.mark.parametrize("way", WAYS)
def test_an_unfitted_estimator_can_be_copied(way, tiny, tmp_path):
    estimator = tiny(batch_size=4)
    loaded = way(estimator, tmp_path)
    assert loaded.get_params() == estimator.get_params()
    np.testing.assert_array_equal(loaded.fit(X).weights_, estimator.fit(X).weights_)


@pytest.mark.parametrize("way", WAYS)
def test_groups_are_saved_with_their_estimator(way, tiny, tmp_path):
    estimator = tiny(objective__epsilon=0.2, views=Views(erase=0.1), optimizer=Optimizer("lars"))
    loaded = way(estimator, tmp_path)
    assert loaded.get_params() == estimator.get_params()
    assert loaded.views is not estimator.views
    fitted = way(estimator.fit(X), tmp_path)
    assert_same(fitted, estimator)
    np.testing.assert_array_equal(loaded.fit(X).weights_, estimator.weights_)


def test_skops_needs_to_trust_a_single_class(fitted):
    assert skops.io.get_untrusted_types(data=skops.io.dumps(fitted)) == [PRETRAINER]


@pytest.mark.parametrize("way", [by_pickle, by_compressed_joblib, by_memory_map, by_skops])
def test_a_loaded_estimator_can_be_saved_again(way, fitted, tmp_path):
    assert_same(way(way(fitted, tmp_path), tmp_path), fitted)


@pytest.mark.parametrize("way", WAYS)
def test_a_loaded_estimator_can_be_fitted_again(way, fitted, tmp_path):
    loaded = way(fitted, tmp_path)
    np.testing.assert_array_equal(loaded.fit(X).weights_, fitted.weights_)


@pytest.mark.parametrize("way", [w for w in WAYS if w is not by_skops])
def test_an_encoder_module_is_saved_with_its_estimator(way, tiny, tmp_path):
    fitted = tiny(Patches()).fit(X)
    assert_same(way(fitted, tmp_path), fitted)


@pytest.mark.slow
def test_the_same_bits_in_a_new_process(fitted, tmp_path):
    joblib.dump(fitted, tmp_path / "model.joblib")
    np.save(tmp_path / "X.npy", X)
    script = """
import joblib, numpy as np
from otcxr_sk.estimators import _encoder
_encoder.SMALL = 32
estimator = joblib.load("model.joblib")
X = np.load("X.npy")
np.savez("out.npz", embedding=estimator.transform(X), score=estimator.score(X))
"""
    subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
    )
    with np.load(tmp_path / "out.npz") as out:
        np.testing.assert_array_equal(out["embedding"], fitted.transform(X))
        assert float(out["score"]) == fitted.score(X)


def test_a_pipeline_is_saved_whole(tiny, tmp_path):
    model = make_pipeline(tiny(), LogisticRegression(max_iter=1000)).fit(X, [0, 1, 0, 1, 0, 1, 0])
    np.testing.assert_array_equal(
        by_skops(model, tmp_path).predict_proba(X), model.predict_proba(X)
    )


def test_a_dump_of_the_default_encoder_holds_its_weights_only_once(tmp_path):
    estimator = OTCXRPretrainer(image_size=32, epochs=1, batch_size=2, random_state=0).fit(X[:2])
    joblib.dump(estimator, tmp_path / "model.joblib")
    backbone = timm.create_model("resnet18", in_chans=1, num_classes=0)
    size = 4 * sum(parameter.numel() for parameter in backbone.parameters())
    assert size < (tmp_path / "model.joblib").stat().st_size <= 1.5 * size


def test_use_does_not_make_a_dump_larger(fitted):
    fresh = pickle.loads(pickle.dumps(fitted))
    size = len(pickle.dumps(fresh))
    fresh.transform(X)
    fresh.score(X)
    assert len(pickle.dumps(fresh)) == size


def test_the_saved_state_is_plain_data_without_torch(fitted):
    modules = set()

    class Recorder(pickle.Unpickler):
        def find_class(self, module, name):
            modules.add(module.partition(".")[0])
            return super().find_class(module, name)

    Recorder(io.BytesIO(pickle.dumps(fitted))).load()
    assert modules <= {"otcxr_sk", "numpy", "builtins", "copyreg", "_codecs"}


def test_weights_are_safetensors(fitted):
    data = fitted.weights_.tobytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    arrays = load(data)
    assert set(header) - {"__metadata__"} == set(arrays)
    stored = sum(value.nbytes for value in arrays.values())
    assert stored == len(data) - 8 - length
    assert any(name.startswith("encoder.") for name in arrays)
    assert fitted.weights_.dtype == np.uint8


def test_an_estimator_for_a_gpu_is_loaded_without_one(fitted):
    for_gpu = pickle.loads(pickle.dumps(copy.deepcopy(fitted).set_params(device="cuda")))
    with pytest.raises(ValueError, match=r"device='cuda' cannot be used on this machine"):
        for_gpu.transform(X)
    np.testing.assert_array_equal(
        for_gpu.set_params(device="cpu").transform(X), fitted.transform(X)
    )


def test_another_version_warns_at_the_line_of_the_user(fitted, tmp_path, monkeypatch):
    monkeypatch.setattr("otcxr_sk.estimators._pretrainer.__version__", "0.0.1")
    joblib.dump(fitted, tmp_path / "model.joblib")
    monkeypatch.undo()
    with pytest.warns(UserWarning, match=r"saved by otcxr-sk 0\.0\.1 and is loaded by") as told:
        loaded = joblib.load(tmp_path / "model.joblib")
    assert {warning.filename for warning in told} == {__file__}
    assert_same(loaded, fitted)


def as_of_0_1(estimator):
    """The state of an estimator as version 0.1.0 pickled it."""
    state = {name: value for name, value in vars(estimator).items() if name != "_beside"}
    of_0_1 = {"_otcxr_sk_version": "0.1.0", "alpha": 1.0, "erase": 0.5, "channels": None}
    return {**state, **of_0_1}


@pytest.mark.parametrize(
    ("is_fitted", "advice"),
    [(True, r"save_encoder, and pass that file here as weights=, with epochs=0"), (False, "anew")],
)
def test_a_dump_of_0_1_is_refused_with_what_to_do(is_fitted, advice, fitted, tiny):
    loaded = OTCXRPretrainer.__new__(OTCXRPretrainer)
    refused = rf"was saved by otcxr-sk 0\.1\.0, and {__version__} cannot read it: .*{advice}$"
    with pytest.raises(ValueError, match=refused):
        loaded.__setstate__(as_of_0_1(fitted if is_fitted else tiny()))
    assert not vars(loaded)


def test_the_way_that_the_refusal_names_gives_the_same_embeddings(fitted, tiny, tmp_path):
    fitted.save_encoder(tmp_path / "encoder.safetensors")
    loaded = tiny(weights=tmp_path / "encoder.safetensors", epochs=0, batch_size=4).fit(X)
    np.testing.assert_array_equal(loaded.transform(X), fitted.transform(X))


@pytest.mark.parametrize("way", WAYS)
def test_what_only_the_object_keeps_is_not_saved(way, tiny, tmp_path):
    estimator = tiny().partial_fit(X)
    estimator.transform(X)
    assert estimator._unsaved.network is not None
    assert estimator._unsaved.stream is not None
    unsaved = way(estimator, tmp_path)._unsaved
    assert (unsaved.network, unsaved.stream, unsaved.unusable) == (None, None, None)


def test_the_version_is_stamped_on_what_is_saved_only(fitted):
    assert "_otcxr_sk_version" in fitted.__getstate__()
    assert "_otcxr_sk_version" not in vars(pickle.loads(pickle.dumps(fitted)))


def test_parameters_set_after_fit_leave_the_embedding_alone(fitted):
    changed = copy.deepcopy(fitted).set_params(encoder="test_vit", image_size=64, match_stride=4)
    np.testing.assert_array_equal(changed.transform(X), fitted.transform(X))
    assert clone(changed).encoder == "test_vit"


def test_a_new_fit_replaces_the_network_in_use(tiny):
    estimator = tiny().fit(X)
    before = estimator.transform(X)
    estimator.set_params(random_state=1).fit(X)
    assert not np.array_equal(estimator.transform(X), before)
    np.testing.assert_array_equal(estimator.transform(X), by_deepcopy(estimator, None).transform(X))


def test_the_network_is_freed_with_its_estimator(tiny):
    estimator = tiny().fit(X)
    estimator.transform(X)
    network = weakref.ref(estimator._unsaved.network[1])
    assert network() is not None
    del estimator
    gc.collect()
    assert network() is None
