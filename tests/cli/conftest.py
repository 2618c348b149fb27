"""Sixty-four phantoms of 16 patients as files with a table, and a model that takes no time."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image

from otcxr_sk import OTCXRPretrainer
from otcxr_sk.cli import main
from otcxr_sk.datasets import make_chest_phantoms

PATIENTS = 16


@pytest.fixture(scope="session")
def phantoms():
    return make_chest_phantoms(PATIENTS, images_per_patient=4, image_size=64, random_state=0)


@pytest.fixture(scope="session")
def folder(tmp_path_factory, phantoms):
    """Images, and labels.csv: a label, one class, an age, a part, and patients by name."""
    folder = tmp_path_factory.mktemp("data")
    with open(folder / "labels.csv", "w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "patient_id", "sick", "one", "age", "part"])
        for row, image in enumerate(phantoms.images):
            patient = row // 4
            Image.fromarray(image).save(folder / f"PLANTED-{row:02}.png")
            part = "train" if patient < 10 else "test"
            writer.writerow(
                [f"PLANTED-{row:02}.png", f"PLANTED{patient}", patient % 2, 1, 30 + row, part]
            )
    return folder


@pytest.fixture(scope="session")
def model(tmp_path_factory, phantoms):
    encoder = OTCXRPretrainer("test_resnet", image_size=32, epochs=0, random_state=0)
    path = tmp_path_factory.mktemp("models") / "model"
    encoder.fit(phantoms.images).save_pretrained(path)
    return path


@pytest.fixture(scope="session")
def embedding(model, folder):
    files = sorted(str(file) for file in folder.glob("*.png"))
    return OTCXRPretrainer.from_pretrained(model).transform(files)


@pytest.fixture
def run(capsysbinary):
    """Run the command line; return exit status, stdout (bytes) and stderr."""

    def call(*arguments):
        status = main([*map(str, arguments)])
        out, error = capsysbinary.readouterr()
        return status, out, error.decode()

    return call


@pytest.fixture
def as_json(run):
    """Run a command with --json; return exit status, and what each line of stdout holds."""

    def call(*arguments):
        status, out, _ = run(*arguments, "--json")
        return status, [json.loads(line) for line in out.splitlines()]

    return call


@pytest.fixture
def on_stdin(monkeypatch):
    def give(content):
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))

    return give


@pytest.fixture
def dicom(tmp_path):
    """Write a DX image of 12 bits, with whatever a test changes, and return its path."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

    def write(name="image.dcm", stored=None, **elements):
        stored = np.arange(64 * 48).reshape(64, 48) if stored is None else stored
        data = Dataset()
        data.SOPClassUID, data.SOPInstanceUID = DigitalXRayImageStorageForPresentation, "1.2.3"
        data.Modality, data.PhotometricInterpretation = "DX", "MONOCHROME2"
        data.PatientID = "PLANTED"
        data.Rows, data.Columns = stored.shape
        data.SamplesPerPixel, data.PixelRepresentation = 1, 0
        data.BitsAllocated, data.BitsStored, data.HighBit = 16, 12, 11
        data.PixelData = stored.astype("<u2").tobytes()
        for keyword, value in elements.items():
            setattr(data, keyword, value)
        data.file_meta = FileMetaDataset()
        data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        data.save_as(tmp_path / name, enforce_file_format=True)
        return tmp_path / name

    return write
