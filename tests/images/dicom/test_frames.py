"""Where the frames of compressed pixel data are, and what they are, whatever the header says."""

import io
import struct

import imagecodecs
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from otcxr_sk.images import ImageReadError, read_dicom

SHAPE = (48, 64)
NOISE = np.random.default_rng(0).normal(0, 3, SHAPE)
SMOOTH = np.add.outer(np.linspace(20, 150, SHAPE[0]), np.linspace(0, 80, SHAPE[1]))
PIXELS = np.clip(SMOOTH + NOISE, 0, 255).astype(np.uint8)
DEEP = PIXELS.astype(np.uint16) * 16 + 5
WINDOW = {"WindowCenter": ("DS", "128 "), "WindowWidth": ("DS", "256 ")}
DEEP_WINDOW = {
    "BitsStored": ("US", 12),
    "HighBit": ("US", 11),
    "WindowCenter": ("DS", "2048"),
    "WindowWidth": ("DS", "4096"),
}


def jpeg(pixels, **options):
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=95, **options)
    return stream.getvalue()


def lossless(pixels, predictor=1):
    return imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=predictor, bitspersample=12)


def rle(pixels):
    """Encode words of 16 bits, the bytes of each apart, by literal runs alone."""
    segments = []
    for plane in (pixels >> 8, pixels & 0xFF):
        data = plane.astype(np.uint8).tobytes()
        runs = [data[at : at + 128] for at in range(0, len(data), 128)]
        segments.append(b"".join(bytes([len(run) - 1]) + run for run in runs))
    offsets = [2, 64, 64 + len(segments[0]), *[0] * 13]
    return struct.pack("<16I", *offsets) + b"".join(segments)


ENCODERS = {
    JPEGLosslessSV1: lossless,
    JPEGLSLossless: lambda pixels: imagecodecs.jpegls_encode(pixels, 0),
    JPEG2000Lossless: lambda pixels: imagecodecs.jpeg2k_encode(
        pixels, level=0, codecformat="j2k", reversible=True, bitspersample=12
    ),
    HTJ2KLossless: lambda pixels: imagecodecs.htj2k_encode(pixels),
    RLELossless: rle,
}
LABELS = [
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    DeflatedExplicitVRLittleEndian,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    *ENCODERS,
    "1.2.840.10008.1.2.4.55",
    "",
]


@pytest.fixture
def expected(raw):
    return read_dicom(raw.image(DEEP, name="plain.dcm", **DEEP_WINDOW))


@pytest.mark.parametrize("label", LABELS)
@pytest.mark.parametrize("real", [*ENCODERS, None])
def test_a_wrong_transfer_syntax_is_seen_through(raw, expected, real, label):
    coded = None if real is None else raw.fragments(ENCODERS[real](DEEP))
    path = raw.image(DEEP, coded=coded, syntax=str(label), **DEEP_WINDOW)
    np.testing.assert_array_equal(read_dicom(path), expected)


@pytest.mark.parametrize("label", ["1.2.840.113619.5.2", "1.2.3"])
def test_private_transfer_syntaxes_of_native_pixels_are_refused(raw, label):
    with pytest.raises(ImageReadError, match=rf"'{label}', is not one of the standard; convert it"):
        read_dicom(raw.image(DEEP, syntax=label, **DEEP_WINDOW))


@pytest.mark.parametrize("syntax", ENCODERS)
def test_fragments_may_be_cut_anywhere(raw, expected, syntax):
    stream = ENCODERS[syntax](DEEP)
    third = len(stream) // 3
    parts = [stream[:third], b"", stream[third : 2 * third + 1], stream[2 * third + 1 :]]
    nonsense = struct.pack("<3I", 5, 77, 2**32 - 1)
    item = raw.item(stream)
    for coded in (
        raw.fragments(*parts),
        raw.fragments(*parts, table=nonsense),
        raw.fragments(stream, end=False),
        raw.fragments(stream + bytes(7)),
        # Without an offset table.
        item + b"\xfe\xff\xdd\xe0\0\0\0\0",
        item,
    ):
        path = raw.image(DEEP, coded=coded, syntax=syntax, **DEEP_WINDOW)
        np.testing.assert_array_equal(read_dicom(path), expected)
    defined = ("OB", raw.fragments(stream))
    path = raw.image(DEEP, PixelData=defined, syntax=syntax, **DEEP_WINDOW)
    np.testing.assert_array_equal(read_dicom(path), expected)


def test_a_stream_may_come_without_fragments(raw, expected):
    path = raw.image(DEEP, PixelData=("OB", lossless(DEEP)), syntax="", **DEEP_WINDOW)
    np.testing.assert_array_equal(read_dicom(path), expected)


def test_fragments_may_hold_pixels_that_are_not_compressed(raw, expected):
    syntax = "1.2.840.10008.1.2.1.98"
    path = raw.image(DEEP, coded=raw.fragments(DEEP.tobytes()), syntax=syntax, **DEEP_WINDOW)
    np.testing.assert_array_equal(read_dicom(path), expected)


def test_native_pixels_may_come_without_a_length(raw, expected):
    path = raw.image(DEEP, coded=DEEP.tobytes() + b"\xfe\xff\xdd\xe0\0\0\0\0", **DEEP_WINDOW)
    np.testing.assert_array_equal(read_dicom(path), expected)


def offsets(fragments, starts, code):
    places = np.cumsum([0, *(8 + len(fragment) for fragment in fragments)])
    return struct.pack(f"<{len(starts)}{code}", *places[starts])


@pytest.mark.parametrize("told_by", ["table", "extended table", "number", "streams"])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_frames_are_told_apart(raw, index, told_by):
    frames = [DEEP, DEEP[::-1].copy(), DEEP[:, ::-1].copy()]
    fragments, starts, more = [], [], {}
    for frame in frames:
        stream, starts = lossless(frame), [*starts, len(fragments)]
        pieces = 1 if told_by == "number" else 2
        fragments += np.array_split(np.frombuffer(stream, np.uint8), pieces)
    fragments = [fragment.tobytes() for fragment in fragments]
    table = offsets(fragments, starts, "I") if told_by == "table" else b""
    if told_by == "extended table":
        more = {"ExtendedOffsetTable": ("UN", offsets(fragments, starts, "Q"))}
    coded = raw.fragments(*fragments, table=table)
    tags = {**DEEP_WINDOW, **more, "NumberOfFrames": ("IS", "3 ")}
    path = raw.image(DEEP, coded=coded, syntax=JPEGLosslessSV1, **tags)
    expected = read_dicom(raw.image(frames[index], name="one.dcm", **DEEP_WINDOW))
    np.testing.assert_array_equal(read_dicom(path, frame=index), expected)


def test_frames_that_cannot_be_told_apart_are_refused(raw):
    coded = raw.fragments(*[rle(DEEP)[:500], rle(DEEP)[500:]] * 2)
    tags = {**DEEP_WINDOW, "NumberOfFrames": ("IS", "2 ")}
    path = raw.image(DEEP, coded=coded, syntax=RLELossless, **tags)
    with pytest.raises(ImageReadError, match=r"2 frames cannot be told apart: .* 4 fragments"):
        read_dicom(path, frame=0)


@pytest.mark.parametrize("syntax", [*ENCODERS, JPEGBaseline8Bit])
@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
def test_a_file_that_ends_within_its_pixels_is_cut_short(raw, syntax, kept):
    eight = syntax == JPEGBaseline8Bit
    stream = jpeg(PIXELS) if eight else ENCODERS[syntax](DEEP)
    pixels, tags = (PIXELS, WINDOW) if eight else (DEEP, DEEP_WINDOW)
    path = raw.image(pixels, coded=raw.fragments(stream), syntax=syntax, **tags)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - round((1 - kept) * len(stream))])
    with pytest.raises(ImageReadError, match="cut short"):
        read_dicom(path)


@pytest.mark.parametrize(
    ("syntax", "encode", "pixels", "tags"),
    [
        (JPEGBaseline8Bit, jpeg, PIXELS, WINDOW),
        (JPEGBaseline8Bit, lambda p: jpeg(p, restart_marker_blocks=4), PIXELS, WINDOW),
        (JPEGLosslessSV1, lossless, DEEP, DEEP_WINDOW),
        (JPEGLSLossless, ENCODERS[JPEGLSLossless], DEEP, DEEP_WINDOW),
        (JPEG2000Lossless, ENCODERS[JPEG2000Lossless], DEEP, DEEP_WINDOW),
        (HTJ2KLossless, ENCODERS[HTJ2KLossless], DEEP, DEEP_WINDOW),
    ],
)
def test_the_end_marker_may_be_missing_but_no_pixel(raw, syntax, encode, pixels, tags):
    stream = encode(pixels)
    expected = read_dicom(raw.image(pixels, coded=raw.fragments(stream), syntax=syntax, **tags))
    for tail in (b"", b"\0", bytes(100)):
        coded = raw.fragments(stream[:-2] + tail)
        path = raw.image(pixels, coded=coded, syntax=syntax, **tags)
        np.testing.assert_array_equal(read_dicom(path), expected)
    for missing in (40, len(stream) // 2):
        path = raw.image(pixels, coded=raw.fragments(stream[:-missing]), syntax=syntax, **tags)
        with pytest.raises(ImageReadError, match=r"cut short|cannot be decoded"):
            read_dicom(path)


def test_a_stream_that_lacks_its_lower_part_is_cut_short_though_it_has_an_end(raw):
    stream = jpeg(PIXELS)
    coded = raw.fragments(stream[: len(stream) // 2] + stream[-2:])
    with pytest.raises(ImageReadError, match="cut short"):
        read_dicom(raw.image(PIXELS, coded=coded, syntax=JPEGBaseline8Bit, **WINDOW))
    gray = np.full(SHAPE, 128, dtype=np.uint8)
    gray[:8] = PIXELS[:8]
    path = raw.image(gray, coded=raw.fragments(jpeg(gray)), syntax=JPEGBaseline8Bit, **WINDOW)
    np.testing.assert_allclose(read_dicom(path), gray / 255, atol=0.06)


@pytest.mark.parametrize("predictor", range(1, 8))
def test_a_lossless_stream_that_lacks_its_lower_part_is_cut_short_though_it_has_an_end(
    raw, predictor
):
    stream = lossless(DEEP, predictor)
    for kept in (0.3, 0.6, 0.95):
        coded = raw.fragments(stream[: round(kept * len(stream))] + stream[-2:])
        with pytest.raises(ImageReadError, match="cut short"):
            read_dicom(raw.image(DEEP, coded=coded, syntax=JPEGLosslessSV1, **DEEP_WINDOW))
    # Rows with the values that decoders go on with.
    black = DEEP.copy()
    black[40:] = 0
    for pixels in (black, black[:1], black[-1:, :1]):
        expected = read_dicom(raw.image(pixels, name="plain.dcm", **DEEP_WINDOW))
        coded = raw.fragments(lossless(pixels, predictor))
        path = raw.image(pixels, coded=coded, syntax=JPEGLosslessSV1, **DEEP_WINDOW)
        np.testing.assert_array_equal(read_dicom(path), expected)


def test_a_progressive_stream_without_all_its_scans_is_cut_short_though_it_has_an_end(raw):
    stream = jpeg(PIXELS, progressive=True)
    for stop in (stream.rfind(b"\xff\xda"), len(stream) - 40):
        coded = raw.fragments(stream[:stop] + stream[-2:])
        with pytest.raises(ImageReadError, match="cut short"):
            read_dicom(raw.image(PIXELS, coded=coded, syntax=JPEGBaseline8Bit, **WINDOW))
    path = raw.image(PIXELS, coded=raw.fragments(stream), syntax=JPEGBaseline8Bit, **WINDOW)
    np.testing.assert_allclose(read_dicom(path), PIXELS / 255, atol=0.06)


def test_a_progressive_stream_without_end_is_refused_since_scans_may_be_missing(raw):
    coded = raw.fragments(jpeg(PIXELS, progressive=True)[:-2])
    with pytest.raises(ImageReadError, match="no end marker, so that scans may be missing"):
        read_dicom(raw.image(PIXELS, coded=coded, syntax=JPEGBaseline8Bit, **WINDOW))


@pytest.mark.parametrize("stored", [8, 12])
def test_eight_bit_jpeg_may_be_in_a_file_of_sixteen_bits(raw, recwarn, stored):
    wide = {**WINDOW, "BitsStored": ("US", stored), "HighBit": ("US", stored - 1)}
    path = raw.image(
        PIXELS.astype(np.uint16), coded=raw.fragments(jpeg(PIXELS)), syntax=JPEGBaseline8Bit, **wide
    )
    np.testing.assert_allclose(read_dicom(path), PIXELS / 255, atol=0.06)
    told = [str(warning.message) for warning in recwarn]
    assert bool(told) == (stored == 12)
    assert all("samples of 8 bits, but its Bits Stored is 12" in message for message in told)


@pytest.mark.filterwarnings("ignore:.*in color:otcxr_sk.images.ImageReadWarning")
@pytest.mark.parametrize("label", ["RGB ", "YBR_FULL_422", "YBR_FULL"])
@pytest.mark.parametrize("options", [{}, {"keep_rgb": True}, {"subsampling": 0}])
def test_a_jpeg_says_itself_which_colors_it_has(raw, options, label):
    colors = np.stack([PIXELS, PIXELS // 2, 255 - PIXELS], axis=-1)
    coded = raw.fragments(jpeg(colors, **options))
    tags = {"PhotometricInterpretation": ("CS", label)}
    path = raw.image(colors, coded=coded, syntax=JPEGBaseline8Bit, **tags)
    expected = colors @ [0.299, 0.587, 0.114] / 255
    np.testing.assert_allclose(read_dicom(path), expected, atol=0.06)


def test_an_rle_stream_of_other_depth_is_refused(raw):
    coded = raw.fragments(rle(DEEP))
    with pytest.raises(ImageReadError, match=r"RLE stream has 2 segments, .* take 1; correct"):
        read_dicom(raw.image(PIXELS, coded=coded, syntax=RLELossless, **WINDOW))


@pytest.mark.parametrize("vr", ["OB", "OW"])
def test_bytes_in_a_big_endian_file_are_swapped_by_words_only(raw, vr):
    expected = read_dicom(raw.image(PIXELS, name="plain.dcm", **WINDOW))
    raw.order = ">"
    data = PIXELS.tobytes()
    swapped = np.frombuffer(data, np.uint16).byteswap().tobytes()
    tags = {**WINDOW, "PixelData": (vr, swapped if vr == "OW" else data)}
    path = raw.image(PIXELS, syntax="1.2.840.10008.1.2.2", **tags)
    np.testing.assert_array_equal(read_dicom(path), expected)
    for row, name in enumerate(("first.dcm", "second.dcm")):
        frames = {**tags, "NumberOfFrames": ("IS", "2 ")}
        path = raw.image(PIXELS[::2], syntax="1.2.840.10008.1.2.2", name=name, **frames)
        np.testing.assert_array_equal(
            read_dicom(path, frame=row), expected[24 * row : 24 * (row + 1)]
        )


def test_other_readers_read_what_is_read_here(raw):
    """So that the synthetic files are what they claim to be."""
    path = raw.image(DEEP, coded=raw.fragments(rle(DEEP)), syntax=RLELossless, **DEEP_WINDOW)
    np.testing.assert_array_equal(pydicom.dcmread(path).pixel_array, DEEP)
