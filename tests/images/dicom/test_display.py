import math

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import convert_color_space

from otcxr_sk.images import ImageReadError, ImageReadWarning, read_dicom

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def window(x, function, c, w):
    """Return the output in [0, 1] by PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2."""
    if function == "SIGMOID":
        # 1 / (1 + exp(-4 (x - c) / w)), in a form that cannot overflow.
        return 0.5 + 0.5 * math.tanh(2 * (x - c) / w)
    if function == "LINEAR":
        c, w = c - 0.5, w - 1
    if x <= c - w / 2:
        return 0.0
    if x > c + w / 2:
        return 1.0
    return (x - c) / w + 0.5


def table(entries, first, bits):
    item = Dataset()
    item.LUTDescriptor = [len(entries) % 2**16, first, bits]
    item.add_new("LUTData", "US", [int(entry) for entry in entries])
    return [item]


WINDOWED = {"WindowCenter": 1500, "WindowWidth": 2000, "BitsStored": 12}
LOOKED_UP = {"VOILUTSequence": table(np.arange(4096)[::-1] // 4, 0, 10), "BitsStored": 12}
STRETCHED = {"BitsStored": 12}


@pytest.mark.parametrize("function", [None, "LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (1000.5, 321), (300, 1), (-50, 900)])
@pytest.mark.parametrize(("slope", "intercept"), [(1, 0), (-0.5, 700)])
def test_windows_follow_the_standard(write_dicom, function, center, width, slope, intercept):
    tags = {"VOILUTFunction": function} if function else {}
    path = write_dicom(
        RAMP, WindowCenter=center, WindowWidth=width, RescaleSlope=slope,
        RescaleIntercept=intercept, BitsStored=12, **tags,
    )  # fmt: skip
    values = slope * RAMP.ravel().astype(float) + intercept
    expected = [window(x, function or "LINEAR", center, width) for x in values]
    np.testing.assert_allclose(read_dicom(path).ravel(), expected, atol=1e-6)


@pytest.mark.parametrize("tags", [WINDOWED, LOOKED_UP, STRETCHED])
def test_monochrome1_is_monochrome2_inverted(write_dicom, tags):
    mono2 = read_dicom(write_dicom(RAMP, **tags))
    mono1 = read_dicom(write_dicom(RAMP, PhotometricInterpretation="MONOCHROME1", **tags))
    assert mono2.std() > 0.1
    np.testing.assert_allclose(mono1, 1 - mono2, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), bits=st.sampled_from([8, 12, 16]))
@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_both_polarities_of_an_image_read_the_same(write_dicom, seed, bits):
    dtype = np.uint8 if bits == 8 else np.uint16
    pixels = np.random.default_rng(seed).integers(0, 2**bits, (9, 13)).astype(dtype)
    mono2 = write_dicom(pixels, name="2.dcm", BitsStored=bits)
    complement = (2**bits - 1 - pixels).astype(dtype)
    mono1 = write_dicom(
        complement, name="1.dcm", BitsStored=bits, PhotometricInterpretation="MONOCHROME1"
    )
    np.testing.assert_allclose(read_dicom(mono1), read_dicom(mono2), atol=1e-6)


def test_the_first_of_several_windows_is_used(write_dicom):
    one = read_dicom(write_dicom(RAMP, WindowCenter=900, WindowWidth=800))
    two = read_dicom(write_dicom(RAMP, WindowCenter=[900, 1], WindowWidth=[800, 2]))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize(
    ("center", "width"), [(900, 0), (900, -5), (900, "nan"), ("nan", 9), (900, "inf"), (9, "")]
)
def test_an_invalid_window_is_ignored(write_dicom, center, width):
    without = read_dicom(write_dicom(RAMP))
    with pydicom.config.disable_value_validation():
        invalid = read_dicom(write_dicom(RAMP, WindowCenter=center, WindowWidth=width))
    np.testing.assert_array_equal(invalid, without)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_voi_lut_maps_rescaled_values(write_dicom, bits):
    entries = np.linspace(0, 2**bits - 1, 1000).astype(int)
    path = write_dicom(
        RAMP, RescaleSlope=1, RescaleIntercept=-100, VOILUTSequence=table(entries, 500, bits)
    )
    expected = entries[np.clip(RAMP.astype(int) - 100 - 500, 0, 999)] / (2**bits - 1)
    np.testing.assert_allclose(read_dicom(path), expected, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_the_modality_lut_is_applied_before_the_window(write_dicom, bits):
    entries = (np.arange(4096) % 2**bits)[::-1]
    path = write_dicom(
        RAMP, ModalityLUTSequence=table(entries, 0, bits), WindowCenter=128, WindowWidth=256
    )
    expected = [window(entries[x], "LINEAR", 128, 256) for x in RAMP.flat]
    np.testing.assert_allclose(read_dicom(path).ravel(), expected, atol=1e-6)


def test_without_a_window_percentiles_are_mapped_to_the_range(write_dicom):
    pixels = np.random.default_rng(0).normal(0, 1000, (100, 100)).round().astype(np.int16)
    low, high = np.percentile(pixels, [0.5, 99.5])
    expected = np.clip((pixels - low) / (high - low), 0, 1)
    np.testing.assert_allclose(read_dicom(write_dicom(pixels)), expected, atol=5e-3)


def test_padding_does_not_count_for_the_percentiles(write_dicom):
    padded = np.full((64, 96), 60000, dtype=np.uint16)
    padded[:, :64] = RAMP
    padded[:4] = 60010
    exact = {"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 60010}
    alone = read_dicom(write_dicom(RAMP[4:]))
    np.testing.assert_array_equal(read_dicom(write_dicom(padded, **exact))[4:, :64], alone)
    assert read_dicom(write_dicom(padded))[4:, :64].max() < 0.1


def test_unused_bits_are_ignored(write_dicom):
    clean = read_dicom(write_dicom(RAMP, **WINDOWED))
    overlaid = write_dicom(RAMP | np.uint16(0xA000), **WINDOWED)
    np.testing.assert_array_equal(read_dicom(overlaid), clean)


def test_pixels_may_be_stored_in_the_highest_bits(write_dicom):
    low = read_dicom(write_dicom(RAMP, **WINDOWED))
    high = write_dicom(RAMP << 4, HighBit=15, **WINDOWED)
    np.testing.assert_array_equal(read_dicom(high), low)


@pytest.mark.parametrize("highest", [0, 255])
def test_an_impossible_high_bit_is_limited_to_the_possible(write_dicom, highest):
    pixels = RAMP << 4
    expected = read_dicom(write_dicom(pixels, BitsStored=16))
    np.testing.assert_array_equal(
        read_dicom(write_dicom(pixels, name="odd.dcm", HighBit=highest, BitsStored=16)), expected
    )


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 13, 16])
def test_signed_pixels_keep_their_sign(write_dicom, bits):
    low = -(2 ** (bits - 1))
    signed = np.linspace(low, -low - 1, 4096).round().astype(np.int64).reshape(64, 64)
    # Unused bits do not extend the sign, as the standard allows.
    dtype, unused = (np.int8, 0) if bits == 8 else (np.int16, 2**bits - 1)
    stored = (signed & unused if unused else signed).astype(np.uint16 if unused else np.int8)
    path = write_dicom(
        stored.view(dtype), BitsStored=bits, WindowCenter=0, WindowWidth=2**bits // 2
    )
    expected = [window(x, "LINEAR", 0, 2**bits // 2) for x in signed.flat]
    np.testing.assert_allclose(read_dicom(path).ravel(), expected, atol=1e-6)


def test_padding_may_be_a_negative_value(write_dicom):
    padded = RAMP.astype(np.int16) - 2000
    padded[:, :20] = -32768
    alone = read_dicom(write_dicom(padded[:, 20:]))
    path = write_dicom(padded, PixelPaddingValue=-32768)
    np.testing.assert_array_equal(read_dicom(path)[:, 20:], alone)


def test_a_lookup_table_of_odd_depth_is_refused(write_dicom):
    with pytest.raises(ImageReadError, match="entries of 3 bits"):
        read_dicom(write_dicom(RAMP, VOILUTSequence=table([0, 1], 0, 3)))


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


def test_a_constant_image_is_black(write_dicom):
    assert not read_dicom(write_dicom(np.full((4, 4), 7, dtype=np.uint8))).any()
