"""Published test files, compared with readers that share no code with ours."""

import shutil
import subprocess
import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from otcxr_sk.images import ImageReadError, read_dicom

sitk = pytest.importorskip("SimpleITK")

WITH_PYDICOM = Path(get_testdata_file("CT_small.dcm")).parent
BESIDE_PYDICOM = find_spec("data_store")
FILES = sorted(WITH_PYDICOM.glob("*.dcm"))
if BESIDE_PYDICOM is not None and BESIDE_PYDICOM.origin is not None:
    FILES += sorted(Path(BESIDE_PYDICOM.origin).parent.glob("data/*.dcm"))

# Two damaged files, and two with a segmented palette.
REFUSED = {
    "JPEG2000-embedded-sequence-delimiter.dcm",
    "MR_truncated.dcm",
    "gdcm-US-ALOKA-16.dcm",
    "gdcm-US-ALOKA-16_big.dcm",
}


def has_pixels(path):
    header = pydicom.dcmread(path, force=True, defer_size=1024)
    return "PixelData" in header and header.get("BitsAllocated") in (8, 16)


def params(paths):
    """Return files as parameters; those of pydicom-data, which are many and large, are slow."""
    return [
        pytest.param(
            path, id=path.name, marks=[] if path.parent == WITH_PYDICOM else pytest.mark.slow
        )
        for path in paths
    ]


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    IMAGES = [path for path in FILES if has_pixels(path) and path.name not in REFUSED]
# Without its last bytes, which are no pixels.
CUT = "emri_small_jpeg_2k_lossless_too_short.dcm"
OTHERS = [path for path in FILES if path not in IMAGES and path.name != CUT]

PERCENTILES, EXACT = [0.5, 99.5], "inverted_cdf"

# Palettes in big-endian files, and RLE color of more than 8 bits. The same images are among the
# files in another encoding.
BEYOND_ITK = {
    "OBXXXX1A_expb.dcm",
    "OBXXXX1A_expb_2frame.dcm",
    "SC_rgb_rle_16bit.dcm",
    "SC_rgb_rle_16bit_2frame.dcm",
}

pytestmark = pytest.mark.filterwarnings("ignore:.*in color:otcxr_sk.images.ImageReadWarning")


def read(path):
    """Return header and first frame, whatever the modality."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path, stop_before_pixels=True, force=True)
        return header, read_dicom(path, modalities={header.get("Modality")}, frame=0)


def by_the_standard(values, header):
    """Apply window, or else percentiles, and polarity to values of another reader."""
    mono1 = header.PhotometricInterpretation == "MONOCHROME1"
    slope, intercept = (
        float(header.get("RescaleSlope", 1)),
        float(header.get("RescaleIntercept", 0)),
    )
    if mono1:
        # ITK inverts the stored values before it rescales them.
        values = slope * (2**header.BitsStored - 1) + 2 * intercept - values
    if "WindowCenter" in header:
        center, width = (
            float(np.atleast_1d(header[f"Window{part}"].value)[0]) for part in ("Center", "Width")
        )
        shown = (values - (center - 0.5)) / (width - 1) + 0.5
    else:
        padding = header.get("PixelPaddingValue")
        kept = values if padding is None else values[values != slope * padding + intercept]
        low, high = np.percentile(kept, PERCENTILES, method=EXACT)
        shown = (values - low) / (high - low)
    shown = np.clip(shown, 0, 1)
    return 1 - shown if mono1 else shown


def agrees_with_simpleitk(path):
    header, shown = read(path)
    if path.name in BEYOND_ITK or "ModalityLUTSequence" in header or "VOILUTSequence" in header:
        pytest.skip("ITK and dcmtk differ")
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))[0].astype(np.float64)
    if values.ndim == 3:
        expected = values @ [0.299, 0.587, 0.114] / (2**header.BitsStored - 1)
        # From YBR to RGB and back, chroma is clipped and rounded.
        exact = header.PhotometricInterpretation in ("RGB", "YBR_RCT", "PALETTE COLOR")
        tolerance = 1 / 255 if exact else 0.035
    else:
        expected = by_the_standard(values, header)
        tolerance = 1e-5
    np.testing.assert_allclose(shown, expected, atol=tolerance)


@pytest.mark.parametrize("path", params(OTHERS))
def test_files_without_a_whole_image_are_refused(path):
    with pytest.raises(ImageReadError, match=path.name):
        read(path)


@pytest.mark.parametrize("path", params([path for path in FILES if path.name == CUT]))
def test_a_file_that_lacks_nothing_but_its_end_is_read(path):
    whole = path.with_name("emri_small_jpeg_2k_lossless.dcm")
    for frame in (0, 9):
        images = [read_dicom(file, modalities={"MR"}, frame=frame) for file in (path, whole)]
        np.testing.assert_array_equal(*images)


@pytest.mark.parametrize("path", params(IMAGES))
def test_simpleitk_agrees(path):
    agrees_with_simpleitk(path)


def agrees_with_dcmtk(path, scratch):
    header, shown = read(path)
    command = ["dcmj2pnm", "--frame", "1", "--write-16-bit-pnm", "--no-overlays"]
    gray = header.PhotometricInterpretation.startswith("MONOCHROME")
    windowed = "VOILUTSequence" in header or "WindowCenter" in header
    if gray and not windowed:
        command.append("--min-max-window")
    elif gray:
        command += ["--use-voi-lut" if "VOILUTSequence" in header else "--use-window", "1"]
    converted = scratch / "image.pnm"
    done = subprocess.run([*command, str(path), str(converted)], capture_output=True, check=False)
    if done.returncode:
        pytest.skip("dcmtk cannot read this")
    values = np.asarray(Image.open(converted)).astype(np.float64)
    tolerance = 2e-5
    if values.ndim == 3:
        expected, tolerance = values @ [0.299, 0.587, 0.114] / 255, 0.035
    elif windowed:
        expected = values / 65535
        if "VOILUTSequence" in header:
            # dcmtk takes 8-bit entries for the upper half of 16 bits.
            tolerance = 1 / 255
        elif header.get("RescaleSlope", 1) % 1:
            # dcmtk rounds the window to integers.
            tolerance = 0.001
    else:
        # Another linear map of the same values has its percentiles at the same pixels.
        mono1 = header.PhotometricInterpretation == "MONOCHROME1"
        kept = values if "PixelPaddingValue" not in header else values[values != values.min()]
        low, high = np.percentile(65535 - kept if mono1 else kept, PERCENTILES, method=EXACT)
        expected = np.clip(((65535 - values if mono1 else values) - low) / (high - low), 0, 1)
        expected = 1 - expected if mono1 else expected
        tolerance += 2 / (high - low)
    np.testing.assert_allclose(shown, expected, atol=tolerance)


@pytest.mark.skipif(shutil.which("dcmj2pnm") is None, reason="needs dcmtk's dcmj2pnm")
@pytest.mark.parametrize("path", params(IMAGES))
def test_dcmtk_agrees(path, tmp_path):
    agrees_with_dcmtk(path, tmp_path)


def test_real_files_agree(real_data, subtests):
    for path in sorted((real_data / "raw_samples").glob("dicom*/*.dcm")):
        with subtests.test(path.name):
            agrees_with_simpleitk(path)
