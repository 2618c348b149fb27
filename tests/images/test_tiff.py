"""TIFF files: every layout is read as another reader reads it, or refused by name."""

import io
import re
import struct

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image

from otcxr_sk.images import ImageReadError, ImageReadWarning, read_image
from otcxr_sk.images._read import read_gray

LUMA = np.array([0.299, 0.587, 0.114])
HEIGHT, WIDTH = 21, 35
SMOOTH = np.add.outer(np.arange(HEIGHT) / HEIGHT, np.arange(WIDTH) / WIDTH) / 2
BYTES = (255 * SMOOTH).astype(np.uint8)
WORDS = (65535 * SMOOTH).astype(np.uint16)
COLOR = np.stack([BYTES, np.roll(BYTES, 9, axis=1), 255 - BYTES], axis=-1)
FLOATS = SMOOTH.astype(np.float32)

# NumPy's type, and bits that are stored.
NUMBERS = [
    *[("u1", bits) for bits in (1, 2, 4, 5, 8)], *[("u2", bits) for bits in (10, 12, 14, 16)],
    ("u4", 24), ("u4", 32), ("u8", 64), ("i1", 8), ("i2", 16), ("i4", 32),
    ("f2", 16), ("f4", 24), ("f4", 32), ("f8", 64), ("c8", 64),
]  # fmt: skip
# Photometric interpretation, and channels without and with extra ones.
COLORS = [
    ("minisblack", 1, 1), ("minisblack", 1, 2), ("miniswhite", 1, 1), ("miniswhite", 1, 2),
    ("rgb", 3, 3), ("rgb", 3, 4), ("rgb", 3, 5), ("separated", 4, 4), ("cielab", 3, 3),
    ("ycbcr", 3, 3),
]  # fmt: skip
COMPRESSIONS = [
    (None, None), ("lzw", None), ("lzw", 2), ("zlib", None), ("zlib", 2), ("zlib", 3),
    ("packbits", None), ("zstd", 2), ("lzma", None), ("lerc", None),
]  # fmt: skip

# What a file can be refused for: not for damage.
REFUSAL = r"': (its pixels are (un)?signed integers|it is a TIFF) .*(save|range is unknown)"


def stored(dtype, bits, channels):
    """Return pixels (height, width, channels) of numbers with this many bits."""
    values = np.clip(SMOOTH[..., None] * np.linspace(0.5, 1, channels), 0, 1)
    if dtype.startswith("u"):
        return (values * (2 ** min(bits, 32) - 1)).astype(dtype)
    if dtype.startswith("i"):
        return ((values - 0.5) * (2**bits - 1)).astype(dtype)
    return values.astype(dtype)


def meant(pixels, bits, photometric, n_colors, alpha):
    """Return the gray image that pixels mean, by the standard."""
    scaled = pixels / (2**bits - 1) if pixels.dtype.kind == "u" else pixels.astype(float)
    colors = scaled[..., :n_colors]
    if photometric == "miniswhite":
        colors = 1 - colors
    if alpha == "assocalpha" and pixels.shape[-1] > n_colors:
        opacity = scaled[..., n_colors:][..., :1]
        visible = np.where(opacity > 0, opacity, 1)
        colors = np.where(opacity > 0, np.minimum(colors / visible, 1), 0)
    if photometric == "separated":
        colors = (1 - colors[..., :3]) * (1 - colors[..., 3:])
    return colors[..., 0] if n_colors == 1 else colors @ LUMA


@given(
    number=st.sampled_from(NUMBERS),
    color=st.sampled_from(COLORS),
    alpha=st.sampled_from(["unspecified", "assocalpha", "unassalpha"]),
    planar=st.sampled_from(["contig", "separate"]),
    order=st.sampled_from("<>"),
    coding=st.sampled_from(COMPRESSIONS),
    parts=st.sampled_from([{}, {"rowsperstrip": 1}, {"rowsperstrip": 8}, {"tile": (16, 32)}]),
    big=st.booleans(),
)
@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.filter_too_much],
)
def test_a_layout_is_read_as_tifffile_reads_it_or_refused_by_name(
    tmp_path, number, color, alpha, planar, order, coding, parts, big
):
    (dtype, bits), (photometric, n_colors, channels), (compression, predictor) = (
        number,
        color,
        coding,
    )
    assume(alpha != "assocalpha" or photometric != "miniswhite" or channels == n_colors)
    pixels = stored(dtype, bits, channels)
    options = {"photometric": photometric, "byteorder": order, "bigtiff": big, **parts}
    options |= {"compression": compression, "predictor": predictor, "metadata": None}
    if bits != 8 * pixels.itemsize:
        options["bitspersample"] = bits
    if channels > 1:
        options["planarconfig"] = planar
        if channels > n_colors:
            options["extrasamples"] = [alpha] * (channels - n_colors)
    given = pixels[..., 0] if channels == 1 else pixels
    if channels > 1 and planar == "separate":
        given = np.moveaxis(given, -1, 0)
    path = tmp_path / "a.tiff"
    try:
        tifffile.imwrite(path, given, **options)
        known = np.array_equal(tifffile.imread(path), given)
    except (ValueError, TypeError, NotImplementedError, RuntimeError):
        known = False
    # Not every combination can be written.
    assume(known)
    try:
        image, depth = read_gray(str(path))
    except ImageReadError as error:
        assert re.search(REFUSAL, str(error))  # noqa: PT017
        readable = dtype in ("u1", "u2", "f2", "f8") and n_colors != 4
        assert not readable or photometric in ("cielab", "ycbcr") or compression == "lerc"
    else:
        assert dtype[0] in "uf"
        assert depth == {"f": 0, "u": 8 if bits <= 8 else 16}[dtype[0]]
        expected = meant(pixels, bits, photometric, n_colors, alpha)
        # Inks are mixed with 8 bits.
        atol = 0.01 if photometric == "separated" else 1e-3 if dtype == "f2" else 1e-6
        np.testing.assert_allclose(image, expected, atol=atol)


def directory(tags, at, following=0):
    """Return a directory that starts at byte `at`, with what its tags point to behind it."""
    entries, behind = [], b""
    start = at + 2 + 12 * len(tags) + 4
    for tag, values in sorted(tags.items()):
        if isinstance(values, bytes):
            kind, count, packed = 7, len(values), values
        else:
            values = values if isinstance(values, list) else [values]
            kind, count, packed = 4, len(values), struct.pack(f"<{len(values)}I", *values)
        value = packed.ljust(4, b"\0")
        if len(packed) > 4:
            value = struct.pack("<I", start + len(behind))
            behind += packed
        entries.append(struct.pack("<HHI", tag, kind, count) + value)
    head = struct.pack("<H", len(tags)) + b"".join(entries) + struct.pack("<I", following)
    return head + behind


def tiff(pixels=BYTES, *, more=(), **tags):
    """Return an uncompressed TIFF of gray pixels; tags are named t262 and so on, None for none.

    More images, of the same pixels, have other tags.
    """
    packed = pixels if isinstance(pixels, bytes) else pixels.tobytes()
    content = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed
    usual = {
        256: WIDTH, 257: HEIGHT, 258: 8 * getattr(pixels, "itemsize", 1), 259: 1, 262: 1, 273: 8,
        277: 1, 278: HEIGHT, 279: len(packed),
    }  # fmt: skip
    images = [usual | {int(name[1:]): value for name, value in tags.items()}]
    images += [images[0] | other for other in more]
    for number, image in enumerate(images):
        known = {tag: value for tag, value in image.items() if value is not None}
        last = number == len(images) - 1
        length = len(directory(known, len(content)))
        content += directory(known, len(content), 0 if last else len(content) + length)
    return content


def reversed_bits(content):
    return bytes(int(f"{byte:08b}"[::-1], 2) for byte in content)


UNIT = BYTES / 255
READ = {
    "plain": (tiff(), UNIT),
    "bits in reverse": (tiff(reversed_bits(BYTES.tobytes()), t266=2), UNIT),
    "16 bits in reverse": (tiff(reversed_bits(WORDS.tobytes()), t258=16, t266=2), WORDS / 65535),
    "without rows per strip": (tiff(t278=None), UNIT),
    "more rows per strip than rows": (tiff(t278=2**32 - 1), UNIT),
    "without lengths of strips": (tiff(t279=None), UNIT),
    "a length of zero": (tiff(t279=0), UNIT),
    "a wrong length of the only strip": (tiff(t279=7), UNIT),
    "without samples per pixel": (tiff(t277=None), UNIT),
    "without compression": (tiff(t259=None), UNIT),
    "a predictor without compression": (tiff(t317=2), UNIT),
    "an undefined sample format": (tiff(t339=4), UNIT),
    "a maximum that is no range": (tiff(t281=100, t341=100), UNIT),
    "floats in which 0 is white": (tiff(FLOATS, t339=3, t262=0), 1 - SMOOTH),
    "turned": (tiff(t274=6), np.rot90(UNIT, -1)),
    "turned in XMP only": (tiff(t700=b'tiff:Orientation="8"'), np.rot90(UNIT)),
    "turned nowhere": (tiff(t274=9), UNIT),
    "a preview behind it": (tiff(more=[{254: 1}]), UNIT),
    "a mask behind it": (tiff(more=[{254: 4}]), UNIT),
    "an old preview behind it": (tiff(more=[{255: 2}]), UNIT),
    "a preview before it": (tiff(t254=1, more=[{254: 0}]), UNIT),
    "marked as a preview": (tiff(t254=1), UNIT),
    "tags that say nothing": (tiff(t37510=bytes(99), t34675=b"no profile", t282=0), UNIT),
}  # fmt: skip


@pytest.mark.parametrize("name", READ)
def test_unusual_tags_are_understood(read, name):
    content, expected = READ[name]
    np.testing.assert_allclose(read(content), expected, atol=1e-6)


@pytest.mark.parametrize("tag", [270, 274, 700])
def test_metadata_that_are_not_in_the_file_do_not_matter(read, tag):
    content = tiff(t65000=b"anything").replace(
        *(struct.pack("<HHI", number, 7, length) for number, length in [(65000, 8), (tag, 9999)])
    )
    np.testing.assert_allclose(read(content), UNIT, atol=1e-6)


def test_images_that_are_said_to_follow_but_do_not_are_told_of(read):
    content = tiff()
    for following in (len(content) - 2, 10**6):
        with pytest.warns(ImageReadWarning, match="more follows its first image, which is not"):
            shown = read(content[:-4] + struct.pack("<I", following))
        np.testing.assert_allclose(shown, UNIT, atol=1e-6)


def test_colors_of_transparent_pixels_are_kept_if_they_are_not_multiplied(read):
    pixels = np.stack([BYTES, np.zeros_like(BYTES)], axis=-1)
    np.testing.assert_allclose(read(tiff(pixels, t277=2, t338=1)), UNIT, atol=1e-6)


TILES = {273: None, 278: None, 279: None, 322: 16, 323: 16}
REFUSED = {
    "compressed by old-style JPEG": tiff(t259=6),
    "compressed by WebP": tiff(t259=50001),
    "compressed by method 12345": tiff(t259=12345),
    "signed integers of 8 bits": tiff(t339=2),
    "unsigned integers of 32 bits": tiff(bytes(4 * BYTES.size), t258=32),
    "of an unknown kind of numbers": tiff(t339=9),
    "of complex numbers": tiff(bytes(8 * BYTES.size), t258=64, t339=6),
    "of 24-bit floats": tiff(bytes(3 * BYTES.size), t258=24, t339=3),
    "channels differ": tiff(bytes(3 * BYTES.size), t258=[8, 8, 4], t277=3, t262=2),
    "2 channels whose meaning": tiff(bytes(2 * BYTES.size), t277=2),
    "of 1 instead of 3 channels": tiff(t262=2),
    "that does not say how many bits": tiff(t258=None),
    "whose palette is missing": tiff(t262=3),
    "a mask": tiff(t262=4),
    "raw sensor data": tiff(t262=32803),
    "colors of an unknown kind": tiff(t262=999),
    "inks other than": tiff(bytes(4 * BYTES.size), t277=4, t262=5, t332=2),
    "not known what is black": tiff(FLOATS * 2, t339=3, t262=0),
    "predictor 5": tiff(t259=5, t317=5),
    "of 2 strips or tiles instead of 1": tiff(t273=[8, 9], t278=None),
    "of 1 strips or tiles instead of 3": tiff(t278=10),
    "of 0 strips or tiles instead of 6": tiff(**{f"t{tag}": v for tag, v in TILES.items()}),
    "without some of its pixels": tiff(t273=0),
    "has 70 bytes instead of 350": tiff(t273=[8, 360, 710], t278=10, t279=[350, 70, 35]),
    "where its strips or tiles end": tiff(t259=5, t273=[8, 9, 10], t278=10, t279=None),
    "points to byte": tiff(t273=9999),
    "points to byte .*": tiff()[:-9],
    "it contains 2 images": tiff(more=[{}]),
    "it contains 3 images": tiff(more=[{}, {}, {254: 1}]),
    "it contains 40 images": tiff(t270=b"ImageJ=1.53\nimages=40\nslices=40\n"),
    "it contains 5 images": tiff(t32997=5),
    "a preview in the place of the image": tiff(t254=1, t330=8),
    "the image is 0 x 35": tiff(t257=0),
    "exceed the limit": tiff(t257=2**31),
    "exceed the limit of": tiff(**{f"t{tag}": v for tag, v in TILES.items()}, t324=8).replace(
        struct.pack("<HHII", 322, 4, 1, 16), struct.pack("<HHII", 322, 4, 1, 2**31)
    ),
    "without an image": b"II*\0" + bytes(4),
}  # fmt: skip


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_read_is_told(read, message):
    with pytest.raises(ImageReadError, match=message):
        read(REFUSED[message])


def test_black_is_zero_where_the_file_does_not_say_with_a_warning(read):
    with pytest.warns(ImageReadWarning, match=r"file': its header does not say whether 0 is"):
        np.testing.assert_allclose(read(tiff(t262=None)), UNIT, atol=1e-6)
    # Three channels can only be colors.
    colors = read(tiff(COLOR, t262=None, t277=3))
    np.testing.assert_allclose(colors, COLOR @ LUMA / 255, atol=1e-6)


@pytest.mark.parametrize("white", [255, 255 * 257])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palettes_of_8_and_16_bits_are_read(read, bits, white):
    random = np.random.default_rng(0)
    colors = random.integers(0, 256, (2**bits, 3))
    indices = random.integers(0, 2**bits, (HEIGHT, WIDTH), dtype=np.uint8)
    bitwise = np.unpackbits(indices[..., None], axis=2)[..., 8 - bits :].reshape(HEIGHT, -1)
    packed = np.packbits(bitwise, axis=1).tobytes()
    palette = (colors.T.ravel() * (white // 255)).tolist()
    image = read(tiff(packed, t258=bits, t262=3, t320=palette))
    np.testing.assert_allclose(image, colors[indices] @ LUMA / 255, atol=1e-6)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_fax_compression_is_read(tmp_path, compression, white_is_zero):
    bits = BYTES > 60
    path = tmp_path / "a.tiff"
    info = {262: 0 if white_is_zero else 1}
    Image.fromarray(bits).save(path, compression=compression, tiffinfo=info)
    known = tifffile.imread(path).astype(bool)
    with tifffile.TiffFile(path) as file:
        assert file.pages[0].photometric == info[262]
    np.testing.assert_array_equal(read_image(path), known != white_is_zero)


@pytest.mark.parametrize("compression", ["group3", "group4", "tiff_ccitt"])
def test_a_fax_that_is_cut_is_not_filled_up_with_white(tmp_path, compression):
    bits = np.kron(np.random.default_rng(0).random((9, 9)) > 0.5, np.ones((4, 4))).astype(bool)
    path = tmp_path / "a.tiff"
    Image.fromarray(bits).save(path, compression=compression)
    with tifffile.TiffFile(path) as file:
        tag = file.pages[0].tags["StripByteCounts"]
    content = bytearray(path.read_bytes())
    for kept in (0.2, 0.5, 0.9):
        length = int(kept * tag.value[0])
        content[tag.valueoffset : tag.valueoffset + 2] = length.to_bytes(2, "little")
        path.write_bytes(content)
        with pytest.raises(ImageReadError, match=r"cut short|cannot be decoded"):
            read_image(path)


@pytest.mark.parametrize("parts", [{}, {"rowsperstrip": 16}, {"tile": (16, 32)}])
@pytest.mark.parametrize(
    ("photometric", "subsampling"),
    [("minisblack", None), ("miniswhite", None), ("rgb", None)]
    + [("ycbcr", subsampling) for subsampling in ((1, 1), (2, 1), (2, 2))],
)
def test_jpeg_compression_is_read(tmp_path, photometric, subsampling, parts):
    pixels = COLOR if photometric in ("rgb", "ycbcr") else BYTES
    path = tmp_path / "a.tiff"
    options = {"photometric": photometric, "compression": "jpeg", **parts}
    tifffile.imwrite(path, pixels, subsampling=subsampling, **options)
    known = tifffile.imread(path) / 255
    gray = known @ LUMA if known.ndim == 3 else known
    np.testing.assert_allclose(
        read_image(path), 1 - gray if photometric == "miniswhite" else gray, atol=1e-6
    )


@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_jpeg_compression_with_shared_tables_is_read(tmp_path, mode):
    path = tmp_path / "a.tiff"
    Image.fromarray(COLOR).convert(mode).save(path, compression="jpeg", quality=95)
    expected = np.asarray(Image.fromarray(COLOR).convert("L")) / 255
    np.testing.assert_allclose(read_image(path), expected, atol=0.06)


@pytest.mark.parametrize("compression", [None, "lzw", "zlib", "packbits", "zstd", "jpeg"])
def test_a_file_that_is_cut_is_an_error(tmp_path, compression):
    path = tmp_path / "a.tiff"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    # The tags come first.
    tifffile.imwrite(path, noise, compression=compression)
    content = path.read_bytes()
    for length in range(8, len(content), 97):
        path.write_bytes(content[:length])
        with pytest.raises(ImageReadError, match=r"damaged or cut short|without an image"):
            read_image(path)


def test_strips_with_less_than_their_pixels_are_an_error(tmp_path):
    for compression in ("lzw", "zlib", "packbits", "zstd", "lzma"):
        buffer = io.BytesIO()
        tifffile.imwrite(buffer, BYTES[:-1], compression=compression)
        content = bytearray(buffer.getvalue())
        for tag in (257, 278):
            place = content.index(struct.pack("<H", tag)) + 8
            content[place] = HEIGHT
        path = tmp_path / "a.tiff"
        path.write_bytes(content)
        with pytest.raises(ImageReadError, match="cannot be decoded"):
            read_image(path)
