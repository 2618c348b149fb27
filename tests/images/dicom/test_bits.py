"""Which bits of a word hold a sample: every combination, through every codec."""

import shutil
import subprocess
import warnings

import imagecodecs
import numpy as np
import pytest
from pydicom.uid import HTJ2KLossless, JPEG2000Lossless, JPEGLosslessSV1, JPEGLSLossless

from otcxr_sk.images import ImageReadWarning, read_dicom

SMOOTH = np.clip(
    np.add.outer(np.linspace(0, 0.6, 48), np.linspace(0, 0.35, 64))
    + np.random.default_rng(0).normal(0, 0.01, (48, 64)),
    0,
    1,
)

ENCODERS = {
    JPEGLosslessSV1: lambda words, bits: imagecodecs.jpeg8_encode(
        words, lossless=True, predictor=1, bitspersample=bits
    ),
    JPEG2000Lossless: lambda words, bits: imagecodecs.jpeg2k_encode(
        words, level=0, codecformat="j2k", reversible=True, bitspersample=bits
    ),
    JPEGLSLossless: lambda words, bits: imagecodecs.jpegls_encode(words, 0),
    HTJ2KLossless: lambda words, bits: imagecodecs.htj2k_encode(words),
}


class Image:
    """Samples of some bits that span their range, and how a file stores and should show them."""

    def __init__(self, allocated, stored, high, signed, mono1=False):
        half = 2 ** (stored - 1)
        self.dtype = f"u{allocated // 8}"
        self.samples = np.round(SMOOTH * (2 * half - 1)).astype(int) - half * signed
        self.low = (self.samples & (2 * half - 1)).astype(self.dtype)
        self.words = self.low << (high + 1 - stored)
        center = half - half * signed
        self.tags = {
            "BitsStored": ("US", stored),
            "HighBit": ("US", high),
            "PixelRepresentation": ("US", int(signed)),
            "PhotometricInterpretation": ("CS", "MONOCHROME1 " if mono1 else "MONOCHROME2 "),
            "WindowCenter": ("DS", f"{center} "),
            "WindowWidth": ("DS", f"{2 * half} "),
        }
        shown = (self.samples - (center - 0.5)) / (2 * half - 1) + 0.5
        self.shown = 1 - shown if mono1 else shown


CASES = [
    (16, 12, 15, False),
    (16, 12, 15, True),
    (16, 12, 13, False),
    (16, 12, 11, True),
    (16, 9, 15, True),
    (16, 16, 15, True),
    (8, 6, 7, False),
    (8, 6, 7, True),
    (8, 8, 7, True),
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("syntax", ENCODERS)
def test_words_are_coded_whole(raw, syntax, case):
    image = Image(*case)
    stream = ENCODERS[syntax](image.words, case[0])
    path = raw.image(image.words, coded=raw.fragments(stream), syntax=syntax, **image.tags)
    np.testing.assert_allclose(read_dicom(path), image.shown, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEG2000Lossless])
def test_samples_are_coded_without_unused_bits(raw, syntax, case):
    image, stored = Image(*case), case[1]
    low = image.low.astype("u1" if stored <= 8 else "u2")
    stream = ENCODERS[syntax](low, stored)
    path = raw.image(image.words, coded=raw.fragments(stream), syntax=syntax, **image.tags)
    np.testing.assert_allclose(read_dicom(path), image.shown, atol=1e-6)


@pytest.mark.parametrize("case", CASES)
def test_words_are_stored_natively(raw, case):
    image = Image(*case)
    np.testing.assert_allclose(
        read_dicom(raw.image(image.words, **image.tags)), image.shown, atol=1e-6
    )


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("stored", [9, 12, 15])
@pytest.mark.parametrize("claimed_high", [True, False])
def test_samples_that_contradict_high_bit_decide_and_the_user_is_told(
    raw, stored, signed, claimed_high
):
    claimed, other = (15, stored - 1) if claimed_high else (stored - 1, 15)
    image = Image(16, stored, other, signed)
    # A sign may be extended into the unused bits.
    words = image.samples.astype("<i2").view("<u2") if claimed_high else image.words
    path = raw.image(words, **{**image.tags, "HighBit": ("US", claimed)})
    with pytest.warns(ImageReadWarning, match=f"High Bit is {claimed}, but its samples are in the"):
        np.testing.assert_allclose(read_dicom(path), image.shown, atol=1e-6)


def test_bits_beyond_those_stored_are_ignored_with_a_warning_unless_they_are_overlays(raw):
    image = Image(16, 12, 11, False)
    words = image.words | np.uint16(0xA000)
    with pytest.warns(ImageReadWarning, match="Bits Stored is 12, but 3072 pixels use higher bits"):
        shown = read_dicom(raw.image(words, **image.tags))
    np.testing.assert_allclose(shown, image.shown, atol=1e-6)
    position = raw.element(0x60000102, "US", 13)
    apart = position + raw.element(0x60003000, "OW", bytes(words.size // 8))
    for overlay in (position, apart):
        path = raw.image(words, **image.tags)
        content = path.read_bytes()
        start = content.index(b"\xe0\x7f\x10\0")
        path.write_bytes(content[:start] + overlay + content[start:])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            np.testing.assert_array_equal(read_dicom(path), shown)
        assert bool(caught) == (overlay == apart)


# What dcmtk writes, with the tolerance in stored levels, or as a share of the range if lossy.
TOOLS = {
    "implicit": (["dcmconv", "+ti"], 0),
    "big endian": (["dcmconv", "+tb"], 0),
    "deflated": (["dcmconv", "+td"], 0),
    "RLE": (["dcmcrle"], 0),
    "JPEG Lossless SV1": (["dcmcjpeg", "+e1"], 0),
    "JPEG Lossless": (["dcmcjpeg", "+el", "+sv", "4"], 0),
    "rendered, JPEG Lossless": (["dcmcjpeg", "+e1", "+pl"], 1),
    "JPEG-LS": (["dcmcjpls", "+el"], 0),
    "JPEG-LS near": (["dcmcjpls", "+en", "+md", "2"], 3),
    "JPEG Baseline": (["dcmcjpeg", "+eb", "+q", "95"], 0.08),
    "JPEG Extended": (["dcmcjpeg", "+ee", "+q", "95"], 0.08),
    "JPEG Progressive": (["dcmcjpeg", "+ep", "+q", "95"], 0.08),
}
LOSSY = {"JPEG Baseline", "JPEG Extended", "JPEG Progressive"}


GRID = [
    (allocated, stored, high, signed)
    for allocated, all_stored in ((8, (4, 7, 8)), (16, range(8, 17)))
    for stored in all_stored
    for high in sorted({stored - 1, allocated - 1})
    for signed in (False, True)
]


def convert(command, path):
    converted = path.with_name("converted.dcm")
    converted.unlink(missing_ok=True)
    done = subprocess.run([*command, path, converted], capture_output=True, check=False)
    return converted if done.returncode == 0 else None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("dcmcjpls") is None, reason="needs dcmtk's tools")
@pytest.mark.parametrize("case", GRID)
def test_what_dcmtk_writes_reads_as_what_it_was_made_of(raw, case):
    stored = case[1]
    image = Image(*case, mono1=stored % 2 == 1)
    path = raw.image(image.words, SOPInstanceUID=("UI", "1.2.3\0"), **image.tags)
    for name, (command, tolerance) in TOOLS.items():
        converted = convert(command, path)
        # Near-lossless coding of samples with a sign or few bits is beyond dcmtk.
        if name == "JPEG-LS near" and (converted is None or stored < 8):
            continue
        tolerance = tolerance if name in LOSSY else tolerance / (2**stored - 1) + 1e-6
        assert converted is not None, name
        np.testing.assert_allclose(read_dicom(converted), image.shown, atol=tolerance, err_msg=name)
