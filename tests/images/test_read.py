import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from otcxr_sk.images import ImageReadError, _pillow, _read, read_image
from otcxr_sk.images._read import read_gray

BYTES = np.arange(256, dtype=np.uint8).reshape(8, 32)
WORDS = BYTES.astype(np.uint16) * 257
UNIT = BYTES / np.float32(255)


def white_is_zero(path):
    """Change the photometric interpretation of an uncompressed TIFF on disk."""
    raw = path.read_bytes()
    entry = b"\x06\x01\x03\x00\x01\x00\x00\x00"
    assert raw.count(entry + b"\x01") == 1
    path.write_bytes(raw.replace(entry + b"\x01", entry + b"\x00"))


@pytest.mark.parametrize("pixels", [BYTES, WORDS])
@pytest.mark.parametrize("suffix", ["png", "tiff", "npy"])
def test_8_and_16_bits_in_every_lossless_format_read_the_same(tmp_path, pixels, suffix):
    path = tmp_path / f"image.{suffix}"
    np.save(path, pixels) if suffix == "npy" else Image.fromarray(pixels).save(path)
    image = read_image(path)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, UNIT, atol=1e-6)


def test_jpeg_is_read_within_its_loss(tmp_path):
    Image.fromarray(BYTES).save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg"), UNIT, atol=0.05)


@pytest.mark.parametrize("pixels", [BYTES, WORDS])
def test_tiff_with_white_as_zero_is_inverted(tmp_path, pixels):
    path = tmp_path / "a.tiff"
    Image.fromarray(pixels).save(path)
    white_is_zero(path)
    np.testing.assert_allclose(read_image(path), 1 - UNIT, atol=1e-6)


def test_12_bit_tiff_is_scaled_by_12_bits(tmp_path):
    packed = bytes.fromhex("000800 fff000")  # 0x000, 0x800, 0xfff, 0x000
    # Width, height, bits, no compression, black is zero, offset, rows and bytes of the strip.
    tags = {256: 4, 257: 1, 258: 12, 259: 1, 262: 1, 273: 8, 278: 1, 279: len(packed)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    header = b"II*\0" + struct.pack("<I", 8 + len(packed)) + packed
    path = tmp_path / "a.tiff"
    path.write_bytes(header + struct.pack("<H", len(tags)) + entries + bytes(4))
    np.testing.assert_allclose(read_image(path), [[0, 2048 / 4095, 1, 0]], atol=1e-6)


def test_floats_in_tiff_and_npy_are_unchanged(tmp_path):
    floats = np.array([[-3.5, 0.25], [7, 1e6]], dtype=np.float32)
    Image.fromarray(floats).save(tmp_path / "a.tiff")
    np.save(tmp_path / "a.npy", floats.astype(np.float64))
    np.testing.assert_array_equal(read_image(tmp_path / "a.tiff"), floats)
    np.testing.assert_array_equal(read_image(tmp_path / "a.npy"), floats)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_gray_image_reads_the_same_in_every_mode(tmp_path, mode):
    black_and_white = np.where(BYTES > 99, 255, 0).astype(np.uint8)
    gray = Image.fromarray(black_and_white if mode == "1" else BYTES)
    gray.convert(mode).save(tmp_path / "a.png")
    expected = black_and_white / 255 if mode == "1" else UNIT
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), expected, atol=1e-6)


def test_transparency_is_ignored(tmp_path):
    gray = Image.fromarray(BYTES)
    gray.putalpha(Image.fromarray(BYTES[::-1]))
    gray.save(tmp_path / "alpha.png")
    Image.fromarray(BYTES).convert("P").save(tmp_path / "palette.png", transparency=bytes(256))
    for name in ("alpha.png", "palette.png"):
        np.testing.assert_allclose(read_image(tmp_path / name), UNIT, atol=1e-6)


def test_color_becomes_luma(tmp_path):
    Image.fromarray(255 * np.eye(3, dtype=np.uint8)[None]).save(tmp_path / "a.png")
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), [[0.299, 0.587, 0.114]], atol=1e-6)


@pytest.mark.parametrize("pixels", [BYTES, WORDS])
def test_exif_orientation_is_applied_to_8_and_16_bits(tmp_path, pixels):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), np.rot90(UNIT, -1), atol=1e-6)


# From stored rows to the displayed image, by the EXIF standard.
ORIENTATIONS = {
    1: lambda stored: stored,
    2: np.fliplr,
    3: lambda stored: np.rot90(stored, 2),
    4: np.flipud,
    5: np.transpose,
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: np.rot90(stored, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("kind", ["JPEG", "TIFF", "PNG"])
@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_every_exif_orientation_is_applied(tmp_path, kind, orientation):
    smooth = np.add.outer(np.arange(24) * 6, np.arange(16) * 3).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(smooth).save(tmp_path / "a", kind, exif=exif, quality=100)
    expected = ORIENTATIONS[orientation](smooth) / 255
    atol = 2 / 255 if kind == "JPEG" else 1e-6
    np.testing.assert_allclose(read_image(tmp_path / "a"), expected, atol=atol)


def png(pixels, color_type, bits):
    """Return a PNG of any bit depth and color type, some of which Pillow cannot write."""

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    rows = pixels if bits == 8 else pixels.astype(">u2") if bits == 16 else pixels
    if bits < 8:
        shifts = np.arange(8 - bits, -1, -bits)
        rows = (pixels.reshape(len(pixels), -1, 8 // bits) << shifts).sum(-1).astype(np.uint8)
    raw = b"".join(b"\0" + row.tobytes() for row in rows)
    head = struct.pack(">IIBBBBB", pixels.shape[1], len(pixels), bits, color_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(raw))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_gray_png_of_every_bit_depth_spans_black_to_white(tmp_path, bits):
    levels = 2**bits
    gray = (np.arange(64).reshape(4, 16) * 1021 % levels).astype(np.uint16)
    gray[0, :2] = 0, levels - 1
    pixels = gray if bits == 16 else gray.astype(np.uint8)
    (tmp_path / "a.png").write_bytes(png(pixels, 0, bits))
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), gray / (levels - 1), atol=1e-6)


@pytest.mark.parametrize(("color_type", "channels"), [(2, 3), (4, 2), (6, 4)])
def test_png_of_16_bits_with_color_or_alpha_is_read_as_8_bits(tmp_path, color_type, channels):
    pixels = np.repeat(WORDS[..., None], channels, axis=-1)
    pixels[..., -1] = pixels[..., -1] if channels == 3 else 9
    (tmp_path / "a.png").write_bytes(png(pixels, color_type, 16))
    np.testing.assert_allclose(read_image(tmp_path / "a.png"), UNIT, atol=1e-6)


@pytest.mark.parametrize("compression", ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"])
@pytest.mark.parametrize("pixels", [BYTES, WORDS])
def test_tiff_of_every_compression_is_read(tmp_path, pixels, compression):
    Image.fromarray(pixels).save(tmp_path / "a.tiff", compression=compression)
    np.testing.assert_allclose(read_image(tmp_path / "a.tiff"), UNIT, atol=1e-6)


def test_cmyk_jpeg_becomes_luma(tmp_path):
    gray = Image.fromarray(BYTES).convert("RGB").convert("CMYK")
    gray.save(tmp_path / "a.jpg", quality=95)
    np.testing.assert_allclose(read_image(tmp_path / "a.jpg"), UNIT, atol=0.06)


@pytest.mark.parametrize(
    ("dtype", "white"),
    [
        (">u2", 65535), ("<u2", 65535), (">i2", 32767), ("|u1", 255), ("|b1", 1),
        (">f4", 1), ("<f8", 1), (">i4", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0)])
def test_npy_of_every_byte_order_axis_order_and_version(tmp_path, dtype, white, order, version):
    values = BYTES % 2 if dtype == "|b1" else BYTES
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, np.asarray(values, dtype=dtype, order=order), version)
    np.testing.assert_allclose(read_image(tmp_path / "a.npy"), values / white, rtol=1e-7)


def test_images_larger_than_a_strip_are_read_whole(tmp_path, monkeypatch):
    whole = {}
    for mode in ("L", "RGB", "P", "LA", "1", "I;16", "F"):
        path = tmp_path / mode.replace(";", "")
        image = Image.fromarray(WORDS if mode == "I;16" else BYTES)
        (image if mode == "I;16" else image.convert(mode)).save(path, "TIFF")
        whole[path] = read_image(path)
    monkeypatch.setattr(_pillow, "_AT_ONCE", 70)
    for path, expected in whole.items():
        np.testing.assert_array_equal(read_image(path), expected)


def test_the_format_is_recognized_by_content_not_by_name(tmp_path, write_dicom):
    Image.fromarray(BYTES).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", tmp_path / "a.dcm")
    np.testing.assert_allclose(read_image(tmp_path / "a.dcm"), UNIT, atol=1e-6)
    dicom = write_dicom(BYTES, name="b.jpg", WindowCenter=128, WindowWidth=256)
    np.testing.assert_allclose(read_image(str(dicom)), UNIT, atol=1e-6)


def test_a_dicom_file_with_a_tiff_header_as_preamble_is_read_as_dicom(write_dicom):
    path = write_dicom(BYTES, WindowCenter=128, WindowWidth=256)
    path.write_bytes(b"II*\0" + path.read_bytes()[4:])
    np.testing.assert_allclose(read_image(path), UNIT, atol=1e-6)


def broken(folder: Path) -> dict[str, str]:
    """Write files that cannot be read as one image; return part of the error for each name."""
    (folder / "folder").mkdir()
    (folder / "empty.png").touch()
    (folder / "text.png").write_text("not an image, in spite of its name")
    os.mkfifo(folder / "pipe")
    np.save(folder / "stack.npy", np.zeros((2, 3, 4)))
    np.save(folder / "objects.npy", np.array([[None, {}]]), allow_pickle=True)
    np.save(folder / "complex.npy", np.zeros((3, 3), dtype=complex))
    np.save(folder / "no rows.npy", np.zeros((0, 3)))
    Image.fromarray(BYTES.astype(np.int32)).save(folder / "int32.tiff")
    image = Image.fromarray(BYTES)
    image.save(folder / "pages.tiff", save_all=True, append_images=[image])
    image.save(folder / "animated.png", save_all=True, append_images=[image.rotate(180)])
    for suffix, kind in {"png": "PNG", "jpg": "JPEG", "tiff": "TIFF", "npy": "NPY"}.items():
        whole = io.BytesIO()
        np.save(whole, BYTES) if kind == "NPY" else image.save(whole, kind)
        (folder / f"cut.{suffix}").write_bytes(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])
    return {
        "missing.png": "no such file", "folder": "this is a folder", "empty.png": "empty",
        "text.png": "not a DICOM, PNG, JPEG, TIFF or NPY", "pipe": "not a regular file",
        "stack.npy": "not one image", "objects.npy": "not one image",
        "complex.npy": "not one image", "no rows.npy": "the image is 0 x 3 pixels",
        "int32.tiff": "32 bits", "pages.tiff": "2 images",
        "animated.png": "2 images", "cut.png": "damaged or cut short",
        "cut.jpg": "damaged or cut short", "cut.tiff": "damaged or cut short",
        "cut.npy": "damaged or cut short",
    }  # fmt: skip


def test_a_file_that_is_not_one_image_is_an_error_that_names_it(tmp_path):
    for name, message in broken(tmp_path).items():
        path = str(tmp_path / name)
        with pytest.raises(ImageReadError) as caught:
            read_image(path)
        assert str(caught.value).startswith(f"cannot read {path!r}: "), name
        assert message in str(caught.value), name


def test_lack_of_memory_is_an_error_that_names_the_file(tmp_path, monkeypatch):
    def decode(*args):
        raise MemoryError

    Image.fromarray(BYTES).save(tmp_path / "a.png")
    monkeypatch.setattr(_read, "decode", decode)
    with pytest.raises(ImageReadError, match=r"^cannot read '.*a\.png': .* not enough memory"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("limit", [100, 200])
def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch, limit):
    Image.fromarray(BYTES).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(ImageReadError, match=r"bomb\.png.*limit of \d+ pixels"):
        read_image(tmp_path / "bomb.png")


def encoded(kind):
    buffer = io.BytesIO()
    smooth = Image.fromarray(np.add.outer(np.arange(16), np.arange(16)).astype(np.uint8) * 8)
    np.save(buffer, np.asarray(smooth)) if kind == "NPY" else smooth.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "NPY"])
@given(data=st.data())
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_in_range_or_is_an_error_that_names_it(tmp_path, kind, data):
    raw = bytearray(encoded(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        pixels, bits = read_gray(str(path))
    except ImageReadError as error:
        assert repr(str(path)) in str(error)  # noqa: PT017
    else:
        assert pixels.ndim == 2
        assert pixels.dtype == np.float32
        assert not bits or 0 <= pixels.min() <= pixels.max() <= 1


def test_real_files_are_read_as_pillow_reads_them(real_data):
    files = sorted((real_data / "raw_samples" / "nih_png").iterdir())
    files += sorted((real_data / "raw_samples" / "kermany_jpeg").rglob("*.jpeg"))
    files += sorted((real_data / "raw_samples" / "covid_mixed").iterdir())
    assert len(files) == 53
    for path in files[::3]:
        with Image.open(path) as image:
            expected = np.asarray(image.convert("L")) / 255
        np.testing.assert_allclose(read_image(path), expected, atol=0.51 / 255, err_msg=path.name)
