import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.uid import DigitalXRayImageStorageForProcessing

from otcxr_sk.images import ImageReadError, ImageReadWarning, read_dicom, read_image

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)
WINDOWED = {"WindowCenter": 1500, "WindowWidth": 2000, "BitsStored": 12}


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({"Modality": "CT"}, "modality is 'CT'"),
        ({"PixelData": None}, "no pixel data"),
        ({"NumberOfFrames": 2}, "2 frames; .* by frame=0 to frame=1"),
        ({"PhotometricInterpretation": "RGB"}, "1 samples per pixel do not fit RGB"),
        ({"PhotometricInterpretation": "YBR_PARTIAL_420"}, "'YBR_PARTIAL_420'"),
        ({"BitsAllocated": 32, "BitsStored": 32}, "32 bits"),
        ({"BitsStored": 17}, "17 of 16 bits are stored"),
        ({"PixelData": b""}, "no pixel data"),
        ({"PhotometricInterpretation": None}, "has no Photometric Interpretation; correct it"),
        ({"Rows": 65535, "Columns": 65535}, "decompression bomb"),
        ({"Rows": 65}, "it has 8192 bytes of pixels, but .* make 8320; correct its header"),
        ({"Columns": None}, "its header has no Columns; correct it"),
        ({"VOILUTFunction": "CUBIC", "WindowCenter": 1, "WindowWidth": 9}, "CUBIC"),
    ],
)
def test_a_file_that_is_not_a_radiograph_is_an_error_that_names_it(write_dicom, tags, message):
    path = write_dicom(RAMP, name="odd one.dcm", **tags)
    with pytest.raises(ImageReadError, match=rf"^cannot read '.*odd one.dcm': .*{message}"):
        read_dicom(path)


def test_a_file_without_modality_is_read(write_dicom):
    expected = read_dicom(write_dicom(RAMP))
    np.testing.assert_array_equal(read_dicom(write_dicom(RAMP, Modality=None)), expected)


@pytest.mark.parametrize("name", ["reportsi.dcm", "CT_small.dcm", "rtdose.dcm", "waveform_ecg.dcm"])
def test_other_dicom_objects_are_refused(name):
    with pytest.raises(ImageReadError, match=name):
        read_dicom(get_testdata_file(name))


def test_modalities_to_read_can_be_chosen(write_dicom):
    path = write_dicom(RAMP, Modality="MG", **WINDOWED)
    with pytest.raises(ImageReadError, match=r"modality is 'MG', not .*modalities=\{'MG'\}"):
        read_dicom(path)
    expected = read_dicom(write_dicom(RAMP, name="dx.dcm", **WINDOWED))
    for read in (read_dicom, read_image):
        np.testing.assert_array_equal(read(path, modalities={"MG", "DX"}), expected)
    with pytest.raises(ImageReadError, match=r"'DX', not one of those to read \(CR\)"):
        read_dicom(write_dicom(RAMP, name="dx.dcm"), modalities={"CR"})
    # One may be given as text, which is not looked for within other text, and in lower case.
    for one in ("MG", "mg", ["mg "]):
        np.testing.assert_array_equal(read_dicom(path, modalities=one), expected)
    with pytest.raises(ImageReadError, match=r"'MG', not one of those to read \(XMGX\)"):
        read_dicom(path, modalities="XMGX")


@pytest.mark.parametrize("modalities", [5, b"DX", ["DX", 3], []])
def test_modalities_that_are_not_text_are_not_the_fault_of_the_file(modalities):
    for read in (read_dicom, read_image):
        with pytest.raises((TypeError, ValueError), match=r"^modalities must ") as caught:
            read("missing.dcm", modalities=modalities)
        assert not isinstance(caught.value, ImageReadError)


@pytest.mark.parametrize("frame", ["0", 0.0, True, [0]])
def test_a_frame_that_is_not_a_number_is_not_the_fault_of_the_file(write_dicom, frame):
    with pytest.raises(TypeError, match=r"^frame must be a whole number, counted from 0, got"):
        read_dicom(write_dicom(RAMP), frame=frame)


def test_a_frame_is_chosen_by_its_index(write_dicom):
    frames = np.stack([RAMP, RAMP[::-1]])
    path = write_dicom(RAMP, NumberOfFrames=2, PixelData=frames.tobytes(), **WINDOWED)
    for index, frame in enumerate(frames):
        single = write_dicom(frame, name="one.dcm", **WINDOWED)
        np.testing.assert_array_equal(read_dicom(path, frame=index), read_dicom(single))
        np.testing.assert_array_equal(read_dicom(single, frame=0), read_dicom(single))
    for index in (2, -1):
        with pytest.raises(ImageReadError, match=f"2 frames, counted from 0, but no frame {index}"):
            read_dicom(path, frame=index)


@pytest.mark.parametrize(
    ("photometric", "shape", "doubtful"),
    [
        ("MONOCHROME1", "INVERSE", False),
        ("MONOCHROME1", "IDENTITY", True),
        ("MONOCHROME2", "IDENTITY", False),
        ("MONOCHROME2", "INVERSE", True),
        ("MONOCHROME2", "OTHER", False),
    ],
)
def test_presentation_lut_shape_does_not_invert_again(write_dicom, photometric, shape, doubtful):
    tags = {"PhotometricInterpretation": photometric, **WINDOWED}
    expected = read_dicom(write_dicom(RAMP, name="plain.dcm", **tags))
    path = write_dicom(RAMP, name="shaped.dcm", PresentationLUTShape=shape, **tags)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        np.testing.assert_array_equal(read_dicom(path), expected)
    assert bool(caught) == doubtful
    if doubtful:
        assert caught[0].category is ImageReadWarning
        assert caught[0].filename == __file__
        assert "shaped.dcm" in str(caught[0].message)


@pytest.mark.parametrize(
    "tags",
    [
        {"PresentationIntentType": "FOR PROCESSING"},
        {"SOPClassUID": DigitalXRayImageStorageForProcessing},
    ],
)
def test_raw_values_of_a_detector_are_read_with_a_warning(write_dicom, tags):
    expected = read_dicom(write_dicom(RAMP, name="plain.dcm", **WINDOWED))
    path = write_dicom(RAMP, **tags, **WINDOWED)
    with pytest.warns(ImageReadWarning, match="it is FOR PROCESSING: raw values"):
        np.testing.assert_array_equal(read_dicom(path), expected)


def test_overlays_are_ignored(write_dicom):
    path = write_dicom(RAMP, **WINDOWED)
    dataset = pydicom.dcmread(path)
    dataset.add_new(0x60000010, "US", 64)
    dataset.add_new(0x60000011, "US", 64)
    dataset.add_new(0x60000100, "US", 1)
    dataset.add_new(0x60003000, "OW", b"\xff" * 512)
    dataset.save_as(path.with_name("overlaid.dcm"))
    np.testing.assert_array_equal(read_dicom(path.with_name("overlaid.dcm")), read_dicom(path))


def test_air_is_dark_in_real_radiographs(real_data):
    files = sorted((real_data / "raw_samples").glob("dicom/*")) + sorted(
        (real_data / "raw_samples").glob("dicom_derived/*")
    )
    assert len(files) == 7
    for path in files:
        image = read_image(path)
        h, w = image.shape
        spine = np.median(image[h // 4 : h // 2, int(0.45 * w) : int(0.55 * w)])
        lungs = image[h // 4 : h // 2, [*range(w // 5, w // 3), *range(2 * w // 3, 4 * w // 5)]]
        wrong_tag = path.name == "siim_fake_MONOCHROME1.dcm"
        assert (np.median(lungs) < spine) != wrong_tag, path.name


def test_one_image_stored_in_three_ways_reads_the_same(real_data):
    folder = real_data / "raw_samples" / "dicom_derived"
    names = ("mono1_15bit_explicitLE", "mono2_15bit_explicitLE", "mono2_12bit_RLE")
    mono1, mono2, coarse = (read_dicom(folder / f"RG1_half_{name}.dcm") for name in names)
    # A LINEAR window is half a level off center, to the other side if inverted; and the stored
    # values themselves are complements except for one level.
    np.testing.assert_allclose(mono1, mono2, atol=2.01 / 29999)
    np.testing.assert_allclose(coarse, mono2, atol=2 / 3748)


def test_real_files_are_read_without_warnings(real_data):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for path in (real_data / "raw_samples" / "dicom").iterdir():
            read_image(path)


def test_threads_read_the_same_and_each_is_told_of_its_own_files(write_dicom):
    paths = [
        write_dicom(RAMP + n, name=f"{n}.dcm", WindowCenter=[1e9, 1500], WindowWidth=[1, 2000])
        for n in range(16)
    ]
    filters = list(warnings.filters)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        expected = [read_dicom(path) for path in paths]
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(read_dicom, paths * 4))
    for image, again in zip(expected * 4, found, strict=True):
        np.testing.assert_array_equal(image, again)
    told = [str(warning.message).split("'")[1] for warning in caught]
    assert sorted(told) == sorted(map(str, paths * 5))
    assert warnings.filters == filters


def test_another_kind_of_file_is_not_called_a_damaged_dicom_file(tmp_path):
    Image.new("L", (64, 64)).save(tmp_path / "x.png")
    with pytest.raises(ImageReadError, match="this is not a DICOM image; leave it out"):
        read_dicom(tmp_path / "x.png")
