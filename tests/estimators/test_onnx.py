"""A graph gives what the library gives, to whoever has neither it nor Python."""

import json
import os
import re
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, TruncatedSVD
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import (
    FunctionTransformer,
    MaxAbsScaler,
    MinMaxScaler,
    Normalizer,
    PowerTransformer,
    QuantileTransformer,
    RobustScaler,
    StandardScaler,
)
from torch import nn

from otcxr_sk import OTCXRClassifier, OTCXRSegmenter, __version__
from otcxr_sk.estimators import _graph, _onnx, export_onnx, export_torch

onnxruntime = pytest.importorskip("onnxruntime")

N_CLASSES = 3


class Patches(nn.Module):
    """An encoder that is exported in a moment."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 8, stride=8)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, images):
        return self.norm(self.stem(images)).relu()


@pytest.fixture(scope="module")
def pipeline(tiny, X):
    encoder = tiny(Patches(), epochs=0, precision="float32")
    labels = np.array(["healthy", "left", "right"])[np.arange(len(X)) % N_CLASSES]
    return make_pipeline(encoder, StandardScaler(), LogisticRegression()).fit(X, labels)


@pytest.fixture(scope="module")
def file(pipeline, tmp_path_factory):
    file = tmp_path_factory.mktemp("graphs") / "model.onnx"
    export_onnx(pipeline, file)
    return file


@pytest.fixture(scope="module")
def session(file):
    return onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])


def run(session, X):
    return session.run(None, {"images": np.asarray(X, np.float32)[:, None]})


@pytest.mark.parametrize("n", [1, 2, 24])
def test_the_graph_gives_the_embedding_and_the_probabilities(session, pipeline, X, n):
    embedding, probability = run(session, X[:n])
    np.testing.assert_allclose(embedding, pipeline[0].transform(X[:n]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(probability, pipeline.predict_proba(X[:n]), rtol=1e-4, atol=1e-4)


def test_the_graph_says_what_goes_in_and_out(session):
    given, *made = [*session.get_inputs(), *session.get_outputs()]
    assert (given.name, given.shape[1:], given.type) == ("images", [1, 32, 32], "tensor(float)")
    assert [(one.name, one.shape[1]) for one in made] == [
        ("embedding", 16),
        ("probability", N_CLASSES),
    ]
    assert all(isinstance(one.shape[0], str) for one in [given, *made])


def test_the_rules_of_reading_are_in_the_file(session, pipeline):
    facts = session.get_modelmeta().custom_metadata_map
    assert facts.pop("scaling").startswith("gray images in [0, 1]")
    assert json.loads(facts.pop("classes")) == ["healthy", "left", "right"]
    assert float(facts.pop("mean")) == pipeline[0].mean_
    assert float(facts.pop("std")) == pipeline[0].std_
    assert facts == {
        "encoder": "Patches",
        "image_size": "32",
        "resize": "squash",
        "otcxr_sk_version": __version__,
    }


def test_the_file_names_no_place_of_this_machine_and_is_for_this_user_alone(file):
    content = file.read_bytes()
    assert b".py" not in content
    assert os.path.dirname(torch.__file__).encode() not in content
    assert file.stat().st_mode & 0o077 == 0
    assert [one.name for one in file.parent.iterdir()] == ["model.onnx"]


def softmax(scores):
    values = np.exp(scores - scores.max(1, keepdims=True))
    return values / values.sum(1, keepdims=True)


@pytest.mark.parametrize("n_classes", [2, 3])
@pytest.mark.parametrize(
    "steps",
    [
        [],
        [StandardScaler()],
        [StandardScaler(with_mean=False), "passthrough", None],
        [MinMaxScaler((-1, 2)), MaxAbsScaler()],
        [RobustScaler(), PCA(3, whiten=True)],
        [TruncatedSVD(2), FunctionTransformer(lambda values: 3 * values - 1)],
        [StandardScaler().set_output(transform="pandas")],
    ],
    ids=lambda steps: " ".join(type(step).__name__ for step in steps),
)
def test_affine_steps_become_one_linear_map(steps, n_classes):
    rng = np.random.default_rng(0)
    Z = rng.normal(5, rng.uniform(0.1, 10, 6), (60, 6))
    model = Pipeline([(f"{i}", step) for i, step in enumerate([*steps, LogisticRegression()])])
    model.fit(Z, np.arange(60) % n_classes)
    linear = _graph._linear([step for _, step in model.steps], 6)
    scores = (Z - linear.center) @ linear.weight + linear.bias
    np.testing.assert_allclose(softmax(scores), model.predict_proba(Z), rtol=1e-9, atol=1e-12)


def test_small_differences_of_large_numbers_survive_float32():
    rng = np.random.default_rng(0)
    Z = 1000 + 0.01 * rng.normal(size=(60, 6)).astype(np.float32)
    model = make_pipeline(StandardScaler(), LogisticRegression()).fit(
        Z.astype(float), Z[:, 0] > 1e3
    )
    linear = _graph._linear([step for _, step in model.steps], 6)
    center, weight, bias = (values.astype(np.float32) for values in linear)
    exact = model.predict_proba(Z.astype(float))
    naive = Z @ weight + (bias - center @ weight)
    centered = (Z - center) @ weight + bias
    assert np.abs(softmax(centered) - exact).max() < 0.02
    assert np.abs(softmax(centered) - exact).max() < 0.2 * np.abs(softmax(naive) - exact).max()


@pytest.mark.parametrize(
    "step",
    [
        Normalizer(),
        MinMaxScaler(clip=True),
        PowerTransformer(),
        QuantileTransformer(n_quantiles=10),
        FunctionTransformer(np.tanh),
    ],
    ids=str,
)
def test_a_step_that_is_not_affine_is_refused(pipeline, X, step, tmp_path):
    model = make_pipeline(*pipeline[:1], step, LogisticRegression())
    Z = pipeline[0].transform(X)
    model[1:].fit(Z, np.arange(len(X)) % 2)
    with pytest.raises(ValueError, match=f"{type(step).__name__} is not affine"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_pipeline_ends_with_a_logistic_regression(pipeline, X, tmp_path):
    last = KNeighborsClassifier().fit(pipeline[0].transform(X), np.arange(len(X)) % 2)
    with pytest.raises(ValueError, match="LogisticRegression, got KNeighborsClassifier"):
        export_onnx(make_pipeline(pipeline[0], last), tmp_path / "model.onnx")


@pytest.mark.parametrize(
    "model", [StandardScaler(), make_pipeline(PCA(), LogisticRegression()), OTCXRSegmenter()]
)
def test_something_else_than_an_encoder_is_refused(model, tmp_path):
    with pytest.raises(TypeError, match="begins with a pretrainer, got"):
        export_onnx(model, tmp_path / "model.onnx")


def test_only_what_is_fitted_is_exported(tiny, pipeline, tmp_path):
    for model in (tiny(), make_pipeline(pipeline[0], LogisticRegression()), OTCXRClassifier()):
        with pytest.raises(NotFittedError):
            export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def start(pipeline):
    """An encoder that is exported in a moment."""
    return FrozenEstimator(pipeline[0])


LABELS = {
    "two": np.array(["healthy", "sick"])[np.arange(24) % 2],
    "three": np.arange(24) % 3,
    "several": np.column_stack([np.arange(24) % 2, np.arange(24) % 3 == 0]),
}


@pytest.fixture(params=LABELS)
def classifier(request, start, X):
    return OTCXRClassifier(start, frozen=True).fit(X, LABELS[request.param])


@pytest.mark.parametrize("wrapped", [lambda one: one, FrozenEstimator, make_pipeline])
def test_what_is_exported_of_a_classifier_tells_its_probabilities(classifier, X, wrapped):
    graph = _graph.graph_of(wrapped(classifier))
    with torch.inference_mode():
        embedding, probability = graph(torch.tensor(X[:, None], dtype=torch.float32))
    np.testing.assert_allclose(embedding, classifier.pretrainer_.transform(X), atol=1e-5)
    np.testing.assert_allclose(probability, classifier.predict_proba(X), atol=1e-5)


@pytest.mark.slow
def test_a_classifier_becomes_one_graph_with_its_encoder(classifier, X, tmp_path):
    export_onnx(classifier, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "model.onnx", providers=["CPUExecutionProvider"]
    )
    _, probability = run(session, X)
    np.testing.assert_allclose(probability, classifier.predict_proba(X), rtol=1e-4, atol=1e-4)
    facts = session.get_modelmeta().custom_metadata_map
    name = "labels" if classifier._several else "classes"
    assert json.loads(facts[name]) == classifier.classes_.tolist()


def test_a_classifier_whose_graph_gives_other_numbers_is_not_written(
    start, file, X, tmp_path, monkeypatch
):
    model = OTCXRClassifier(start, frozen=True).fit(X, LABELS["three"])
    monkeypatch.setattr(_onnx, "_exported", lambda *args: file.read_bytes())
    with pytest.raises(ValueError, match="differs by"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_frozen_encoder_is_the_encoder(pipeline, file, X, tmp_path, monkeypatch):
    monkeypatch.setattr(_onnx, "_exported", lambda *args: file.read_bytes())
    model = make_pipeline(FrozenEstimator(pipeline[0]), *pipeline[1:])
    export_onnx(model, tmp_path / "model.onnx")
    assert (tmp_path / "model.onnx").read_bytes() == file.read_bytes()


def test_a_wrong_place_is_told_before_anything_is_computed(pipeline, tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.onnx"):
        export_onnx(pipeline, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="create it first"):
        export_onnx(pipeline, tmp_path / "no" / "model.onnx")


def test_a_program_of_torch_gives_the_same_and_knows_the_same_facts(pipeline, session, X, tmp_path):
    file = tmp_path / "model.pt2"
    export_torch(pipeline, file)
    facts = dict.fromkeys(session.get_modelmeta().custom_metadata_map, "")
    program = torch.export.load(file, extra_files=facts)
    assert facts == session.get_modelmeta().custom_metadata_map
    for n in (1, 24):
        with torch.inference_mode():
            found = program.module()(torch.tensor(X[:n, None], dtype=torch.float32))
        for got, expected in zip(found, run(session, X[:n]), strict=True):
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    assert file.stat().st_mode & 0o077 == 0
    with zipfile.ZipFile(file) as archive:
        places = [os.path.dirname(torch.__file__), str(Path.home()), os.getcwd()]
        inside = [archive.read(name) for name in archive.namelist()]
    assert not any(place.encode() in part for place in places for part in inside)


def test_a_program_of_torch_is_refused_as_a_graph_is(pipeline, tmp_path):
    with pytest.raises(ValueError, match=r"saved as \.pt2"):
        export_torch(pipeline, tmp_path / "model.onnx")
    with pytest.raises(TypeError, match="a fitted OTCXRPretrainer"):
        export_torch(StandardScaler(), tmp_path / "model.pt2")


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_names_the_extra(pipeline, tmp_path, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=r"otcxr-sk\[onnx\]"):
        export_onnx(pipeline, tmp_path / "model.onnx")


def test_a_graph_that_gives_other_numbers_is_not_written(tiny, file, X, tmp_path, monkeypatch):
    other = tiny(Patches(), epochs=0).fit(X)
    labels = np.arange(len(X)) % N_CLASSES
    model = make_pipeline(other, LogisticRegression().fit(other.transform(X), labels))
    monkeypatch.setattr(_onnx, "_exported", lambda *args: file.read_bytes())
    with pytest.raises(ValueError, match="differs by"):
        export_onnx(model, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_an_encoder_that_cannot_be_exported_is_named(pipeline, tmp_path, monkeypatch):
    def fail(*args, **options):
        raise RuntimeError("no such operator")

    monkeypatch.setattr(torch.onnx, "export", fail)
    with pytest.raises(ValueError, match=r"Patches cannot be exported.*to_torch"):
        export_onnx(pipeline, tmp_path / "model.onnx")


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    ["resnet10t", "resnet18", "test_vit", "vit_tiny_patch16_224", "convnext_atto"],
)
def test_any_encoder_becomes_a_graph(tiny, X, encoder, tmp_path):
    fitted = tiny(encoder, precision="float32").fit(X)
    export_onnx(fitted, tmp_path / "encoder.onnx")
    session = onnxruntime.InferenceSession(
        tmp_path / "encoder.onnx", providers=["CPUExecutionProvider"]
    )
    for n in (1, 5):
        (embedding,) = run(session, X[:n])
        np.testing.assert_allclose(embedding, fitted.transform(X[:n]), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_the_examples_of_sharing_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).resolve().parents[2] / "docs" / "guide" / "sharing.md").read_text(
        "utf-8"
    )
    blocks = re.findall(r"^```python\n(.*?)^```", page, flags=re.DOTALL | re.MULTILINE)
    names = {}
    for block in blocks:
        exec(compile(block, "sharing.md", "exec"), names)
    for name in ("model", "loaded"):
        names[name][0].estimator.set_params(precision="float32")
    wanted = names["encoder"].transform(names["images"])
    for name in ("embedding", "exported"):
        np.testing.assert_allclose(names[name], wanted, rtol=1e-4, atol=1e-4)
    probabilities = [names[name].predict_proba(names["images"]) for name in ("model", "loaded")]
    np.testing.assert_array_equal(*probabilities)
    np.testing.assert_allclose(names["probability"], probabilities[0], rtol=1e-4, atol=1e-4)
