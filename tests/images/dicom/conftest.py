import pydicom
import pytest


@pytest.fixture
def write_coded(write_dicom):
    """Write a DICOM file with the header for `pixels` and a compressed stream as its data."""

    def write(pixels, syntax, stream, **tags):
        path = write_dicom(pixels, **tags)
        dataset = pydicom.dcmread(path)
        dataset.file_meta.TransferSyntaxUID = syntax
        dataset.PixelData = pydicom.encaps.encapsulate([stream])
        dataset["PixelData"].is_undefined_length = True
        dataset.save_as(path)
        return path

    return write
