"""Damaged and hostile DICOM files, read in a process of their own, since a codec may end it."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import (
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
)

MUTANTS = 2000
SECONDS, MEBIBYTES = 2, 512

ENCODERS = {
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


def put_stream(path, syntax, stream):
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pydicom.encaps.encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)


@pytest.fixture
def coded_files(write_dicom):
    """One picture by codecs of which other people's files hold few."""
    wave = np.sin(np.add.outer(np.arange(200) / 40, np.arange(240) / 30))
    noise = np.random.default_rng(0).normal(0, 20, wave.shape)
    pixels = (1800 * (1 + wave) + noise).clip(0, 4095).astype(np.uint16)
    tags = {"BitsStored": 12, "WindowCenter": 2048, "WindowWidth": 4096}
    paths = []
    for number, (syntax, encode) in enumerate(ENCODERS.items()):
        paths.append(write_dicom(pixels, name=f"coded{number}.dcm", **tags))
        put_stream(paths[-1], syntax, encode(pixels))
    return paths


def in_subprocess(arguments):
    here = Path(__file__).parent
    environment = {"PYTHONPATH": f"{here}{os.pathsep}{here.parents[1]}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def reports(seed, count, files, scratch):
    """What became of damaged files; an ended process or one too slow is a failure."""
    modalities = {
        str(pydicom.dcmread(file, stop_before_pixels=True, force=True).get("Modality"))
        for file in files
    }
    worker = Path(__file__).with_name("dicom_mutants.py")
    done = in_subprocess([worker, str(seed), str(count), ",".join(modalities), scratch, *files])
    lines = done.stdout.splitlines()
    assert done.returncode == 0, f"process ended at {lines[-1:]}: {done.stderr[-2000:]}"
    assert not done.stderr
    found = [report for report in map(json.loads, lines) if "outcome" in report]
    assert len(found) == int(count)
    return found


def require_harmless(found):
    assert {report["outcome"] for report in found} == {"picture", "error"}
    slow = [report for report in found if report["seconds"] > SECONDS]
    assert not slow
    assert max(report["peak_mib"] for report in found) < MEBIBYTES


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_damaged_real_files_end_in_a_picture_or_an_error_in_time_and_memory(tmp_path, request):
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
    require_harmless(reports(0, MUTANTS, files, tmp_path))


@pytest.mark.parametrize("count", [100, pytest.param(MUTANTS, marks=pytest.mark.slow)])
def test_damaged_streams_of_every_codec_end_in_a_picture_or_an_error(coded_files, tmp_path, count):
    found = reports(0, count, coded_files, tmp_path)
    require_harmless(found)
    assert {report["outcome"] for report in found} == {"picture", "error"}


@pytest.mark.slow
@pytest.mark.parametrize("samples", [1, 3])
@pytest.mark.parametrize("syntax", [JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless])
def test_the_largest_picture_allowed_fits_the_memory(write_dicom, syntax, samples):
    # Blank, so that a stream of some kilobytes holds it.
    rows, columns = 8000, int(Image.MAX_IMAGE_PIXELS * 0.75 / samples / 8000)
    pixels = np.zeros((rows, columns, 3)[: 2 + (samples == 3)], dtype=np.uint16)
    path = write_dicom(pixels[:1, :1], Rows=rows, Columns=columns, BitsStored=12)
    put_stream(path, syntax, ENCODERS[syntax](pixels))
    script = "import sys, dicom_mutants as m; print(m.read(sys.argv[1], None), m.peak_mebibytes())"
    done = in_subprocess(["-c", script, path])
    outcome, peak = done.stdout.split()
    assert outcome == "picture"
    assert float(peak) < MEBIBYTES
