import math
import re
import warnings

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from otcxr_sk.images import ImageReadWarning, read_dicom

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
@pytest.mark.parametrize(("center", "width"), [(2048, 4096), (600.5, 321), (300, 1), (-50, 900)])
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


@pytest.mark.parametrize(("center", "width"), [(900, 0), (900, -5), (900, 0.5), (9, "")])
def test_a_window_without_width_counts_as_absent(write_dicom, center, width):
    without = read_dicom(write_dicom(RAMP))
    invalid = read_dicom(write_dicom(RAMP, WindowCenter=center, WindowWidth=width))
    np.testing.assert_array_equal(invalid, without)


@pytest.mark.parametrize(
    ("centers", "widths"),
    [
        ([900, 1], [800, 2]),
        (["", 900], ["", 800]),
        ([900, 900], [0, 800]),
        ([5, 900], [-1, 800]),
    ],
)
def test_the_first_window_with_a_width_is_used(write_dicom, centers, widths):
    expected = read_dicom(write_dicom(RAMP, WindowCenter=900, WindowWidth=800))
    path = write_dicom(RAMP, WindowCenter=centers, WindowWidth=widths)
    np.testing.assert_array_equal(read_dicom(path), expected)


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


@pytest.mark.parametrize("highest", [0, 255])
def test_an_impossible_high_bit_is_limited_to_the_possible(write_dicom, highest):
    pixels = RAMP << 4
    expected = read_dicom(write_dicom(pixels, BitsStored=16))
    np.testing.assert_array_equal(
        read_dicom(write_dicom(pixels, name="odd.dcm", HighBit=highest, BitsStored=16)), expected
    )


def test_padding_may_be_a_negative_value(write_dicom):
    padded = RAMP.astype(np.int16) - 2000
    padded[:, :20] = -32768
    alone = read_dicom(write_dicom(padded[:, 20:]))
    path = write_dicom(padded, PixelPaddingValue=-32768)
    np.testing.assert_array_equal(read_dicom(path)[:, 20:], alone)


WINDOW = {"WindowCenter": ("DS", "1500"), "WindowWidth": ("DS", "2000"), "BitsStored": ("US", 12)}
LUT = np.arange(4096) ** 2 // 4096


def sequence(raw, *arguments, **options):
    return ("SQ", raw.lookup_table(*arguments, **options))


def flat(raw):
    """Return a lookup table with equal entries."""
    return sequence(raw, [4096, 0, 12], bytes(4096 * 2))


USELESS = {
    "Rescale Slope 0": lambda raw: {"RescaleSlope": ("DS", "0 "), "RescaleIntercept": ("DS", "5 ")},
    "Rescale Slope 1e-30": lambda raw: {
        "RescaleSlope": ("DS", "1e-30 "), "RescaleIntercept": ("DS", "1e5 ")
    },
    "Rescale Slope 1e+300": lambda raw: {
        "RescaleSlope": ("DS", "1e300 "), "RescaleIntercept": ("DS", "0 ")
    },
    "Modality LUT": lambda raw: {"ModalityLUTSequence": flat(raw)},
    "VOI LUT": lambda raw: {"VOILUTSequence": flat(raw)},
    "Window Center 1e+09": lambda raw: {
        "WindowCenter": ("DS", "1e9\\1500"), "WindowWidth": ("DS", "1\\2000"),
    },
    "Window Center -7": lambda raw: {
        "WindowCenter": ("DS", "-7\\1500 "), "WindowWidth": ("DS", "2\\2000"),
    },
}  # fmt: skip


# Grays that a display, or a float32, cannot tell apart.
ALMOST_ONE_GRAY = {
    "Window Width 1e\\+09": lambda raw: {
        "WindowCenter": ("DS", "0\\1500"), "WindowWidth": ("DS", "1e9\\2000"),
    },
    "Window Width 2000": lambda raw: {
        "RescaleSlope": ("DS", "1e-6"), "RescaleIntercept": ("DS", "0 "),
        "WindowWidth": ("DS", "2000\\2e-3 "), "WindowCenter": ("DS", "1500\\1500e-6"),
        "VOILUTFunction": ("CS", "LINEAR EXACT"),
    },
    "VOI LUT": lambda raw: {
        "VOILUTSequence": sequence(raw, [4096, 0, 16], (LUT // 32).astype("<u2").tobytes())
    },
}  # fmt: skip


@pytest.mark.parametrize("step", ALMOST_ONE_GRAY)
def test_a_step_that_leaves_almost_one_gray_is_ignored_with_a_warning(raw, step):
    expected = read_dicom(raw.image(RAMP, name="plain.dcm", **WINDOW))
    path = raw.image(RAMP, **{**WINDOW, **ALMOST_ONE_GRAY[step](raw)})
    with pytest.warns(ImageReadWarning, match=f"{step}.* ignored"):
        np.testing.assert_allclose(read_dicom(path), expected, atol=2e-3)
    # Pixels that hardly differ before it are shown as the header says.
    flat = (RAMP % 3 + 1500).astype(np.uint16)
    assert read_dicom(raw.image(flat, **WINDOW)).max() < 0.51


@pytest.mark.parametrize("photometric", ["MONOCHROME1 ", "MONOCHROME2 "])
@pytest.mark.parametrize("step", USELESS)
def test_a_step_that_leaves_one_gray_is_ignored_with_a_warning(raw, step, photometric):
    tags = {**WINDOW, "PhotometricInterpretation": ("CS", photometric)}
    expected = read_dicom(raw.image(RAMP, name="plain.dcm", **tags))
    path = raw.image(RAMP, **{**tags, **USELESS[step](raw)})
    with pytest.warns(ImageReadWarning, match=f"{re.escape(step)}.* ignored"):
        np.testing.assert_array_equal(read_dicom(path), expected)


def test_without_a_useful_window_percentiles_are_used(raw):
    expected = read_dicom(raw.image(RAMP, name="plain.dcm"))
    path = raw.image(RAMP, WindowCenter=("DS", "1e9 "), WindowWidth=("DS", "1 "))
    with pytest.warns(ImageReadWarning, match="leaves one gray"):
        np.testing.assert_array_equal(read_dicom(path), expected)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_one_gray_of_pixels_that_do_not_differ_is_nothing_to_tell(raw, function):
    constant = np.full((8, 8), 7, dtype=np.uint16)
    tags = {
        **WINDOW,
        "VOILUTFunction": ("CS", function),
        "RescaleSlope": ("DS", "0 "),
        "RescaleIntercept": ("DS", "1500"),
    }
    shown = read_dicom(raw.image(constant, **tags))
    np.testing.assert_allclose(shown, window(1500, function, 1500, 2000), atol=1e-6)
    # Padding may differ.
    constant[:, :3] = 4000
    padded = {**tags, "PixelPaddingValue": ("US", 4000)}
    assert read_dicom(raw.image(constant, **padded)).std() == 0


def test_nearly_one_gray_is_shown_as_the_header_says_but_told_of(raw):
    pixels = np.random.default_rng(0).integers(100, 1000, (100, 100)).astype(np.uint16)
    pixels[0, 0] = 60000
    tags = {"WindowCenter": ("DS", "50000 "), "WindowWidth": ("DS", "1000")}
    with pytest.warns(ImageReadWarning, match="nearly all of it is one gray: check its window"):
        assert read_dicom(raw.image(pixels, **tags)).sum() == 1


@given(data=st.data())
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_the_numbers_an_image_differs_from_one_gray_or_is_refused(raw, data):
    numbers = st.sampled_from(
        ["0", "1", "-1", "-0.0", "5e-324", "1e-40", "0.5", "4096", "1e39", "-1e300", "1.7e308", ""]
    )
    tags = {
        keyword: ("DS", data.draw(numbers))
        for keyword in ("RescaleSlope", "RescaleIntercept", "WindowCenter", "WindowWidth")
    }
    tags["VOILUTFunction"] = ("CS", data.draw(st.sampled_from(["", "LINEAR_EXACT", "SIGMOID"])))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ImageReadWarning)
        image = read_dicom(raw.image(RAMP, **tags))
    assert 0 <= image.min() < image.max() <= 1


@pytest.mark.parametrize("kind", ["Modality", "VOI"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("packed", [True, False])
def test_entries_of_eight_bits_may_share_a_word(raw, kind, order, packed):
    raw.order, syntax = order, {"<": "1.2.840.10008.1.2.1", ">": "1.2.840.10008.1.2.2"}[order]
    entries = (LUT // 16).astype(np.uint8)
    words = entries.view("<u2") if packed else entries.astype("<u2")
    table = sequence(raw, [4096, 0, 8], words.astype(f"{order}u2").tobytes())
    full = {"WindowCenter": ("DS", "128 "), "WindowWidth": ("DS", "256 ")}
    path = raw.image(RAMP, syntax=syntax, **full, **{f"{kind}LUTSequence": table})
    np.testing.assert_allclose(read_dicom(path).ravel(), entries / 255, atol=1e-6)


@pytest.mark.parametrize(
    ("bits", "scale", "real"), [(12, 16, 16), (3, 1, 12), (0, 1, 12), (99, 1, 12)]
)
def test_the_depth_of_a_lookup_table_is_that_of_its_entries_where_it_contradicts_them(
    raw, bits, scale, real
):
    table = sequence(raw, [4096, 0, bits], (LUT * scale).astype("<u2").tobytes())
    message = f"VOI LUT claims entries of {bits} bits, but they have {real}"
    with pytest.warns(ImageReadWarning, match=message):
        shown = read_dicom(raw.image(RAMP, VOILUTSequence=table))
    expected = LUT * scale / (2**real - 1)
    np.testing.assert_allclose(shown.ravel(), expected, atol=1e-6)


def test_a_lookup_table_may_have_more_entries_than_it_claims_with_a_warning(raw):
    table = sequence(raw, [3000, 0, 12], LUT.astype("<u2").tobytes())
    with pytest.warns(ImageReadWarning, match="VOI LUT has 4096 entries, not 3000"):
        shown = read_dicom(raw.image(RAMP, VOILUTSequence=table))
    np.testing.assert_allclose(shown, LUT[RAMP] / 4095, atol=1e-6)


def test_a_lookup_table_that_lacks_entries_ends_early_with_a_warning(raw):
    table = sequence(raw, [4096, 0, 12], LUT[:3000].astype("<u2").tobytes())
    with pytest.warns(ImageReadWarning, match="VOI LUT has 3000 entries, not 4096"):
        shown = read_dicom(raw.image(RAMP, VOILUTSequence=table))
    expected = LUT[np.minimum(RAMP, 2999)] / 4095
    np.testing.assert_allclose(shown, expected, atol=1e-6)


@pytest.mark.parametrize("vr", ["SS", "US"])
def test_a_lookup_table_may_start_at_a_negative_value(raw, vr):
    first = -1000 if vr == "SS" else 2**16 - 1000
    descriptor = [4096, first, 12]
    table = sequence(raw, descriptor, LUT.astype("<u2").tobytes(), vr=vr)
    rescale = {"RescaleSlope": ("DS", "1 "), "RescaleIntercept": ("DS", "-1000 ")}
    path = raw.image(RAMP, **rescale, VOILUTSequence=table)
    np.testing.assert_allclose(read_dicom(path).ravel(), LUT / 4095, atol=1e-6)


def test_a_lookup_table_may_have_all_entries_of_sixteen_bits(raw):
    entries = np.arange(65536)[::-1]
    table = sequence(raw, [0, 0, 16], entries.astype("<u2").tobytes())
    pixels = (RAMP * 16).astype(np.uint16)
    shown = read_dicom(raw.image(pixels, VOILUTSequence=table))
    np.testing.assert_allclose(shown, (65535 - pixels) / 65535, atol=1e-6)


@pytest.mark.parametrize("missing", ["descriptor", "entries", "both", "item"])
def test_without_a_whole_voi_lut_the_window_is_used(raw, missing):
    expected = read_dicom(raw.image(RAMP, name="plain.dcm", **WINDOW))
    parts = {
        "descriptor": raw.item(raw.element("LUTData", "OW", bytes(8192))),
        "entries": raw.item(raw.element("LUTDescriptor", "US", [4096, 0, 12])),
        "both": raw.item(b""),
        "item": b"",
    }
    path = raw.image(RAMP, **WINDOW, VOILUTSequence=("SQ", parts[missing]))
    np.testing.assert_array_equal(read_dicom(path), expected)


def test_several_voi_luts_are_alternatives(raw):
    useless = raw.item(b"") + raw.lookup_table([4096, 0, 12], bytes(8192))
    useful = raw.lookup_table([4096, 0, 12], LUT.astype("<u2").tobytes())
    path = raw.image(RAMP, VOILUTSequence=("SQ", useless + useful))
    with pytest.warns(ImageReadWarning, match="VOI LUT leaves one gray"):
        np.testing.assert_allclose(read_dicom(path).ravel(), LUT / 4095, atol=1e-6)


def test_a_constant_image_is_black(write_dicom):
    assert not read_dicom(write_dicom(np.full((4, 4), 7, dtype=np.uint8))).any()
