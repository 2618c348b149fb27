"""Damaged and hostile DICOM files, read in a subprocess, since a codec may crash it."""

import time
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from bounded import MEBIBYTES, SECONDS, reports_of
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

from otcxr_sk.images import ImageReadError, read_dicom

MUTANTS, MUTANTS_OF = 2000, Path(__file__).with_name("mutants.py")


def baseline(pixels):
    return imagecodecs.jpeg8_encode((pixels >> 4).astype(np.uint8), 95)


ENCODERS = {
    JPEGBaseline8Bit: baseline,
    JPEGExtended12Bit: lambda pixels: imagecodecs.jpeg8_encode(pixels, 97, bitspersample=12),
    JPEGLosslessSV1: lambda pixels: imagecodecs.jpeg8_encode(
        pixels, lossless=True, predictor=1, bitspersample=12
    ),
    JPEGLSLossless: imagecodecs.jpegls_encode,
    JPEG2000Lossless: lambda pixels: imagecodecs.jpeg2k_encode(
        pixels, level=0, codecformat="j2k", reversible=True
    ),
    HTJ2KLossless: imagecodecs.htj2k_encode,
}


@pytest.fixture
def coded_files(write_coded):
    """Write one image with codecs that are rare among published test files."""
    wave = np.sin(np.add.outer(np.arange(200) / 40, np.arange(240) / 30))
    noise = np.random.default_rng(0).normal(0, 20, wave.shape)
    pixels = (1800 * (1 + wave) + noise).clip(0, 4095).astype(np.uint16)
    tags = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
    return [
        write_coded(pixels, syntax, encode(pixels), name=f"coded{number}.dcm", **tags)
        for number, (syntax, encode) in enumerate(ENCODERS.items())
    ]


def reports(count, files, scratch):
    """Return what became of `count` damaged files; fail if the process that reads them ends."""
    modalities = {
        str(pydicom.dcmread(file, stop_before_pixels=True, force=True).get("Modality"))
        for file in files
    }
    found = reports_of(MUTANTS_OF, count, ",".join(modalities), scratch, *files, quiet=True)
    assert len(found) == count
    return found


def require_harmless(found):
    assert {report["outcome"] for report in found} == {"image", "error"}
    slow = [report for report in found if report["seconds"] > SECONDS]
    assert not slow
    assert max(report["peak_mib"] for report in found) < MEBIBYTES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_damaged_real_files_are_images_or_errors_within_time_and_memory(tmp_path, request):
    files = sorted(Path(get_testdata_file("CT_small.dcm")).parent.glob("*.dcm"))
    beside = find_spec("data_store")
    if beside is not None and beside.origin is not None:
        files += sorted(Path(beside.origin).parent.glob("data/*.dcm"))
    try:
        real_data = request.getfixturevalue("real_data")
    except pytest.skip.Exception:
        pass
    else:
        files += sorted((real_data / "raw_samples").glob("dicom*/*.dcm"))
    require_harmless(reports(MUTANTS, files, tmp_path))


@pytest.mark.parametrize("count", [100, pytest.param(MUTANTS, marks=pytest.mark.slow)])
def test_damaged_streams_of_every_codec_are_images_or_errors(coded_files, tmp_path, count):
    require_harmless(reports(count, coded_files, tmp_path))


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless])
def test_the_largest_image_allowed_fits_into_memory(write_coded, syntax, samples):
    # Blank, so that it compresses to some kilobytes.
    rows, columns = 8000, int(Image.MAX_IMAGE_PIXELS / 1.5 / samples / 8000)
    pixels = np.zeros((rows, columns, 3)[: 2 + (samples == 3)], dtype=np.uint16)
    tags = {"Rows": rows, "Columns": columns, "BitsStored": 12}
    path = write_coded(pixels[:1, :1], syntax, ENCODERS[syntax](pixels), **tags)
    script = (
        f"import json, sys; sys.path.append({str(MUTANTS_OF.parent)!r}); import mutants as m\n"
        "print(json.dumps([m.read(sys.argv[1], None), m.peak_mebibytes()]))"
    )
    ((outcome, peak),) = reports_of("-c", script, path)
    assert outcome == "image"
    assert peak < MEBIBYTES


@pytest.mark.parametrize(
    ("elements", "what"),
    [
        ([("WindowCenter", "UT", "9e9\\" * 50_000), ("WindowWidth", "UT", "1.5\\" * 50_000)], None),
        ([("WindowCenter", "UT", b"\x1b" * 200_000)], None),
        ([("NumberOfFrames", "IS", "99999999999 ")], "make"),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_a_long_value_costs_no_more_than_a_short_one(raw, elements, what):
    tags = {keyword: (vr, value) for keyword, vr, value in elements}
    path = raw.image(np.arange(160_000, dtype=np.uint16).reshape(400, 400), **tags)
    began = time.process_time()
    with pytest.raises(ImageReadError, match=what) if what else nullcontext():
        read_dicom(path, frame=0)
    assert time.process_time() - began < SECONDS


def test_a_jpeg_2000_stream_of_too_many_tiles_is_refused(raw):
    pixels = np.zeros((400, 400), np.uint8)
    stream = bytearray(imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k"))
    # Of the size of a tile.
    stream[24:32] = (1).to_bytes(4) * 2
    path = raw.image(pixels, coded=raw.fragments(bytes(stream)), syntax=JPEG2000Lossless)
    with pytest.raises(ImageReadError, match="more tiles"):
        read_dicom(path)
