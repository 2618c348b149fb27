"""The ablation, apart from the test patients, and its controls."""

from contextlib import nullcontext
from types import SimpleNamespace

import ablate
import numpy as np
import pytest
import torch
from controls import averaged, mean_only, places_shuffled, shuffled
from results import read_csv
from small_studies import SMALL, arguments, guesses
from study import laptop, split_off

from otcxr_sk import LAPTOP, OTCXRPretrainer
from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.method import _model
from otcxr_sk.method._read_out import ReadOut

pytestmark = pytest.mark.filterwarnings("ignore::otcxr_sk.estimators.CollapseWarning")


@pytest.mark.slow
@pytest.mark.usefixtures("few_draws")
def test_an_ablation_leaves_the_test_patients_out_and_repeats_nothing(
    folder, phantoms, monkeypatch
):
    seen, fit = [], OTCXRPretrainer.fit
    monkeypatch.setattr(OTCXRPretrainer, "fit", lambda self, X: seen.append(X) or fit(self, X))
    monkeypatch.setattr("study.LAPTOP", SMALL)
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


@pytest.mark.slow
def test_an_ablation_on_phantoms_evaluates_masks_too(tmp_path, monkeypatch):
    monkeypatch.setattr("study.LAPTOP", {**LAPTOP, "epochs": 1, "image_size": 32})
    out = tmp_path / "ablation.csv"
    words = f"--phantoms 80 --seeds 1 --cache {tmp_path / 'cache'} --out {out}"
    ablate.main([*words.split(), "--variants", ablate.PIXELS, "laptop"])
    pixels, laptop = read_csv(out)
    assert pixels["lung masks, 10 %"] == "nan"
    assert 0.5 < float(laptop["lung masks, 10 %"]) < 1
    assert 0 <= float(laptop["lesion masks, 1 %"]) < float(laptop["lung masks, 1 %"])


def test_an_ablation_has_a_control_in_force_in_fit_alone_and_a_mean_of_each_collection(study):
    read, seen = ReadOut.forward, []

    class Spy:
        device = "cpu"

        def fit(self, images):
            seen.append((len(images), ReadOut.forward is read))

        def transform(self, images):
            seen.append((len(images), ReadOut.forward is read))
            return guesses(len(images), 0)

        def match(self, images, random_state):
            return SimpleNamespace(accuracy=0.5)

    found = ablate.run(study, "the mean only", Spy())
    assert seen == [(len(study.parts()[0]), False), (len(study.images), True)]
    numbers = ablate.numbers_of(study, found)
    tasks = [f"task 1{task}, {share} %" for task in range(2) for share in (20, 100)]
    assert numbers["mean of a"] == pytest.approx(np.mean([numbers[task] for task in tasks]))
    assert numbers["mean"] == pytest.approx((numbers["mean of a"] + numbers["mean of b"]) / 2)
    assert not any("known" in column for column in numbers)


def test_tokens_are_shuffled_within_their_image_and_anew_each_time():
    shown, generator = torch.randn(3, 16, 5), torch.Generator().manual_seed(0)
    first, second = shuffled(shown, generator), shuffled(shown, generator)
    assert not first.equal(second)
    for found in first, second:
        assert not found.equal(shown)
        assert [set(map(tuple, image.tolist())) for image in found] == [
            set(map(tuple, image.tolist())) for image in shown
        ]


def test_the_read_out_that_sees_the_mean_only_cannot_tell_where_tokens_are():
    torch.manual_seed(0)
    read, values = ReadOut(8, 4, width=16), torch.randn(2, 6, 8)
    places, asked, sizes = torch.randn(2, 6, 2), torch.randn(2, 3, 2), torch.randn(2, 3, 2)
    moved = values.flip(1)
    assert not read(values, places, asked, sizes).allclose(read(moved, places, asked, sizes))
    with mean_only():
        told = read(values, places, asked, sizes)
        torch.testing.assert_close(read(moved, places, asked, sizes), told)
    torch.testing.assert_close(averaged(values)[:, 3], values.mean(1))


def test_controls_change_the_read_out_and_leave_the_library_as_it_was():
    # The last map has four places.
    images = make_chest_phantoms(8, images_per_patient=1, image_size=64, random_state=0).images
    before = ReadOut.forward, _model.reading_error

    def losses(control=nullcontext, **changes):
        estimator = laptop(encoder="test_resnet", epochs=1, random_state=0, **changes)
        with control():
            return estimator.fit(images).history_["loss"]

    whole, without = losses(objective__read_out=40.0), losses(objective__read_out=0.0)
    for control in places_shuffled, mean_only:
        assert losses(control, objective__read_out=40.0) != whole
        assert losses(control, objective__read_out=0.0) == without
        assert (ReadOut.forward, _model.reading_error) == before
