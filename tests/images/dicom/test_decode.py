import io
import sys

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.pixels import get_decoder
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    MPEG2MPML,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from otcxr_sk.images import ImageReadError, ImageReadWarning, read_dicom

INSTALL = 'pip install "otcxr-sk[dicom]"'


def noisy(bits, shape=(48, 64)):
    """Return a smooth image with noise that spans the range of some bits."""
    random = np.random.default_rng(0)
    smooth = np.add.outer(np.linspace(0, 0.6, shape[0]), np.linspace(0, 0.3, shape[1]))
    values = np.clip(smooth + random.normal(0, 0.02, shape), 0, 0.95) * (2**bits - 1)
    return values.astype(np.uint8 if bits <= 8 else np.uint16)


def jpeg(pixels, bits):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def jpeg12(pixels, bits):
    return imagecodecs.jpeg8_encode(pixels, 97, bitspersample=12)


def lossless(predictor):
    def encode(pixels, bits):
        return imagecodecs.jpeg8_encode(
            pixels, lossless=True, predictor=predictor, bitspersample=bits
        )

    return encode


def jpegls(pixels, bits, level=0):
    return imagecodecs.jpegls_encode(pixels, level)


def jpegls_near(pixels, bits):
    return jpegls(pixels, bits, level=2)


def jpeg2000(pixels, bits, level=0):
    return imagecodecs.jpeg2k_encode(
        pixels, level=level, codecformat="j2k", reversible=not level, bitspersample=bits
    )


def jpeg2000_lossy(pixels, bits):
    return jpeg2000(pixels, bits, level=60)


def htj2k(pixels, bits):
    return imagecodecs.htj2k_encode(pixels)


def htj2k_lossy(pixels, bits):
    return imagecodecs.htj2k_encode(pixels, level=0.001, reversible=False)


# Transfer syntax, encoder, bits, and tolerance as a fraction of the range.
CODED = [
    (JPEGBaseline8Bit, jpeg, 8, 0.03),
    (JPEGExtended12Bit, jpeg, 8, 0.03),
    (JPEGExtended12Bit, jpeg12, 12, 0.03),
    *[(JPEGLossless, lossless(predictor), 12, 0) for predictor in range(1, 8)],
    *[(JPEGLosslessSV1, lossless(1), bits, 0) for bits in (8, 10, 12, 14, 15, 16)],
    *[(JPEGLSLossless, jpegls, bits, 0) for bits in (8, 16)],
    *[(JPEGLSNearLossless, jpegls_near, bits, 2 / 255) for bits in (8, 16)],
    *[(JPEG2000Lossless, jpeg2000, bits, 0) for bits in (8, 10, 12, 15, 16)],
    *[(JPEG2000, jpeg2000_lossy, bits, 0.03) for bits in (8, 12, 16)],
    *[(HTJ2KLossless, htj2k, bits, 0) for bits in (8, 16)],
    (HTJ2KLosslessRPCL, htj2k, 16, 0),
    *[(HTJ2K, htj2k_lossy, bits, 0.03) for bits in (8, 16)],
]
IN_CORE = {JPEGBaseline8Bit, JPEG2000, JPEG2000Lossless}


SHOWN = {"WindowCenter": ("DS", "32768 "), "WindowWidth": ("DS", "65536 ")}


def full_window(bits):
    return {
        "BitsStored": bits,
        "VOILUTFunction": "LINEAR_EXACT",
        "WindowCenter": (2**bits - 1) / 2,
        "WindowWidth": 2**bits - 1,
    }


@pytest.mark.parametrize(("syntax", "encode", "bits", "tolerance"), CODED)
def test_every_transfer_syntax_is_read(write_coded, syntax, encode, bits, tolerance):
    pixels = noisy(bits)
    path = write_coded(pixels, syntax, encode(pixels, bits), **full_window(bits))
    expected = pixels / (2**bits - 1)
    np.testing.assert_allclose(read_dicom(path), expected, atol=tolerance + 1e-6)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_rle_and_deflated_files_are_read(write_dicom, bits):
    pixels = noisy(bits)
    plain = write_dicom(pixels, **full_window(bits))
    expected = read_dicom(plain)
    dataset = pydicom.dcmread(plain)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    dataset.save_as(plain.with_name("deflated.dcm"))
    dataset = pydicom.dcmread(plain)
    dataset.compress(RLELossless)
    dataset.save_as(plain.with_name("rle.dcm"))
    for name in ("deflated.dcm", "rle.dcm"):
        np.testing.assert_array_equal(read_dicom(plain.with_name(name)), expected)


@pytest.mark.parametrize("marked", [True, False])
def test_signed_jpeg_2000_is_read_whether_or_not_the_stream_is_marked_signed(write_coded, marked):
    signed = (noisy(16).astype(np.int32) - 2**15).astype(np.int16)
    stream = jpeg2000(signed if marked else signed.view(np.uint16), None)
    tags = {**full_window(16), "PixelRepresentation": 1, "WindowCenter": -0.5}
    path = write_coded(signed, JPEG2000Lossless, stream, **tags)
    expected = (signed.astype(float) + 2**15) / (2**16 - 1)
    np.testing.assert_allclose(read_dicom(path), expected, atol=1e-6)


def test_signs_that_only_the_stream_has_are_told_of(write_coded):
    signed = noisy(16).view(np.int16)
    path = write_coded(signed.view(np.uint16), JPEG2000Lossless, jpeg2000(signed, None))
    with pytest.warns(ImageReadWarning, match="stream says that samples may be negative, but"):
        read_dicom(path)


def test_bytes_of_pixels_that_the_header_does_not_count_are_told_of(raw):
    pixels = noisy(16)
    expected = read_dicom(raw.image(pixels[:-1], **SHOWN))
    path = raw.image(pixels, **SHOWN, Rows=("US", len(pixels) - 1))
    with pytest.warns(ImageReadWarning, match=r"it has 6144 bytes of pixels, but .* make 6016"):
        np.testing.assert_array_equal(read_dicom(path), expected)


@pytest.mark.filterwarnings("ignore:.*in color:otcxr_sk.images.ImageReadWarning")
@pytest.mark.parametrize(
    ("syntax", "encode", "photometric"),
    [
        (JPEGLosslessSV1, lossless(1), "RGB"),
        (JPEGLSLossless, jpegls, "RGB"),
        (JPEG2000Lossless, jpeg2000, "YBR_RCT"),
        (JPEG2000, jpeg2000_lossy, "YBR_ICT"),
        (JPEGBaseline8Bit, jpeg, "YBR_FULL_422"),
        (HTJ2KLossless, htj2k, "YBR_RCT"),
    ],
)
def test_compressed_color_becomes_luma(write_coded, syntax, encode, photometric):
    gray = noisy(8)
    colors = np.stack([gray, gray[::-1], 255 - gray], axis=-1)
    stream = encode(colors, 8)
    path = write_coded(colors, syntax, stream, PhotometricInterpretation=photometric)
    expected = colors @ [0.299, 0.587, 0.114] / 255
    lossy = encode in (jpeg, jpeg2000_lossy)
    np.testing.assert_allclose(read_dicom(path), expected, atol=0.06 if lossy else 1e-6)


@pytest.mark.parametrize(("syntax", "encode", "bits", "tolerance"), CODED)
def test_without_the_extra_other_codecs_are_used_or_the_error_names_it(
    write_coded, monkeypatch, syntax, encode, bits, tolerance
):
    pixels = noisy(bits)
    path = write_coded(pixels, syntax, encode(pixels, bits), **full_window(bits))
    expected = read_dicom(path)
    monkeypatch.setitem(sys.modules, "imagecodecs", None)
    if syntax in IN_CORE or encode is jpeg:
        np.testing.assert_allclose(read_dicom(path), expected, atol=1.01 / (2**bits - 1))
        return
    with pytest.raises(ImageReadError) as caught:
        read_dicom(path)
    for part in (str(path), syntax.name, INSTALL):
        assert part in str(caught.value)


@pytest.mark.parametrize(("syntax", "encode", "bits", "tolerance"), CODED)
def test_gdcm_which_may_abort_the_process_is_never_used(
    write_coded, monkeypatch, syntax, encode, bits, tolerance
):
    pixels = noisy(bits)
    stream = encode(pixels, bits)
    calls = []
    monkeypatch.setitem(get_decoder(syntax)._available, "gdcm", lambda *_: calls.append(1))
    tags = full_window(bits)
    read_dicom(write_coded(pixels, syntax, stream, **tags))
    for length in (2, 100, len(stream) // 2, len(stream) - 40):
        with pytest.raises(ImageReadError) as caught:
            read_dicom(write_coded(pixels, syntax, stream[:length], **tags))
        assert syntax.name in str(caught.value)
    assert not calls


@pytest.mark.parametrize(("syntax", "encode", "bits", "tolerance"), CODED)
def test_a_stream_whose_size_contradicts_the_header_is_refused(
    write_coded, syntax, encode, bits, tolerance
):
    stream = encode(noisy(bits), bits)
    path = write_coded(noisy(bits, (64, 48)), syntax, stream)
    with pytest.raises(ImageReadError, match=r"48 x 64 pixels .* header says 64 x 48"):
        read_dicom(path)


def test_a_stream_of_more_bits_than_the_header_allows_is_refused(write_coded):
    stream = lossless(1)(noisy(12), 12)
    with pytest.raises(ImageReadError, match=r"1 samples of 12 bits, but .* of up to 8"):
        read_dicom(write_coded(noisy(8), JPEGLosslessSV1, stream))


def test_videos_are_refused(write_coded):
    with pytest.raises(ImageReadError, match="not for still images"):
        read_dicom(write_coded(noisy(8), MPEG2MPML, b"\0" * 100))
