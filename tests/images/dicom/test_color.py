"""Color and palettes become gray."""

import numpy as np
import pytest
from pydicom.pixels import convert_color_space

from otcxr_sk.images import ImageReadError, ImageReadWarning, read_dicom

COLORS = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.uint8)
LUMA = COLORS @ [0.299, 0.587, 0.114] / 255


def test_color_becomes_luma_with_a_warning(write_dicom):
    with pytest.warns(ImageReadWarning, match=r"'.*image\.dcm': it is in color \(RGB\)"):
        np.testing.assert_allclose(read_dicom(write_dicom(COLORS)), LUMA, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*in color:otcxr_sk.images.ImageReadWarning")
def test_every_way_to_store_color_reads_the_same(write_dicom):
    planes = np.moveaxis(COLORS, -1, 0).copy()
    planar = write_dicom(COLORS, PlanarConfiguration=1, PixelData=planes.tobytes())
    np.testing.assert_allclose(read_dicom(planar), LUMA, atol=1e-6)
    deep = write_dicom(COLORS.astype(np.uint16) * 16, BitsStored=12)
    np.testing.assert_allclose(read_dicom(deep), LUMA * 255 * 16 / 4095, atol=1e-6)
    ybr = convert_color_space(COLORS, "RGB", "YBR_FULL")
    full = write_dicom(ybr, PhotometricInterpretation="YBR_FULL")
    np.testing.assert_allclose(read_dicom(full), LUMA, atol=0.51 / 255)
    halved = np.stack([ybr[:, ::2, 0], ybr[:, 1::2, 0], ybr[:, ::2, 1], ybr[:, ::2, 2]], axis=-1)
    sparse = write_dicom(
        COLORS, PhotometricInterpretation="YBR_FULL_422", PixelData=halved.tobytes()
    )
    np.testing.assert_allclose(read_dicom(sparse), LUMA, atol=0.51 / 255)


@pytest.mark.filterwarnings("ignore:.*in color:otcxr_sk.images.ImageReadWarning")
@pytest.mark.parametrize("depth", [8, 16])
def test_a_palette_is_applied(write_dicom, depth):
    palette = np.random.default_rng(0).integers(0, 2**depth, (3, 256))
    tags = {"PhotometricInterpretation": "PALETTE COLOR"}
    for color, entries in zip(("Red", "Green", "Blue"), palette, strict=True):
        tags[f"{color}PaletteColorLookupTableDescriptor"] = [256, 0, depth]
        tags[f"{color}PaletteColorLookupTableData"] = entries.astype(f"<u{depth // 8}").tobytes()
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = (palette.T @ [0.299, 0.587, 0.114] / (2**depth - 1)).reshape(16, 16)
    np.testing.assert_allclose(read_dicom(write_dicom(pixels, **tags)), expected, atol=1e-6)
    segmented = write_dicom(pixels, SegmentedRedPaletteColorLookupTableData=b"\0\0", **tags)
    with pytest.raises(ImageReadError, match="palette is segmented"):
        read_dicom(segmented)


def palettes(raw, entries, bits):
    """Return the same palette for red, green and blue."""
    tags = {"PhotometricInterpretation": ("CS", "PALETTE COLOR ")}
    for color in ("Red", "Green", "Blue"):
        name = f"{color}PaletteColorLookupTable"
        tags[f"{name}Descriptor"] = ("US", [256, 0, bits])
        tags[f"{name}Data"] = ("OW", entries)
    return tags


@pytest.mark.filterwarnings("ignore:.*in color:otcxr_sk.images.ImageReadWarning")
@pytest.mark.parametrize("dtype", ["u1", "<u2"])
def test_palette_entries_of_eight_bits_may_share_a_word(raw, dtype):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    entries = np.arange(256)[::-1].astype(dtype)
    path = raw.image(pixels, **palettes(raw, entries.tobytes(), 8))
    np.testing.assert_allclose(read_dicom(path), (255 - pixels) / 255, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*in color:otcxr_sk.images.ImageReadWarning")
def test_a_palette_of_one_color_is_ignored_with_a_warning(raw):
    pixels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    expected = read_dicom(raw.image(pixels, name="plain.dcm"))
    path = raw.image(pixels, **palettes(raw, bytes([9] * 256), 8))
    with pytest.warns(ImageReadWarning, match="palette leaves one gray .* ignored"):
        np.testing.assert_array_equal(read_dicom(path), expected)


def test_a_palette_that_is_missing_is_named(raw):
    tags = {"PhotometricInterpretation": ("CS", "PALETTE COLOR ")}
    with pytest.raises(ImageReadError, match="it has no red palette; correct its header"):
        read_dicom(raw.image(COLORS[..., 0], **tags))
