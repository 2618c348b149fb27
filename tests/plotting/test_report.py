import base64
import re
import sys
from html.parser import HTMLParser
from types import SimpleNamespace

import matplotlib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.metrics import brier_score_loss

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.evaluation import embedding_health, linear_probe, make_probe, pixel_features
from otcxr_sk.plotting import report
from otcxr_sk.plotting.reporting import _page
from otcxr_sk.plotting.reporting._task import LEAST, check_labels, make_task, predict

HOSTILE = "<script>alert(1)</script>"
NAMES = ['<img src="x" onerror="alert(2)">', "effusion & more"]
BROKEN = 5


class Page(HTMLParser):
    """What a browser would find in a page."""

    def __init__(self, html):
        super().__init__()
        self.html, self.tags, self.words = html, [], []
        self.feed(html)
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.words.append(data)

    def all(self, attribute):
        return [attrs[attribute] for _, attrs in self.tags if attribute in attrs]


def read(path):
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def data():
    data = make_chest_phantoms(40, image_size=32, random_state=0)
    columns = [data.label_names.index(name) for name in ("cardiomegaly", "effusion")]
    return SimpleNamespace(
        images=data.images,
        y=data.labels[:, columns],
        groups=np.array([f"PLANTED-PATIENT-{group}" for group in data.groups]),
        train=np.flatnonzero(data.groups < np.unique(data.groups)[24]),
        test=np.flatnonzero(data.groups >= np.unique(data.groups)[24]),
    )


@pytest.fixture(scope="module")
def encoder(data):
    encoder = OTCXRPretrainer("resnet10t", image_size=32, epochs=1, random_state=0, on_error="nan")
    return encoder.fit(data.images[data.train], groups=data.groups[data.train])


@pytest.fixture(scope="module")
def paths(data, tmp_path_factory):
    """Files whose paths name patients; one of them, of a training patient, is broken."""
    folder = tmp_path_factory.mktemp("PLANTED-FOLDER")
    paths = [folder / f"PLANTED-FILE-{row}.png" for row in range(len(data.images))]
    for path, image in zip(paths, data.images, strict=True):
        Image.fromarray(image).save(path)
    paths[BROKEN].write_bytes(b"\x89PNG broken")
    return paths


def state_of_matplotlib():
    settings = {name: value for name, value in dict.items(matplotlib.rcParams) if name != "backend"}
    return settings, "matplotlib.pyplot" in sys.modules


@pytest.fixture(scope="module", autouse=True)
def _coarse_pictures():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_page, "_DPI", 36)
        yield


@pytest.fixture(scope="module")
def labeled(data, encoder, paths, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    before, drawn = state_of_matplotlib(), np.random.get_state()  # noqa: NPY002
    options = {"groups": data.groups, "label_names": NAMES, "title": HOSTILE, "random_state": 0}
    report(encoder, paths, data.y, path=path, **options)
    assert state_of_matplotlib() == before
    np.testing.assert_equal(np.random.get_state(), drawn)  # noqa: NPY002
    return read(path)


@pytest.mark.slow
def test_a_class_token_is_judged_and_not_explained(data, tmp_path):
    settings = {"image_size": 32, "epochs": 0, "random_state": 0, "pooling": "token"}
    encoder = OTCXRPretrainer("test_vit", **settings).fit(data.images[data.train])
    # Of a next fit, not of this one.
    encoder.set_params(pooling="mean")
    report(encoder, data.images, data.y, groups=data.groups, path=tmp_path / "report.html")
    assert "class token, which is no sum over regions" in read(tmp_path / "report.html").text


@pytest.fixture(scope="module")
def unlabeled(data, encoder, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    embedded = []

    class Counting(OTCXRPretrainer):
        def transform(self, X, *, out=None):
            embedded.append(X)
            return super().transform(X, out=out)

    counting = Counting(**encoder.get_params(deep=False))
    counting.__dict__.update(vars(encoder))
    report(counting, data.images, groups=data.groups, path=path, random_state=0)
    assert len(embedded) == 1
    return read(path)


def test_the_page_needs_nothing_from_outside(labeled):
    assert labeled.all("src")
    assert all(source.startswith("data:image/png;base64,") for source in labeled.all("src"))
    assert {link.removeprefix("#") for link in labeled.all("href")} <= set(labeled.all("id"))
    assert not {tag for tag, _ in labeled.tags} & {"link", "iframe", "object", "embed", "form"}
    assert not re.search(r"url\(|@import|https?:", labeled.html)
    policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert ("meta", {"http-equiv": "Content-Security-Policy", "content": policy}) in labeled.tags


def test_the_page_has_no_script(labeled):
    assert "script" not in {tag for tag, _ in labeled.tags}
    assert not [name for _, attrs in labeled.tags for name in attrs if name.startswith("on")]


def test_what_the_user_wrote_is_shown_as_text(labeled):
    assert labeled.text.startswith(HOSTILE)
    assert all(name in labeled.text for name in NAMES)
    assert HOSTILE not in labeled.html


def test_no_patient_and_no_file_is_named(labeled, unlabeled):
    for page in (labeled, unlabeled):
        pictures = [base64.b64decode(source.partition(",")[2]) for source in page.all("src")]
        for content in (page.html.encode(), *pictures):
            assert b"PLANTED" not in content
        # Pixels and their density: no text, no EXIF.
        chunks = {chunk for png in pictures for chunk in names_of_chunks(png)}
        assert chunks == {b"IHDR", b"pHYs", b"IDAT", b"IEND"}


def names_of_chunks(png):
    start = 8
    while start < len(png):
        yield png[start + 4 : start + 8]
        start += 12 + int.from_bytes(png[start : start + 4], "big")


def test_every_picture_is_described_and_explained(labeled):
    images = [attrs for tag, attrs in labeled.tags if tag == "img"]
    assert all(len(attrs["alt"]) > 20 for attrs in images)
    assert len(images) == sum(tag == "figcaption" for tag, _ in labeled.tags)


def test_without_labels_what_needs_them_is_left_out_and_the_page_says_so(labeled, unlabeled):
    needed = {"split", "calibration", "thresholds", "explanations"}
    assert needed < set(labeled.all("id"))
    assert not needed & set(unlabeled.all("id"))
    assert "No labels were given." in unlabeled.text


def test_an_image_that_cannot_be_used_is_counted(labeled, unlabeled):
    assert "unusable images 1 left out" in labeled.text
    assert "unusable images 0 left out" in unlabeled.text


@pytest.mark.slow
def test_the_numbers_are_those_of_evaluation(labeled, data, encoder, paths):
    # The test patients are those that the encoder was not trained on.
    Z, train, test = encoder.transform(paths), np.setdiff1d(data.train, BROKEN), data.test
    kept = np.setdiff1d(np.arange(len(Z)), BROKEN)
    task = {"groups": data.groups, "train": train, "test": test}
    assert "The encoder was trained on none of the test patients." in labeled.text
    assert f"effective rank {embedding_health(Z[kept]).effective_rank:.1f}" in labeled.text
    pixels = linear_probe(np.nan_to_num(pixel_features(data.images)), data.y, **task)
    mean = linear_probe(Z, data.y, **task)
    assert f"AUC, all labels {mean:.3f} raw pixels {pixels:.3f}" in labeled.text
    for name, truth in zip(NAMES, data.y.T, strict=True):
        probability = make_probe().fit(Z[train], truth[train]).predict_proba(Z[test])[:, 1]
        auc = linear_probe(Z, truth, **task)
        assert (
            f"{name} {len(test)} {truth[test].sum():.0f} {auc:.3f} "
            f"{100 * probability.mean():.1f} % {100 * truth[test].mean():.1f} % "
            f"{brier_score_loss(truth[test], probability):.3f} "
            f"{np.square(truth[test] - truth[train].mean()).mean():.3f}"
        ) in labeled.text


def test_a_collapsed_encoder_has_a_report_that_says_so(data, encoder, tmp_path):
    path = tmp_path / "report.html"
    report(encoder, np.repeat(data.images[:1], 4, axis=0), groups=[1, 1, 2, 2], path=path)
    assert "the encoder has collapsed" in read(path).text


@pytest.mark.slow
def test_the_same_seed_gives_the_same_page(labeled, data, encoder, paths, tmp_path):
    options = {"groups": data.groups, "label_names": NAMES, "title": HOSTILE, "random_state": 0}
    report(encoder, paths, data.y, path=tmp_path / "again.html", **options)
    assert (tmp_path / "again.html").read_text(encoding="utf-8") == labeled.html


def test_classes_with_names_are_judged_each_against_the_rest(data):
    y = np.where(data.y[:, 0] == 1, "large", np.where(data.y[:, 1] == 1, "wet", "well"))
    labels = check_labels(y.tolist(), len(y), None)
    task = make_task(labels, data.groups, None, 0)
    Z = np.random.default_rng(0).normal(size=(len(y), 4))
    found = predict(task, Z)
    assert [one.name for one in found] == ["large", "well", "wet"]
    np.testing.assert_allclose(sum(one.score for one in found), 1)
    np.testing.assert_array_equal(found[2].truth, y[task.test] == "wet")


@given(
    st.lists(st.integers(1, 3), min_size=30, max_size=50),
    st.integers(0, 50),
    st.integers(0, 2**31),
)
def test_no_patient_is_in_both_parts_and_each_has_enough_of_every_class(images, n_seen, seed):
    groups = np.repeat(np.arange(len(images)), images)
    random = np.random.default_rng(seed)
    values = random.choice([0, 1, np.nan], size=(len(groups), 2), p=[0.5, 0.4, 0.1])
    task = make_task(check_labels(values, len(groups), ["a", "b"]), groups, groups < n_seen, 0)
    if task is None:
        return
    assert not np.intersect1d(groups[task.train], groups[task.test]).size
    assert np.union1d(task.train, task.test).tolist() == list(range(len(groups)))
    for column in task.labels.values.T:
        for part in (task.train, task.test):
            assert min(len(np.unique(groups[part][column[part] == one])) for one in (0, 1)) >= LEAST


@pytest.mark.parametrize(
    ("n_seen", "n_test", "all_unseen"),
    [
        (None, 20, False),
        (60, 20, False),
        (0, 20, True),
        (15, 15, True),
        (40, 20, True),
        (56, 20, False),
    ],
)
def test_test_patients_are_unseen_ones_if_there_are_enough(n_seen, n_test, all_unseen):
    patients = np.arange(60)
    seen = None if n_seen is None else patients < n_seen
    task = make_task(check_labels(patients % 2, 60, None), patients, seen, 0)
    assert len(task.test) == n_test
    if seen is not None:
        assert all_unseen == (not seen[task.test].any())


def test_thresholds_depend_on_no_test_patient(data):
    labels = check_labels(data.y[:, 0], len(data.y), None)
    task = make_task(labels, data.groups, None, 0)
    Z = np.random.default_rng(0).normal(size=(len(data.y), 4))
    (before,) = predict(task, Z)
    task.labels.values[task.test] = 1 - task.labels.values[task.test]
    Z[task.test] = 7
    (after,) = predict(task, Z)
    np.testing.assert_array_equal(before.train_score, after.train_score)
    assert not np.array_equal(before.truth, after.truth)


def test_a_label_of_too_few_patients_is_not_judged(data):
    y = np.column_stack([data.y[:, 0], data.groups == data.groups[0]])
    task = make_task(check_labels(y, len(y), ["common", "rare"]), data.groups, None, 0)
    assert task.labels.names == ["common"]
    assert task.left_out == ["rare"]
    assert make_task(check_labels(y[:, 1], len(y), None), data.groups, None, 0) is None


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"groups": ["a"]}, ValueError, "groups has 1 row for 3 images"),
        ({"y": [0, 1]}, ValueError, "y must have a label of each of 3 images"),
        ({"y": [[0, 1], [0, 2], [1, 1]]}, ValueError, "must have 0, 1 or NaN"),
        ({"y": [None, None, None]}, ValueError, "no known label; leave it out"),
        ({"y": [0, 1, 1], "label_names": ["a", "b"]}, ValueError, "label_names has 2 names"),
        ({"path": "missing/report.html"}, OSError, "missing"),
        ({"path": "."}, OSError, "it is a folder"),
        ({"path": 7}, TypeError, "expected a path"),
    ],
)
def test_bad_input_is_refused_before_an_image_is_read(
    encoder, decoded, tmp_path, monkeypatch, changes, error, message
):
    monkeypatch.chdir(tmp_path)
    options = {"groups": ["a", "b", "c"], "path": "report.html", **changes}
    with pytest.raises(error, match=message):
        report(encoder, ["1.png", "2.png", "3.png"], **options)
    assert decoded == []
    assert list(tmp_path.iterdir()) == []


def test_only_a_fitted_pretrainer_has_a_report(tmp_path):
    options = {"groups": [1, 2], "path": tmp_path / "report.html"}
    with pytest.raises(TypeError, match="encoder must be an OTCXRPretrainer, got Pipeline"):
        report(make_probe(), np.zeros((2, 8, 8)), **options)
    with pytest.raises(ValueError, match="not fitted"):
        report(OTCXRPretrainer(), np.zeros((2, 8, 8)), **options)


def test_a_report_that_fails_leaves_the_earlier_one(encoder, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("earlier")
    with pytest.raises(ValueError, match="0 of 2"):
        report(encoder, ["missing1.png", "missing2.png"], groups=["a", "b"], path=path)
    assert [file.read_text() for file in tmp_path.iterdir()] == ["earlier"]


@pytest.mark.parametrize("library", ["matplotlib", "jinja2"])
def test_without_a_library_the_error_names_the_extra(encoder, tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"need {library}.*otcxr-sk\[plots\]"):
        report(encoder, np.zeros((2, 32, 32)), groups=[1, 2], path=tmp_path / "report.html")
