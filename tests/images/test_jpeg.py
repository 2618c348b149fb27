"""JPEG files: every kind of coding and colors, what metadata may do, and missing parts."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image

from otcxr_sk.images import ImageReadError

LUMA = np.array([0.299, 0.587, 0.114])
START, END = b"\xff\xd8", b"\xff\xd9"

HEIGHT, WIDTH = 45, 51
RANDOM = np.random.default_rng(0)
GRAY = np.add.outer(np.arange(HEIGHT) * 2, np.arange(WIDTH)) + RANDOM.integers(0, 60, (45, 51))
GRAY = GRAY.astype(np.uint8)
COLOR = np.stack([GRAY, np.roll(GRAY, 9, axis=1), 255 - GRAY], axis=-1)


def saved(pixels=GRAY, kind="JPEG", **options):
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, kind, quality=90, **options)
    return buffer.getvalue()


def shown(content):
    """Return what another decoder makes of it."""
    pixels = imagecodecs.jpeg8_decode(content) / 255
    return pixels @ LUMA if pixels.ndim == 3 else pixels


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("options", [{}, {"restart_marker_blocks": 2}, {"optimize": True}], ids=str)
@pytest.mark.parametrize("subsampling", ["gray", "4:4:4", "4:2:2", "4:2:0", "4:1:1"])
def test_every_subsampling_is_read(read, progressive, options, subsampling):
    if subsampling == "gray":
        content = saved(progressive=progressive, **options)
    else:
        content = saved(COLOR, progressive=progressive, subsampling=subsampling, **options)
    np.testing.assert_allclose(read(content), shown(content), atol=1e-6)


def test_colors_without_a_transform_are_read(read):
    content = imagecodecs.jpeg8_encode(COLOR, level=95, colorspace="rgb", outcolorspace="rgb")
    np.testing.assert_allclose(read(content), COLOR @ LUMA / 255, atol=0.05)


@pytest.mark.parametrize("colors", ["cmyk", "ycck"])
def test_four_channels_are_inverted_as_adobe_does(read, colors):
    inks = np.asarray(Image.fromarray(COLOR).convert("CMYK"))
    content = imagecodecs.jpeg8_encode(
        255 - inks, level=98, colorspace="cmyk", outcolorspace=colors
    )
    np.testing.assert_allclose(read(content), COLOR @ LUMA / 255, atol=0.05)


@pytest.mark.parametrize("predictor", range(1, 8))
def test_lossless_coding_of_8_bits_is_read(read, predictor):
    content = imagecodecs.jpeg8_encode(GRAY, lossless=True, predictor=predictor)
    np.testing.assert_allclose(read(content), GRAY / 255, atol=1e-6)


DEEP = GRAY.astype(np.uint16) << 4


def hierarchical(content):
    return content.replace(b"\xff\xc0", b"\xff\xc5")


REFUSED = {
    "JPEG of 12 bits": imagecodecs.jpeg8_encode(DEEP, bitspersample=12),
    "JPEG of 16 bits": imagecodecs.jpeg8_encode(DEEP, bitspersample=16, lossless=True, predictor=1),
    "JPEG of 3 channels": imagecodecs.jpeg8_encode(COLOR, lossless=True, predictor=1),
    "compressed by JPEG-LS": imagecodecs.jpegls_encode(GRAY),
    "hierarchical": hierarchical(saved()),
    "does not say which colors": saved(Image.fromarray(COLOR).convert("CMYK")).replace(
        b"Adobe", b"Other"
    ),
    "it ends before its pixels": saved()[:20],
    "it contains no pixels": START + END,
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_read_is_told(read, message):
    with pytest.raises(ImageReadError, match=message):
        read(REFUSED[message])


def segment(marker, content):
    return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content


METADATA = {
    "a profile in parts that do not fit": segment(0xE2, b"ICC_PROFILE\0\x07\x09" + bytes(60_000)),
    "EXIF data that are damaged": segment(0xE1, b"Exif\0\0MM\0*\xff\xff\xff\xff"),
    "an index of more images that is damaged": segment(0xE2, b"MPF\0MM\0*\xff\xff\xff\xff"),
    "text that is no text": segment(0xFE, b"\xff\xfe\xff"),
    "a preview with an end mark": segment(0xE3, saved(GRAY[:8, :8])),
    "bytes between the parts": b"\0\x01\x02",
}


@pytest.mark.parametrize("name", METADATA)
def test_metadata_can_neither_hurt_nor_warn(read, name):
    content = saved()
    np.testing.assert_allclose(
        read(content[:20] + METADATA[name] + content[20:]), shown(content), atol=1e-6
    )


def test_what_follows_the_image_is_ignored(read):
    content = saved()
    more = saved(kind="MPO", save_all=True, append_images=[Image.fromarray(255 - GRAY)])
    for whole in (more, content + b"anything", content + bytes(500), content + saved(255 - GRAY)):
        np.testing.assert_allclose(read(whole), shown(content), atol=1e-6)


CODINGS = {
    "gray": saved(),
    "color": saved(COLOR),
    "restarts": saved(COLOR, restart_marker_blocks=2),
    "lossless": imagecodecs.jpeg8_encode(GRAY, lossless=True, predictor=1),
}


@pytest.mark.parametrize("name", CODINGS)
def test_a_whole_image_needs_no_end_mark(read, name):
    content = CODINGS[name]
    for whole in (content[:-2], content[:-2] + bytes(300)):
        np.testing.assert_allclose(read(whole), shown(content), atol=1e-6)


@pytest.mark.parametrize("end", [b"", END], ids=["no end mark", "with an end mark"])
@pytest.mark.parametrize("name", CODINGS)
def test_an_image_that_is_cut_is_not_filled_up_with_gray(read, name, end):
    content = CODINGS[name]
    expected = shown(content)
    scan = content.rindex(b"\xff\xda") + 20
    n_refused = 0
    for length in range(scan, len(content) - 2, 17):
        try:
            pixels = read(content[:length] + end)
        except ImageReadError as error:
            assert "cut short" in str(error)  # noqa: PT017
            n_refused += 1
        else:
            # The last block may lack some of its details.
            differs = np.argwhere(np.abs(pixels - expected) > 0.02)
            assert (differs >= [HEIGHT - 16, WIDTH - 16]).all()
    assert n_refused > 25


def test_an_image_that_ends_in_the_gray_of_missing_parts_is_read(read):
    gray = GRAY.copy()
    gray[24:] = 128
    for pixels in (gray, np.full_like(gray, 128), np.full_like(COLOR, 128)):
        for content in (saved(pixels), saved(pixels, restart_marker_blocks=1)):
            np.testing.assert_allclose(read(content), shown(content), atol=1e-6)


@pytest.mark.parametrize("pixels", [GRAY, COLOR], ids=["gray", "color"])
def test_a_progressive_image_is_not_read_without_its_last_details(read, pixels):
    content = saved(pixels, progressive=True)
    for stop in (0.5, 0.8, 0.95, 0.99):
        with pytest.raises(ImageReadError, match="it is cut short"):
            read(content[: int(len(content) * stop)] + END)
    with pytest.raises(ImageReadError, match="some of its scans are missing"):
        read(content[: content.rfind(b"\xff\xda")] + END)


def test_a_progressive_image_without_its_end_mark_is_cut_short(read):
    with pytest.raises(ImageReadError, match="it is cut short: its end is missing"):
        read(saved(progressive=True)[:-2])
