"""Headers as they come: empty, missing, misplaced and mistyped elements."""

import decimal
import warnings

import numpy as np
import pydicom
import pytest
from PIL import ImageFile
from pydicom.pixels import get_decoder
from pydicom.uid import RLELossless

from otcxr_sk.images import ImageReadError, ImageReadWarning, read_dicom, read_dicom_table

RAMP = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
WINDOW = {"WindowCenter": ("DS", "30000 "), "WindowWidth": ("DS", "20000 ")}

# What each of these is if nothing is said.
DEFAULTS = {
    "Modality": ("CS", "DX"),
    "SamplesPerPixel": ("US", 1),
    "NumberOfFrames": ("IS", "1 "),
    "BitsStored": ("US", 16),
    "HighBit": ("US", 15),
    "PixelRepresentation": ("US", 0),
    "PlanarConfiguration": ("US", 0),
    "RescaleSlope": ("DS", "1 "),
    "RescaleIntercept": ("DS", "0 "),
    "VOILUTFunction": ("CS", "LINEAR"),
    "PresentationLUTShape": ("CS", "IDENTITY"),
    "PixelPaddingValue": ("US", 12345),
}


@pytest.mark.parametrize("keyword", DEFAULTS)
def test_an_element_without_value_counts_as_absent(raw, keyword):
    expected = read_dicom(raw.image(RAMP, name="plain.dcm", **WINDOW, **DEFAULTS))
    vr = DEFAULTS[keyword][0]
    blank = [None, (vr, b"")] if vr == "US" else [None, (vr, b""), (vr, b"  "), (vr, b"\0\0")]
    for value in blank:
        path = raw.image(RAMP, **WINDOW, **{**DEFAULTS, keyword: value})
        np.testing.assert_array_equal(read_dicom(path), expected)


@pytest.mark.parametrize(
    ("keyword", "vr", "value"),
    [
        ("Rows", "SS", 64),
        ("Rows", "UL", 64),
        ("Rows", "IS", "64"),
        ("Rows", "UN", b"\x40\0"),
        ("Rows", "US", [64, 99]),
        ("Columns", "DS", " 64.0 "),
        ("BitsStored", "IS", "16\0"),
        ("HighBit", "UN", b"\x0f\0"),
        ("SamplesPerPixel", "US", 0),
        ("NumberOfFrames", "IS", "0 "),
        ("NumberOfFrames", "IS", " 1"),
        ("NumberOfFrames", "US", 1),
        ("PhotometricInterpretation", "CS", "monochrome2"),
        ("PhotometricInterpretation", "CS", " MONOCHROME 2"),
        ("PhotometricInterpretation", "CS", "MONOCHROME_2"),
        ("PhotometricInterpretation", "CS", "MONOCHROME2\0"),
        ("PhotometricInterpretation", "CS", "MONOCHROME2\\RGB"),
        ("PhotometricInterpretation", "LO", "MONOCHROME2 "),
        ("Modality", "CS", "dx"),
        ("WindowCenter", "FD", 30000.0),
        ("WindowCenter", "UN", b"30000 "),
        ("WindowCenter", "LO", " 3.0e4"),
        ("WindowWidth", "US", 20000),
        ("RescaleSlope", "DS", "1\\2 "),
        ("RescaleIntercept", "DS", "-0.0\0\0"),
        ("VOILUTFunction", "CS", "linear\0"),
        ("PixelData", "OB", RAMP.tobytes()),
        ("PixelData", "UN", RAMP.tobytes()),
        ("PixelData", "OW", RAMP.tobytes() + b"\1"),
        ("PixelData", "OW", RAMP.tobytes() + bytes(1000)),
    ],
)
def test_a_value_may_be_written_in_any_way(raw, keyword, vr, value):
    expected = read_dicom(raw.image(RAMP, name="plain.dcm", **WINDOW, **DEFAULTS))
    path = raw.image(RAMP, **{**WINDOW, **DEFAULTS, keyword: (vr, value)})
    np.testing.assert_array_equal(read_dicom(path), expected)


@pytest.mark.parametrize(
    ("keyword", "vr", "value", "message"),
    [
        ("Rows", "US", None, "its header has no Rows; correct it"),
        ("Columns", "US", b"", "its header has no Columns; correct it"),
        ("BitsAllocated", "US", None, "its header has no Bits Allocated; correct it"),
        ("PhotometricInterpretation", "CS", "", "no Photometric Interpretation; correct it"),
        ("PhotometricInterpretation", "CS", "GRAY", "is 'GRAY', not one of MONOCHROME1"),
        ("PixelRepresentation", "US", 2, "Pixel Representation is 2, not 0 or 1; correct"),
        ("BitsStored", "US", 0, "0 of 16 bits are stored; correct"),
        ("NumberOfFrames", "IS", "some", "Number of Frames is 'some', not a whole number; correct"),
        ("Rows", "DS", "63.5", "Rows is '63.5', not a whole number; correct"),
        ("RescaleSlope", "DS", "1,5", "Rescale Slope is '1,5', not a finite number; correct"),
        ("RescaleSlope", "DS", "nan", "Rescale Slope is 'nan', not a finite number; correct"),
        ("RescaleIntercept", "DS", "1e400", "Rescale Intercept is '1e400', not a finite number"),
        ("RescaleIntercept", "DS", "1_0", "Rescale Intercept is '1_0', not a finite number"),
        ("VOILUTFunction", "CS", "CUBIC", "VOI LUT Function is 'CUBIC', not one of LINEAR"),
        ("PixelData", "OW", RAMP.tobytes()[:-2], "it has 8190 bytes of pixels, but .* make 8192"),
    ],
)
def test_a_value_that_makes_no_sense_is_named(raw, keyword, vr, value, message):
    tags = {**WINDOW, **DEFAULTS, keyword: None if value is None else (vr, value)}
    with pytest.raises(ImageReadError, match=message):
        read_dicom(raw.image(RAMP, **tags))


@pytest.mark.parametrize(
    "window",
    [("abc", "20000"), ("30000", "2,5"), ("nan", "nan"), ("1e400", "1"), ("30000", "inf")],
)
def test_a_window_that_is_no_number_is_ignored_with_a_warning(raw, window):
    expected = read_dicom(raw.image(RAMP, name="plain.dcm"))
    center, width = (("DS", text) for text in window)
    path = raw.image(RAMP, WindowCenter=center, WindowWidth=width)
    with pytest.warns(ImageReadWarning, match=f"Window Center is '{window[0]}'.* ignored"):
        np.testing.assert_array_equal(read_dicom(path), expected)


@pytest.mark.parametrize("part", ["Slope", "Intercept"])
def test_half_a_rescale_is_ignored_with_a_warning(raw, part):
    expected = read_dicom(raw.image(RAMP, name="plain.dcm", **WINDOW))
    path = raw.image(RAMP, **WINDOW, **{f"Rescale{part}": ("DS", "2 ")})
    with pytest.warns(ImageReadWarning, match=f"Rescale {part} was ignored"):
        np.testing.assert_array_equal(read_dicom(path), expected)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("explicit", [True, False])
def test_elements_may_be_in_any_order(raw, seed, explicit):
    path = raw.image(RAMP, name="plain.dcm", **WINDOW)
    expected = read_dicom(path)
    elements = [
        (element.tag, element.VR, element.value)
        if isinstance(element.value, bytes | int)
        else (element.tag, element.VR, str(element.value))
        for element in pydicom.dcmread(path)
    ]
    order = [0, *1 + np.random.default_rng(seed).permutation(len(elements) - 1)]
    raw.explicit = explicit
    shuffled = raw.write([elements[n] for n in order], syntax="")
    np.testing.assert_array_equal(read_dicom(shuffled), expected)


def test_explicit_and_implicit_elements_may_be_mixed(raw):
    expected = read_dicom(raw.image(RAMP, name="plain.dcm", **WINDOW))
    whole = raw.image(RAMP, **WINDOW).read_bytes()
    start = whole.index(raw.element("WindowCenter", *WINDOW["WindowCenter"]))
    raw.explicit = False
    implicit = b"".join(raw.element(keyword, *value) for keyword, value in WINDOW.items())
    path = raw.folder / "mixed.dcm"
    path.write_bytes(whole[:start] + implicit + whole[start + len(implicit) :])
    np.testing.assert_array_equal(read_dicom(path), expected)


def test_private_and_unknown_elements_are_passed_over(raw):
    expected = read_dicom(raw.image(RAMP, name="plain.dcm", **WINDOW))
    whole = raw.image(RAMP, **WINDOW).read_bytes()
    start = whole.index(raw.element("SamplesPerPixel", "US", 1))
    inner = raw.element("Rows", "US", 7) + raw.element("WindowCenter", "DS", "1 ")
    odd = [
        raw.element(0x00090010, "LO", "VENDOR"),
        raw.element(0x00091001, "UN", bytes(3_000_001)),
        # Of a later edition of the standard: a long length.
        raw.element(0x00091002, "UN", b"abcd").replace(b"UN", b"ZZ"),
        # Of undefined length, of items with and without a length, nested.
        raw.element(0x00091003, "SQ", raw.item(inner) + raw.item(inner, defined=False), 2**32 - 1)
        + b"\xfe\xff\xdd\xe0\0\0\0\0",
        raw.element(0x00091004, "UN", raw.item(b"", defined=False), 2**32 - 1)
        + b"\xfe\xff\xdd\xe0\0\0\0\0",
    ]
    path = raw.folder / "private.dcm"
    path.write_bytes(whole[:start] + b"".join(odd) + whole[start:])
    np.testing.assert_array_equal(read_dicom(path), expected)


def test_a_header_without_end_is_refused(raw):
    path = raw.image(RAMP, **WINDOW)
    whole = path.read_bytes()
    start = whole.index(raw.element("SamplesPerPixel", "US", 1))
    path.write_bytes(whole[:start] + raw.element(0x00091001, "LO", b"") * 150_000 + whole[start:])
    with pytest.raises(ImageReadError, match="more than 131072 elements"):
        read_dicom(path)


@pytest.fixture
def other_program(monkeypatch):
    """Change what other programs in the same process may change of pydicom, Pillow and NumPy."""

    def change():
        config = pydicom.config
        monkeypatch.setattr(config.settings, "_reading_validation_mode", config.RAISE)
        monkeypatch.setattr(config.settings, "infer_sq_for_un_vr", False)
        for name in ("use_DS_decimal", "use_DS_numpy", "use_IS_numpy", "datetime_conversion"):
            monkeypatch.setattr(config, name, True)
        for name in ("allow_DS_float", "replace_un_with_known_vr", "assume_implicit_vr_switch"):
            monkeypatch.setattr(config, name, False)
        monkeypatch.setattr(config, "data_element_callback", lambda *_, **__: 1 / 0)
        monkeypatch.setattr(get_decoder(RLELossless), "_available", {})
        monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
        decimal.getcontext().prec = 2
        np.seterr(all="raise")

    before, precision = np.geterr(), decimal.getcontext().prec
    yield change
    np.seterr(**before)
    decimal.getcontext().prec = precision


def test_settings_of_other_programs_change_nothing(raw, write_dicom, other_program):
    odd = {
        **WINDOW,
        "WindowCenter": ("DS", "30000.000000000000000001"),
        "RescaleSlope": ("UN", b"1 "),
        "RescaleIntercept": ("DS", "1e-320"),
        "PatientBirthDate": ("DA", "long ago"),
        "PatientAge": ("AS", "63"),
        "StudyDate": ("DA", "2024.02.29"),
        "NumberOfFrames": ("IS", "1.0 "),
        "VOILUTSequence": ("SQ", raw.lookup_table([256, 0, 8], bytes(range(256)))),
    }
    packed = pydicom.dcmread(write_dicom(RAMP))
    packed.compress(RLELossless)
    packed.save_as(raw.folder / "rle.dcm")
    paths = [raw.image(RAMP, **odd), raw.image(RAMP, name="b.dcm", **WINDOW), packed.filename]
    expected = [read_dicom(path) for path in paths]
    table = str(read_dicom_table(paths))
    other_program()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path, image in zip(paths, expected, strict=True):
            np.testing.assert_array_equal(read_dicom(path), image)
        assert str(read_dicom_table(paths)) == table


def test_the_first_of_two_elements_counts(raw):
    expected = read_dicom(raw.image(RAMP, name="plain.dcm", **WINDOW))
    path = raw.image(RAMP, **WINDOW)
    path.write_bytes(path.read_bytes() + raw.element("WindowCenter", "DS", "5 ") + bytes(50))
    np.testing.assert_array_equal(read_dicom(path), expected)
