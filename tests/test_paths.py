"""`~` is the home folder in every path that a user can give."""

import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from otcxr_sk import Cache, Checkpoint, OTCXRPretrainer
from otcxr_sk._paths import as_path
from otcxr_sk.cli import main
from otcxr_sk.datasets import find_near_duplicates, get_data_home, load_labelled, load_nih
from otcxr_sk.images import (
    PathSource,
    list_images,
    read_dicom,
    read_dicom_table,
    read_image,
)
from otcxr_sk.training import CSVLogger, TensorBoardLogger

FILES = [f"~/images/{row}.png" for row in range(4)]


def make(**parameters):
    settings = {"image_size": 32, "epochs": 0, "batch_size": 4, "random_state": 0, **parameters}
    return OTCXRPretrainer("test_resnet", **settings)


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder with images, and an empty folder as the current one."""
    folder, current = tmp_path / "home", tmp_path / "current"
    (folder / "images").mkdir(parents=True)
    current.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(current)
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32), np.uint8)
    for row, image in enumerate(images):
        Image.fromarray(image).save(folder / "images" / f"{row}.png")
    (folder / "labels.csv").write_text(
        "path,patient_id,sick\n" + "".join(f"{row}.png,{row},{row % 2}\n" for row in range(4))
    )
    yield folder
    assert os.listdir(current) == []


WRITTEN = {
    "out": ("z.npy", lambda: make().fit(FILES).transform(FILES, out="~/z.npy")),
    "save_encoder": ("e.safetensors", lambda: make().fit(FILES).save_encoder("~/e.safetensors")),
    "checkpoint": ("runs", lambda: make(checkpoint="~/runs", epochs=1).fit(FILES)),
    "Checkpoint": (
        "runs",
        lambda: make(checkpoint=Checkpoint(Path("~/runs")), epochs=1).fit(FILES),
    ),
    "cache": ("kept", lambda: make(cache="~/kept").fit(FILES)),
    "Cache": ("kept", lambda: make(cache=Cache(Path("~/kept"))).fit(FILES)),
    "CSVLogger": ("log/1.csv", lambda: make(callbacks=[CSVLogger("~/log/1.csv")]).fit(FILES)),
    "TensorBoardLogger": ("b", lambda: make(callbacks=[TensorBoardLogger("~/b")]).fit(FILES)),
    "data_home": ("data", lambda: get_data_home("~/data")),
}


@pytest.mark.parametrize("what", WRITTEN)
def test_what_is_written_goes_to_the_home_folder(what, home):
    place, write = WRITTEN[what]
    write()
    assert (home / place).exists()


def weights_of_home():
    make().fit(FILES).save_encoder("~/e.safetensors")
    return make(weights="~/e.safetensors").fit(FILES)


def info_of_home():
    make(checkpoint="~/runs", epochs=1).fit(FILES)
    assert main(["info", "~/runs"]) == 0


READ = {
    "paths": lambda: PathSource(FILES).read([0], 8),
    "path objects": lambda: PathSource(map(Path, FILES)).read([0], 8),
    "folder": lambda: make().fit("~/images"),
    "list_images": lambda: list_images("~/images"),
    "read_image": lambda: read_image("~/images/0.png"),
    "load_labelled": lambda: load_labelled("~/images", "~/labels.csv"),
    "find_near_duplicates": lambda: find_near_duplicates(FILES),
    "weights": weights_of_home,
    "info": info_of_home,
}


@pytest.mark.parametrize("what", READ)
@pytest.mark.usefixtures("home")
def test_what_is_read_is_looked_for_in_the_home_folder(what):
    READ[what]()


def test_dicom_files_are_looked_for_in_the_home_folder(home):
    (home / "ct.dcm").write_bytes(Path(get_testdata_file("CT_small.dcm")).read_bytes())
    assert read_dicom("~/ct.dcm", modalities={"CT"}).shape == (128, 128)
    assert read_dicom_table(["~/ct.dcm"])["modality"] == ["CT"]


def test_a_reader_of_a_published_set_looks_in_the_home_folder(home):
    with pytest.raises(FileNotFoundError, match=str(home / "nih")):
        load_nih("~/nih")


def test_parameters_stay_as_they_were_given(home):
    estimator = make(checkpoint="~/runs", cache=Cache("~/kept"), epochs=1).fit(FILES)
    assert estimator.checkpoint == "~/runs"
    assert estimator.cache.folder == "~/kept"
    assert (home / "runs").is_dir()


def test_a_run_continues_under_either_name_of_its_folder_and_weights(home):
    make().fit(FILES).save_encoder("~/e.safetensors")
    make(checkpoint="~/runs", weights="~/e.safetensors").fit(FILES)
    make(checkpoint=home / "runs", weights=str(home / "e.safetensors")).fit(FILES)


@pytest.mark.parametrize(
    ("path", "whole"),
    [
        ("~", "{home}"),
        ("~/a/~b", "{home}/a/~b"),
        (Path("~") / "a", "{home}/a"),
        (b"~/a", "{home}/a"),
        ("./~/a", "./~/a"),
        ("a/~", "a/~"),
        ("~nobody-of-that-name/a", "~nobody-of-that-name/a"),
        ("", ""),
    ],
)
def test_only_the_start_of_a_path_stands_for_the_home_folder(path, whole, home):
    assert as_path(path) == whole.format(home=home)


@pytest.mark.parametrize("path", [None, 5, ["a"]])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(TypeError, match="expected a path"):
        as_path(path)


def test_an_unknown_home_folder_is_an_error(monkeypatch):
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ValueError, match="'~/runs': the home folder is not known here"):
        as_path("~/runs")
