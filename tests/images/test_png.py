"""PNG files: every layout, what metadata may do, and damage."""

import struct
import zlib

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from otcxr_sk.images import ImageReadError, read_image

GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
CHANNELS = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
LAYOUTS = [
    *[(GRAY, bits) for bits in (1, 2, 4, 8, 16)],
    *[(PALETTE, bits) for bits in (1, 2, 4, 8)],
    *[(color, bits) for color in (RGB, GRAY_ALPHA, RGB_ALPHA) for bits in (8, 16)],
]
# First row and column, and steps, of each pass.
ADAM7 = [
    (0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2),
    (1, 0, 2, 1),
]  # fmt: skip
LUMA = np.array([0.299, 0.587, 0.114])
BYTES = np.random.default_rng(0).integers(0, 256, (9, 13, 1), dtype=np.uint8)
UNIT = BYTES[..., 0] / 255


def chunk(name, content, checksum=None):
    checksum = zlib.crc32(name + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def packed(samples, bits):
    """Pack rows of samples, each after the number of its filter."""
    rows = samples.reshape(len(samples), -1)
    if bits == 16:
        rows = rows.astype(">u2").view(np.uint8)
    elif bits < 8:
        rows = np.packbits(np.unpackbits(rows[..., None], axis=2)[..., 8 - bits :].reshape(
            len(rows), -1
        ), axis=1)  # fmt: skip
    return b"".join(b"\0" + row.tobytes() for row in rows)


def png(samples, color=GRAY, bits=8, *, interlaced=False, before=b"", after=b"", end=True):
    """Return a PNG of samples (height, width, channels), with more chunks around its pixels."""
    height, width = samples.shape[:2]
    passes = [samples[top::down, left::right] for top, left, down, right in ADAM7]
    passes = [part for part in passes if part.size] if interlaced else [samples]
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, interlaced)
    pixels = zlib.compress(b"".join(packed(part, bits) for part in passes))
    half = len(pixels) // 2
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", head),
            before,
            chunk(b"IDAT", pixels[:half]),
            chunk(b"IDAT", pixels[half:]),
            after,
            chunk(b"IEND", b"") if end else b"",
        ]
    )


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize(("color", "bits"), LAYOUTS)
def test_every_layout_is_read_with_all_its_bits(read, color, bits, interlaced):
    dtype = np.uint16 if bits == 16 else np.uint8
    random = np.random.default_rng(bits)
    samples = random.integers(0, 2**bits, (19, 21, CHANNELS[color]), dtype=dtype)
    colors = random.integers(0, 256, (2**bits, 3), dtype=np.uint8)
    before = chunk(b"PLTE", colors.tobytes()) if color == PALETTE else b""
    # Transparency is ignored.
    before += chunk(b"tRNS", bytes(1)) if color == PALETTE else b""
    content = png(samples, color, bits, interlaced=interlaced, before=before)
    shown = samples[..., 0] if color in (GRAY, GRAY_ALPHA) else samples[..., :3]
    expected = colors[samples[..., 0]] / 255 if color == PALETTE else shown / (2**bits - 1)
    np.testing.assert_allclose(
        read(content), expected @ LUMA if expected.ndim == 3 else expected, atol=1e-6
    )
    # libpng knows these pixels, too.
    decoded = imagecodecs.png_decode(content)
    if color not in (PALETTE, GRAY) or bits > 8:
        np.testing.assert_array_equal(decoded.reshape(samples.shape), samples)


METADATA = {
    "a profile of 3 MB": chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(3 * 2**20))),
    "3 MB of text": chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(3 * 2**20))),
    "text that is damaged": chunk(b"iTXt", b"\xff\xfe\0\1\0\0\0junk"),
    "text with a wrong checksum": chunk(b"tEXt", b"a\0b", checksum=1),
    "a gamma that is cut": chunk(b"gAMA", b"\0"),
    "chromaticities that are cut": chunk(b"cHRM", b"\0"),
    "a color space that is cut": chunk(b"sRGB", b""),
    "a resolution that is cut": chunk(b"pHYs", b"\0"),
    "transparency that is cut": chunk(b"tRNS", b""),
    "EXIF data that are damaged": chunk(b"eXIf", b"MM\0*\xff\xff\xff\xff"),
    "EXIF text that is damaged": chunk(b"zTXt", b"Raw profile type exif\0\0junk"),
    "an animation without frames": chunk(b"acTL", bytes(8)),
    "two animations without frames": 2 * chunk(b"acTL", bytes(8)),
    "an animation of one frame": chunk(b"acTL", struct.pack(">II", 1, 0))
    + chunk(b"fcTL", bytes(26)),
    "something private": chunk(b"prVt", b"anything"),
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_can_neither_hurt_nor_warn(read, name):
    for place in ("before", "after"):
        if "frame" not in name or place == "before":
            np.testing.assert_allclose(read(png(BYTES, **{place: METADATA[name]})), UNIT, atol=1e-6)


def exif(orientation):
    return b"MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01" + struct.pack(">HHI", orientation, 0, 0)


def as_text(content):
    lines = b"\nexif\n%8d\n%s\n" % (len(content), content.hex().encode())
    return chunk(b"zTXt", b"Raw profile type exif\0\0" + zlib.compress(lines))


XMP = b'XML:com.adobe.xmp\0\0\0\0\0<rdf:Description tiff:Orientation="%d"/>'


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "extra",
    [chunk(b"eXIf", exif(6)), as_text(b"Exif\0\0" + exif(6)), chunk(b"iTXt", XMP % 6)],
    ids=["EXIF", "EXIF as text", "XMP"],
)
def test_the_orientation_is_applied_wherever_it_is(read, place, extra):
    expected = np.rot90(UNIT, -1)
    np.testing.assert_allclose(read(png(BYTES, **{place: extra})), expected, atol=1e-6)
    if b"eXIf" not in extra:
        return
    # EXIF data come first.
    both = extra + chunk(b"iTXt", XMP % 3)
    np.testing.assert_allclose(read(png(BYTES, **{place: both})), expected, atol=1e-6)


def test_an_image_is_whole_without_its_end_mark_or_with_anything_behind_it(read):
    np.testing.assert_allclose(read(png(BYTES, end=False)), UNIT, atol=1e-6)
    np.testing.assert_allclose(read(png(BYTES) + b"anything"), UNIT, atol=1e-6)


def test_a_file_that_is_cut_anywhere_before_its_last_pixel_is_cut_short(read):
    content = png(BYTES)
    end = content.index(b"IEND") - 4
    for length in range(8, len(content)):
        if length >= end:
            np.testing.assert_allclose(read(content[:length]), UNIT, atol=1e-6)
        else:
            with pytest.raises(ImageReadError, match="cut short"):
                read(content[:length])


def test_a_flipped_bit_anywhere_in_the_pixels_or_their_description_is_damage(read):
    content = png(BYTES)
    for place in range(8, len(content) - 12):
        damaged = bytearray(content)
        damaged[place] ^= 1
        with pytest.raises(ImageReadError, match=r"damaged|cut short|extension"):
            read(bytes(damaged))


def head(**changed):
    fields = {"width": 13, "height": 9, "bits": 8, "color": GRAY, "method": 0, "filters": 0}
    return struct.pack(">IIBBBBB", *{**fields, **changed}.values(), 0)


def with_head(**changed):
    content = png(BYTES)
    return content[:8] + chunk(b"IHDR", head(**changed)) + content[33:]


APNG = chunk(b"acTL", struct.pack(">II", 2, 0))
REFUSED = {
    "extension 'CgBI'": png(BYTES, before=chunk(b"CgBI", bytes(4))),
    "line ends were changed": png(BYTES).replace(b"\r\n", b"\n"),
    "does not begin as a PNG file does": b"\x89PNG broken",
    "header is not that of a PNG": with_head(color=5),
    "header is not that of a PNG.": with_head(filters=64),
    "the image is 0 x 13": with_head(height=0),
    "exceed the limit": with_head(height=2**31 - 1),
    "its palette is missing": png(BYTES, PALETTE),
    "its palette lacks": png(BYTES, PALETTE, before=chunk(b"PLTE", bytes(30))),
    "it contains 3 images": png(BYTES, before=APNG),
    "it contains 2 images": png(BYTES, before=APNG + chunk(b"fcTL", bytes(26))),
    "damaged: some of its pixels are missing": with_head(height=10),
    "it contains no pixels": png(BYTES)[:33] + chunk(b"IEND", b""),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_read_is_told(read, message):
    with pytest.raises(ImageReadError, match=message.rstrip(".")):
        read(REFUSED[message])


def test_other_programs_files_are_read(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(imagecodecs.png_encode(BYTES[..., 0]))
    np.testing.assert_allclose(read_image(path), UNIT, atol=1e-6)
    Image.fromarray(BYTES[..., 0]).save(path, optimize=True, icc_profile=bytes(1000))
    np.testing.assert_allclose(read_image(path), UNIT, atol=1e-6)
