import gzip
import io
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile, PngImagePlugin, TiffImagePlugin

from otcxr_sk.images import ImageReadError, _pillow, _read, read_image
from otcxr_sk.images._read import read_gray
from otcxr_sk.images.rasters import _tiff_pixels

BYTES = np.arange(256, dtype=np.uint8).reshape(8, 32)
WORDS = BYTES.astype(np.uint16) * 257
UNIT = BYTES / np.float32(255)


@pytest.mark.parametrize("pixels", [BYTES, WORDS])
@pytest.mark.parametrize("suffix", ["png", "tiff", "npy"])
def test_8_and_16_bits_in_every_lossless_format_read_the_same(tmp_path, pixels, suffix):
    path = tmp_path / f"image.{suffix}"
    np.save(path, pixels) if suffix == "npy" else Image.fromarray(pixels).save(path)
    image = read_image(path)
    assert image.dtype == np.float32
    np.testing.assert_allclose(image, UNIT, atol=1e-6)


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


def in_every_format(folder):
    """Write images of several modes in several formats; return their paths."""
    paths = []
    for mode in ("L", "RGB", "P", "LA", "1", "I;16", "F", "CMYK"):
        image = Image.fromarray(WORDS if mode == "I;16" else BYTES)
        image = image if mode == "I;16" else image.convert(mode)
        kinds = {"PNG": {}, "JPEG": {}, "TIFF": {}, "lzw": {"compression": "tiff_lzw"}}
        for kind, options in kinds.items():
            path = folder / f"{mode.replace(';', '')}.{kind}"
            with suppress(OSError):
                image.save(path, "TIFF" if options else kind, **options)
                paths.append(path)
    np.save(folder / "a.npy", WORDS)
    assert len(paths) > 25
    return [*paths, folder / "a.npy"]


def test_images_larger_than_a_strip_are_read_whole(tmp_path, monkeypatch):
    whole = {path: read_image(path) for path in in_every_format(tmp_path)}
    monkeypatch.setattr(_pillow, "_AT_ONCE", 70)
    monkeypatch.setattr(_tiff_pixels, "_AT_ONCE", 70)
    for path, expected in whole.items():
        np.testing.assert_array_equal(read_image(path), expected)


def test_settings_of_pillow_change_nothing(tmp_path, monkeypatch):
    whole = {path: read_image(path) for path in in_every_format(tmp_path)}
    for module, name, value in [
        (ImageFile, "LOAD_TRUNCATED_IMAGES", True),
        (ImageFile, "MAXBLOCK", 100),
        (ImageFile, "SAFEBLOCK", 1),
        (PngImagePlugin, "MAX_TEXT_CHUNK", 1),
        (PngImagePlugin, "MAX_TEXT_MEMORY", 1),
        (TiffImagePlugin, "READ_LIBTIFF", True),
        (Image, "ID", []),
        (Image, "OPEN", {}),
    ]:
        monkeypatch.setattr(module, name, value)
    for path, expected in whole.items():
        np.testing.assert_array_equal(read_image(path), expected)
        content = path.read_bytes()
        path.write_bytes(content[: len(content) * 2 // 3])
        with pytest.raises(ImageReadError, match="cut short"):
            read_image(path)


def test_files_are_read_by_threads_as_by_one(tmp_path):
    paths = in_every_format(tmp_path)
    alone = [read_image(path) for path in paths]
    filters = list(warnings.filters)
    with ThreadPoolExecutor(4) as pool:
        beside = list(pool.map(read_image, paths * 5))
    for image, expected in zip(beside, alone * 5, strict=True):
        np.testing.assert_array_equal(image, expected)
    assert warnings.filters == filters


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
    np.save(folder / "no rows.npy", np.zeros((0, 3)))
    Image.fromarray(BYTES.astype(np.int32)).save(folder / "int32.tiff")
    image = Image.fromarray(BYTES)
    image.save(folder / "pages.tiff", save_all=True, append_images=[image])
    image.save(folder / "animated.png", save_all=True, append_images=[image.rotate(180)])
    np.savez(folder / "archive.npz", BYTES)
    (folder / "packed.dcm.gz").write_bytes(gzip.compress(b"anything"))
    image.save(folder / "photo.jp2")
    (folder / "page.png").write_text("\n<!DOCTYPE html><title>403 Forbidden</title>")
    (folder / "pointer.png").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1")
    (folder / "zeros.dcm").write_bytes(bytes(1000))
    for suffix, kind in {"png": "PNG", "jpg": "JPEG", "tiff": "TIFF", "npy": "NPY"}.items():
        whole = io.BytesIO()
        np.save(whole, BYTES) if kind == "NPY" else image.save(whole, kind)
        (folder / f"cut.{suffix}").write_bytes(whole.getvalue()[: len(whole.getvalue()) * 2 // 3])
    return {
        "missing.png": "no such file", "folder": "this is a folder", "empty.png": "empty",
        "text.png": "not a DICOM, PNG, JPEG, TIFF or NPY", "pipe": "not a regular file",
        "stack.npy": "one image must have shape", "no rows.npy": "the image is 0 x 3 pixels",
        "int32.tiff": "32 bits", "pages.tiff": "2 images",
        "animated.png": "2 images", "cut.png": "cut short", "cut.jpg": "cut short",
        "cut.tiff": "cut short", "cut.npy": "cut short", "packed.dcm.gz": "it first",
        "archive.npz": "an archive", "photo.jp2": "in another format", "page.png": "a web page",
        "pointer.png": "git lfs pull", "zeros.dcm": "empty but for zeros",
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
    monkeypatch.setitem(_read._DECODERS, "PNG", decode)
    with pytest.raises(ImageReadError, match=r"^cannot read '.*a\.png': .* not enough memory"):
        read_image(tmp_path / "a.png")


def test_more_pixels_than_pillow_allows_are_an_error(tmp_path, monkeypatch):
    paths = in_every_format(tmp_path)
    # Pillow warns of more pixels than this, and refuses twice as many.
    for limit in (BYTES.size - 1, BYTES.size // 2 - 1):
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
        for path in paths:
            with pytest.raises(ImageReadError, match=r"(limit of|image of) \d+\b"):
                read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert all(read_image(path).shape == BYTES.shape for path in paths)


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
