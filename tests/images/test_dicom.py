import io
import math
import warnings

import gdcm
import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.pixels import get_decoder
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
)

from otcxr_sk.images import ImageReadError, read_dicom, read_image

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


def window(x, function, c, w):
    """Output in [0, 1] as written in PS3.3 C.11.2.1.2.1, C.11.2.1.3.1 and C.11.2.1.3.2."""
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
@settings(
    deadline=None, max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_both_ways_to_store_a_picture_read_the_same(write_dicom, seed, bits):
    dtype = np.uint8 if bits == 8 else np.uint16
    pixels = np.random.default_rng(seed).integers(0, 2**bits, (9, 13)).astype(dtype)
    mono2 = write_dicom(pixels, name="2.dcm", BitsStored=bits)
    complement = (2**bits - 1 - pixels).astype(dtype)
    mono1 = write_dicom(
        complement, name="1.dcm", BitsStored=bits, PhotometricInterpretation="MONOCHROME1"
    )
    np.testing.assert_allclose(read_dicom(mono1), read_dicom(mono2), atol=1e-6)


def test_the_first_of_several_windows_counts(write_dicom):
    one = read_dicom(write_dicom(RAMP, WindowCenter=900, WindowWidth=800))
    two = read_dicom(write_dicom(RAMP, WindowCenter=[900, 1], WindowWidth=[800, 2]))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("width", [0, -5])
def test_an_impossible_window_is_as_good_as_none(write_dicom, width):
    none = read_dicom(write_dicom(RAMP))
    broken = read_dicom(write_dicom(RAMP, WindowCenter=900, WindowWidth=width))
    np.testing.assert_array_equal(none, broken)


@pytest.mark.parametrize("bits", [8, 10, 12, 16])
def test_voi_lut_maps_rescaled_values(write_dicom, bits):
    entries = np.linspace(0, 2**bits - 1, 1000).astype(int)
    path = write_dicom(
        RAMP, RescaleSlope=1, RescaleIntercept=-100, VOILUTSequence=table(entries, 500, bits)
    )
    expected = entries[np.clip(RAMP.astype(int) - 100 - 500, 0, 999)] / (2**bits - 1)
    np.testing.assert_allclose(read_dicom(path), expected, atol=1e-6)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_modality_lut_comes_before_the_window(write_dicom, bits):
    entries = (np.arange(4096) % 2**bits)[::-1]
    path = write_dicom(
        RAMP, ModalityLUTSequence=table(entries, 0, bits), WindowCenter=128, WindowWidth=256
    )
    expected = [window(entries[x], "LINEAR", 128, 256) for x in RAMP.flat]
    np.testing.assert_allclose(read_dicom(path).ravel(), expected, atol=1e-6)


def test_without_a_window_percentiles_span_the_range(write_dicom):
    pixels = np.random.default_rng(0).normal(0, 1000, (100, 100)).round().astype(np.int16)
    low, high = np.percentile(pixels, [0.5, 99.5])
    expected = np.clip((pixels - low) / (high - low), 0, 1)
    np.testing.assert_allclose(read_dicom(write_dicom(pixels)), expected, atol=5e-3)


def test_padding_does_not_stretch_the_range(write_dicom):
    padded = np.full((64, 96), 60000, dtype=np.uint16)
    padded[:, :64] = RAMP
    padded[:4] = 60010
    exact = {"PixelPaddingValue": 60000, "PixelPaddingRangeLimit": 60010}
    alone = read_dicom(write_dicom(RAMP[4:]))
    np.testing.assert_array_equal(read_dicom(write_dicom(padded, **exact))[4:, :64], alone)
    assert read_dicom(write_dicom(padded))[4:, :64].max() < 0.1


def test_bits_beyond_those_stored_are_ignored(write_dicom):
    clean = read_dicom(write_dicom(RAMP, **WINDOWED))
    overlaid = write_dicom(RAMP | np.uint16(0xA000), **WINDOWED)
    np.testing.assert_array_equal(read_dicom(overlaid), clean)


@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_every_plain_encoding_gives_the_same_picture(write_dicom, syntax, preamble):
    expected = read_dicom(write_dicom(RAMP, name="a.dcm"))
    path = write_dicom(RAMP, name="b.png", syntax=syntax, preamble=preamble)
    np.testing.assert_array_equal(read_image(path), expected)


def test_a_constant_image_is_black(write_dicom):
    assert not read_dicom(write_dicom(np.full((4, 4), 7, dtype=np.uint8))).any()


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "CT"}, "modality is 'CT'"),
        ({"PixelData": None}, "no pixel data"),
        ({"NumberOfFrames": 2}, "2 frames"),
        ({"PhotometricInterpretation": "RGB", "SamplesPerPixel": 3}, "'RGB'"),
        ({"PhotometricInterpretation": None}, "photometric interpretation is None"),
        ({"Rows": 65535, "Columns": 65535}, "decompression bomb"),
        ({"Rows": 65}, "damaged or cut short"),
        ({"Columns": None}, "damaged or cut short"),
        ({"VOILUTFunction": "CUBIC", "WindowCenter": 1, "WindowWidth": 9}, "CUBIC"),
        ({"VOILUTSequence": table([0, 1], 0, 3)}, "entries of 3 bits"),
    ],
)
def test_what_is_no_radiograph_is_refused_by_name(write_dicom, tags, message):
    path = write_dicom(RAMP, name="odd one.dcm", **tags)
    with pytest.raises(ImageReadError, match=rf"^cannot read '.*odd one.dcm': .*{message}"):
        read_dicom(path)


def test_a_file_without_modality_is_read(write_dicom):
    assert read_dicom(write_dicom(RAMP, Modality=None)).shape == (64, 64)


@pytest.mark.parametrize("name", ["reportsi.dcm", "CT_small.dcm", "rtdose.dcm", "waveform_ecg.dcm"])
def test_other_dicom_objects_are_refused(name):
    with pytest.raises(ImageReadError, match=name):
        read_dicom(get_testdata_file(name))


def compress(path, syntax, stream):
    """Put a compressed stream in place of the pixels of a DICOM file."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.PixelData = pydicom.encaps.encapsulate([stream])
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path)


@pytest.mark.parametrize(
    ("syntax", "kind"), [(JPEGBaseline8Bit, "JPEG"), (JPEG2000Lossless, "JPEG2000")]
)
def test_gdcm_which_may_abort_the_process_is_not_asked_in_vain(
    write_dicom, monkeypatch, syntax, kind
):
    pixels = np.add.outer(np.arange(64), np.arange(64)).astype(np.uint8)
    path = write_dicom(pixels, WindowCenter=128, WindowWidth=256)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    asked = []
    monkeypatch.setitem(get_decoder(syntax)._available, "gdcm", lambda *_: asked.append(1))
    compress(path, syntax, stream.getvalue())
    np.testing.assert_allclose(read_dicom(path), pixels / 255, atol=4 / 255)
    compress(path, syntax, stream.getvalue()[:100])
    with pytest.raises(ImageReadError, match=syntax.name.split(" (")[0]):
        read_dicom(path)
    assert not asked


def test_a_missing_codec_names_syntax_and_extra(write_dicom, monkeypatch):
    path = write_dicom(RAMP)
    compress(path, JPEGLSLossless, b"\xff\xd8\xff\xf7")
    monkeypatch.setattr(get_decoder(JPEGLSLossless), "_available", {})
    with pytest.raises(ImageReadError) as caught:
        read_dicom(path)
    for part in (str(path), JPEGLSLossless.name, 'pip install "otcxr-sk[dicom]"'):
        assert part in str(caught.value)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_an_error(write_dicom, keep):
    path = write_dicom(RAMP)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(ImageReadError, match=r"image\.dcm"):
        read_dicom(path)


@given(data=st.data())
@settings(
    deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_damaged_bytes_end_in_a_picture_or_an_error_naming_the_file(write_dicom, data):
    path = write_dicom(RAMP[:8, :8], VOILUTSequence=table(range(64), 0, 8), BitsStored=12)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        picture = read_dicom(path)
    except ImageReadError as error:
        assert repr(str(path)) in str(error)  # noqa: PT017
    else:
        assert picture.dtype == np.float32
        assert 0 <= picture.min() <= picture.max() <= 1


def gdcm_pixels(path):
    """Stored values by an independent decoder."""
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    image = reader.GetImage()
    width, height = image.GetDimensions()[:2]
    raw = image.GetBuffer().encode("utf-8", "surrogateescape")
    dtype = {8: np.uint8, 16: np.uint16}[image.GetPixelFormat().GetBitsAllocated()]
    return np.frombuffer(raw, dtype).reshape(height, width)


def test_real_windowed_files_agree_with_gdcm(real_data):
    for path in sorted((real_data / "raw_samples").glob("dicom*/*.dcm")):
        tags = pydicom.dcmread(path, stop_before_pixels=True)
        if "WindowCenter" not in tags:
            continue
        c, w = float(tags.WindowCenter) - 0.5, float(tags.WindowWidth) - 1
        expected = np.clip((gdcm_pixels(path) - c) / w + 0.5, 0, 1)
        if tags.PhotometricInterpretation == "MONOCHROME1":
            expected = 1 - expected
        # JPEG 2000 decoders may round differently.
        np.testing.assert_allclose(read_dicom(path), expected, atol=1.01 / w, err_msg=path.name)


def test_real_chests_show_air_dark(real_data):
    files = sorted((real_data / "raw_samples").glob("dicom/*")) + sorted(
        (real_data / "raw_samples").glob("dicom_derived/*")
    )
    assert len(files) == 7
    for path in files:
        picture = read_image(path)
        h, w = picture.shape
        spine = np.median(picture[h // 4 : h // 2, int(0.45 * w) : int(0.55 * w)])
        lungs = picture[h // 4 : h // 2, [*range(w // 5, w // 3), *range(2 * w // 3, 4 * w // 5)]]
        wrong_tag = path.name == "siim_fake_MONOCHROME1.dcm"
        assert (np.median(lungs) < spine) != wrong_tag, path.name


def test_one_picture_stored_in_three_ways_reads_the_same(real_data):
    folder = real_data / "raw_samples" / "dicom_derived"
    names = ("mono1_15bit_explicitLE", "mono2_15bit_explicitLE", "mono2_12bit_RLE")
    mono1, mono2, coarse = (read_dicom(folder / f"RG1_half_{name}.dcm") for name in names)
    # A LINEAR window lies half a level off centre, on either side when inverted; and the stored
    # values themselves are complements but for one level.
    np.testing.assert_allclose(mono1, mono2, atol=2.01 / 29999)
    np.testing.assert_allclose(coarse, mono2, atol=2 / 3748)


def test_usual_files_are_read_in_silence(real_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in (real_data / "raw_samples" / "dicom").iterdir():
            read_image(path)
