import numpy as np
import pytest
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage
from words import foreign

from otcxr_sk.images import ImageReadError, ImageReadWarning, UnusableImageWarning, read_image


@pytest.fixture(autouse=True)
def _plain_words(monkeypatch):
    """Check all that is said of images during a test."""
    said = []
    for kind in (ImageReadError, ImageReadWarning, UnusableImageWarning):
        monkeypatch.setattr(kind, "__init__", lambda _, *args: said.extend(args), raising=False)
    yield
    for message in said:
        assert not foreign(message), message


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (7, 20, 30), dtype=np.uint8)


@pytest.fixture
def paths(images, tmp_path):
    """Write `images` as PNG files."""
    files = [tmp_path / f"{row}.png" for row in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    return files


@pytest.fixture
def read(tmp_path):
    """Write the content of a file, and read it."""

    def read(content):
        path = tmp_path / "file"
        path.write_bytes(content)
        return read_image(path)

    return read


@pytest.fixture
def write_dicom(tmp_path):
    """Write gray or RGB pixels of 8 or 16 bits as an uncompressed DICOM file with these tags."""

    def write(pixels, *, name="image.dcm", syntax=ExplicitVRLittleEndian, preamble=True, **tags):
        pixels = np.asarray(pixels)
        dataset = Dataset()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.SOPClassUID = SecondaryCaptureImageStorage
        dataset.SOPInstanceUID = "1.2.3"
        dataset.Modality = "DX"
        dataset.Rows, dataset.Columns = pixels.shape[:2]
        dataset.SamplesPerPixel = 1 if pixels.ndim == 2 else 3
        dataset.PhotometricInterpretation = "MONOCHROME2" if pixels.ndim == 2 else "RGB"
        if pixels.ndim == 3:
            dataset.PlanarConfiguration = 0
        dataset.BitsAllocated = dataset.BitsStored = 8 * pixels.dtype.itemsize
        dataset.PixelRepresentation = int(pixels.dtype.kind == "i")
        order = "<" if syntax.is_little_endian else ">"
        dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(order)).tobytes()
        for keyword, value in tags.items():
            if value is None:
                delattr(dataset, keyword)
            else:
                setattr(dataset, keyword, value)
        dataset.HighBit = tags.get("HighBit", dataset.BitsStored - 1)
        path = tmp_path / name
        if preamble:
            dataset.save_as(path, enforce_file_format=True)
        else:
            del dataset.file_meta
            dataset.save_as(
                path,
                implicit_vr=syntax.is_implicit_VR,
                little_endian=syntax.is_little_endian,
            )
        return path

    return write
