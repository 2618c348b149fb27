import tracemalloc
import zlib

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from otcxr_sk.images import ImageReadError, read_dicom, read_image

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_every_uncompressed_encoding_reads_the_same(write_dicom, syntax, preamble):
    expected = read_dicom(write_dicom(RAMP, name="a.dcm"))
    path = write_dicom(RAMP, name="b.png", syntax=syntax, preamble=preamble)
    np.testing.assert_array_equal(read_image(path), expected)


def dataset_start(raw):
    return 144 + int.from_bytes(raw[140:144], "little")


def deflate(path, tail=b""):
    """Write a deflated copy of an uncompressed file, with `tail` after its elements."""
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    copy = path.with_name("deflated.dcm")
    dataset.save_as(copy)
    raw = copy.read_bytes()
    start = dataset_start(raw)
    inflated = zlib.decompress(raw[start:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    copy.write_bytes(raw[:start] + packer.compress(inflated + tail) + packer.flush())
    return copy


def test_a_deflated_bomb_is_refused(write_dicom, monkeypatch):
    path = write_dicom(RAMP)
    expected = read_dicom(path)
    # Data Set Trailing Padding, which a genuine file may have.
    padding = b"\xfc\xff\xfc\xffOB\0\0" + (2**25).to_bytes(4, "little") + bytes(2**25)
    np.testing.assert_array_equal(read_dicom(deflate(path, padding)), expected)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 64 * 64)
    bomb = deflate(path, padding)
    assert bomb.stat().st_size < 2**16
    with pytest.raises(ImageReadError, match=r"'.*deflated\.dcm': it inflates to more than"):
        read_dicom(bomb)


@pytest.mark.parametrize("form", [-zlib.MAX_WBITS, zlib.MAX_WBITS, zlib.MAX_WBITS + 16])
@pytest.mark.parametrize("called", [DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian])
def test_deflated_data_are_recognized_under_any_label_and_header(raw, form, called):
    path = raw.image(RAMP)
    expected = read_dicom(path)
    elements = path.read_bytes()[len(raw.meta(ExplicitVRLittleEndian)) :]
    packer = zlib.compressobj(9, zlib.DEFLATED, form)
    path.write_bytes(raw.meta(called) + packer.compress(elements) + packer.flush())
    np.testing.assert_array_equal(read_dicom(path), expected)


@pytest.mark.parametrize("missing", [1, 100, 1000])
def test_deflated_data_that_are_cut_short_are_an_error(write_dicom, missing):
    path = deflate(write_dicom(RAMP))
    path.write_bytes(path.read_bytes()[:-missing])
    with pytest.raises(ImageReadError, match=r"deflated\.dcm"):
        read_dicom(path)


@pytest.mark.parametrize("length", [2**31, 2**32 - 2])
def test_an_element_cannot_claim_more_memory_than_the_file_has_bytes(write_dicom, length):
    path = write_dicom(RAMP, WindowCenter=900, WindowWidth=800)
    expected = read_dicom(path)
    raw = path.read_bytes()
    pixels = raw.index(b"\xe0\x7f\x10\x00OW")
    path.write_bytes(raw[: pixels + 8] + length.to_bytes(4, "little") + raw[pixels + 12 :])
    tracemalloc.start()
    try:
        # All pixels are there, so the image is whole whatever the length.
        found = read_dicom(path)
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, expected)


def test_the_pixels_of_a_refused_file_are_not_read(write_dicom):
    pixels = np.zeros((4096, 4096), dtype=np.uint16)
    path = write_dicom(pixels, Modality="MR")
    tracemalloc.start()
    try:
        with pytest.raises(ImageReadError, match="modality is 'MR'"):
            read_dicom(path)
        assert tracemalloc.get_traced_memory()[1] < 2**22
    finally:
        tracemalloc.stop()


def test_deeply_nested_sequences_are_read_or_refused(write_dicom):
    path = write_dicom(RAMP, WindowCenter=900, WindowWidth=800)
    expected = read_dicom(path)
    raw = path.read_bytes()
    pixels = raw.index(b"\xe0\x7f\x10\x00OW")
    opened = b"\x40\x00\x75\x02SQ\0\0\xff\xff\xff\xff" + b"\xfe\xff\x00\xe0\xff\xff\xff\xff"
    closed = b"\xfe\xff\x0d\xe0\0\0\0\0" + b"\xfe\xff\xdd\xe0\0\0\0\0"
    for depth in (10, 2000, 40_000):
        path.write_bytes(raw[:pixels] + opened * depth + closed * depth + raw[pixels:])
        if depth < 40_000:
            np.testing.assert_array_equal(read_dicom(path), expected)
        else:
            with pytest.raises(ImageReadError, match=r"image\.dcm.*more than 131072 elements"):
                read_dicom(path)


@pytest.mark.parametrize(
    ("stated", "real"),
    [
        (ExplicitVRLittleEndian, ImplicitVRLittleEndian),
        (ImplicitVRLittleEndian, ExplicitVRLittleEndian),
    ],
)
def test_a_wrong_encoding_in_the_file_meta_information_is_ignored(write_dicom, stated, real):
    expected = read_dicom(write_dicom(RAMP))
    meta = write_dicom(RAMP, name="stated.dcm", syntax=stated).read_bytes()
    body = write_dicom(RAMP, name="real.dcm", syntax=real).read_bytes()
    path = write_dicom(RAMP, name="both.dcm")
    path.write_bytes(meta[: dataset_start(meta)] + body[dataset_start(body) :])
    np.testing.assert_array_equal(read_dicom(path), expected)


@pytest.mark.parametrize("keep", [0.3, 0.9, 0.999])
def test_a_truncated_file_is_an_error(write_dicom, keep):
    path = write_dicom(RAMP)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * keep)])
    with pytest.raises(ImageReadError, match=r"image\.dcm"):
        read_dicom(path)


@pytest.mark.filterwarnings("ignore::otcxr_sk.images.ImageReadWarning")
@given(data=st.data())
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_file_is_read_in_range_or_is_an_error_that_names_it(write_dicom, data):
    table = Dataset()
    table.LUTDescriptor = [64, 0, 8]
    table.add_new("LUTData", "US", list(range(64)))
    path = write_dicom(RAMP[:8, :8], VOILUTSequence=[table], BitsStored=12)
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))])
    try:
        image = read_dicom(path)
    except ImageReadError as error:
        assert repr(str(path)) in str(error)  # noqa: PT017
    else:
        assert image.dtype == np.float32
        assert 0 <= image.min() <= image.max() <= 1
