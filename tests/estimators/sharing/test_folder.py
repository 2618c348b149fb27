"""A model appears whole or not at all, and takes the place of nothing but a model."""

import copy
import os
import shutil
import time

import numpy as np
import pytest
from sklearn.exceptions import NotFittedError
from torch import nn

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.estimators.sharing import _folder, _model

pytestmark = pytest.mark.usefixtures("equal_networks_are_measured_once")


def load(folder):
    return OTCXRPretrainer.from_pretrained(folder)


class Patches(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 16, 8, stride=8)

    def forward(self, images):
        return self.stem(images)


def test_a_module_cannot_be_shared_by_name_and_nothing_is_written(tiny, X, tmp_path):
    with pytest.raises(ValueError, match=r"Patches.*joblib.dump.*save_encoder.*export_onnx"):
        tiny(Patches(), epochs=0).fit(X).save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_only_a_fitted_estimator_is_saved(tiny, tmp_path):
    with pytest.raises(NotFittedError):
        tiny().save_pretrained(tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def test_another_dtype_or_a_missing_folder_is_an_error(fitted, tmp_path):
    for dtype in ("bfloat16", None, ["float32"]):
        with pytest.raises(ValueError, match="dtype must be"):
            fitted.save_pretrained(tmp_path / "model", dtype)
    with pytest.raises(ValueError, match="create it first"):
        fitted.save_pretrained(tmp_path / "no" / "model")
    assert list(tmp_path.iterdir()) == []


def test_what_could_not_be_read_is_not_written(fitted, tmp_path):
    broken = copy.deepcopy(fitted).set_params(batch_size=-1)
    with pytest.raises(ValueError, match=r"cannot be shared.*batch_size"):
        broken.save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match=r"README.md would have"):
        fitted.save_pretrained(tmp_path / "model", data="x" * 2**21)
    assert list(tmp_path.iterdir()) == []


def test_a_model_is_replaced_only_when_that_is_asked_for(fitted, tiny, X, copied):
    other = tiny(epochs=0, random_state=1).fit(X)
    before = {file.name: file.read_bytes() for file in copied.iterdir()}
    with pytest.raises(FileExistsError, match="overwrite=True"):
        other.save_pretrained(copied)
    assert {file.name: file.read_bytes() for file in copied.iterdir()} == before
    other.save_pretrained(copied, overwrite=True)
    np.testing.assert_array_equal(load(copied).weights_, other.weights_)
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]


def an_empty_folder(place, folder):
    place.mkdir()


def a_folder_of_others(place, folder):
    place.mkdir()
    (place / "thesis.tex").write_text("years of work")


def a_model_of_others(place, folder):
    place.mkdir()
    (place / "config.json").write_text('{"model_type": "bert"}')
    (place / "README.md").write_text("years of work")


def a_model_with_notes(place, folder):
    shutil.copytree(folder, place)
    (place / "notes.txt").write_text("years of work")


def a_file(place, folder):
    place.write_text("years of work")


def a_link_to_a_model(place, folder):
    place.symlink_to(shutil.copytree(folder, place.parent / "model"))


def a_dangling_link(place, folder):
    place.symlink_to("nowhere")


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize(
    "what",
    [
        an_empty_folder,
        a_folder_of_others,
        a_model_of_others,
        a_model_with_notes,
        a_file,
        a_link_to_a_model,
        a_dangling_link,
    ],
)
def test_what_is_no_model_of_ours_is_never_replaced(fitted, folder, what, overwrite, tmp_path):
    what(tmp_path / "place", folder)
    before = sorted(os.walk(tmp_path))
    with pytest.raises(FileExistsError, match="choose another"):
        fitted.save_pretrained(tmp_path / "place", overwrite=overwrite)
    assert sorted(os.walk(tmp_path)) == before


@pytest.mark.parametrize("broken", ["write", "add_checksums", "ModelFolder"])
def test_a_failure_leaves_what_was_there(fitted, copied, monkeypatch, broken):
    def fail(*args, **options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(_model, broken, fail)
    for place, overwrite in [(copied, True), (copied.parent / "new", False)]:
        with pytest.raises(OSError, match="No space"):
            fitted.save_pretrained(place, overwrite=overwrite)
    monkeypatch.undo()
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]
    load(copied)


def test_a_model_stays_if_the_new_one_cannot_take_its_place(fitted, copied, monkeypatch):
    moved, rename = [], os.rename

    def fail_once(source, target):
        moved.append(target)
        if len(moved) == 2:
            raise OSError(5, "Input/output error")
        rename(source, target)

    monkeypatch.setattr(_folder.os, "rename", fail_once)
    with pytest.raises(OSError, match="Input/output"):
        fitted.save_pretrained(copied, overwrite=True)
    assert [path.name for path in copied.parent.iterdir()] == ["copy"]
    load(copied)


def test_of_several_who_save_at_once_the_first_one_wins(fitted, tmp_path, monkeypatch):
    def save_first(folder, usual=_model.add_checksums):
        monkeypatch.setattr(_model, "add_checksums", usual)
        fitted.save_pretrained(tmp_path / "model", data="The first.")
        usual(folder)

    monkeypatch.setattr(_model, "add_checksums", save_first)
    with pytest.raises(FileExistsError, match="meanwhile"):
        fitted.save_pretrained(tmp_path / "model")
    assert "The first." in (tmp_path / "model" / "README.md").read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_what_a_killed_process_left_is_removed_a_day_later(fitted, folder, tmp_path):
    left = tmp_path / f".otcxr-{'0' * 32}.part"
    whole = shutil.copytree(folder, tmp_path / f".otcxr-{'1' * 32}.part")
    recent = tmp_path / f".otcxr-{'2' * 32}.part"
    for place in (left, recent):
        place.mkdir()
        (place / "config.json").write_text("{}")
    for place in (left, whole):
        os.utime(place, (time.time() - 90_000,) * 2)
    fitted.save_pretrained(tmp_path / "model")
    assert not left.exists()
    assert recent.exists()
    assert whole.exists()


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such permissions")
def test_what_is_written_is_for_this_user_alone(folder):
    assert {path.stat().st_mode & 0o077 for path in [folder, *folder.iterdir()]} == {0}
