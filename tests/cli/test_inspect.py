import numpy as np
import pytest
from PIL import Image

from otcxr_sk.images import read_dicom


@pytest.fixture
def decided(as_json):
    """Inspect one file; return exit status and decisions."""

    def call(path, *more):
        status, [decisions] = as_json("inspect", path, *more)
        return status, decisions

    return call


def test_a_window_and_a_rescale_are_those_that_make_the_image(decided, dicom):
    stored = np.arange(64 * 48).reshape(64, 48)
    path = dicom(
        RescaleSlope="2",
        RescaleIntercept="-100",
        WindowCenter="1500",
        WindowWidth="2001",
        PhotometricInterpretation="MONOCHROME1",
    )
    status, found = decided(path)
    assert (status, found["refused"]) == (0, None)
    assert found["modality_LUT"] == "rescale (Rescale Slope 2, Rescale Intercept -100)"
    assert found["VOI_LUT"] == "window (Window Center 1500, Window Width 2001, LINEAR)"
    assert found["polarity"] == "MONOCHROME1: inverted once"
    shown = np.clip((stored * 2 - 100 - 1499.5) / 2000 + 0.5, 0, 1)
    np.testing.assert_allclose(read_dicom(path), 1 - shown, atol=1e-6)


def test_a_file_is_told_by_its_header(decided, dicom):
    _, found = decided(dicom())
    assert found["transfer_syntax"].startswith("Explicit VR Little Endian")
    assert found["bits"] == "12 of 16 stored, high bit 11"
    assert found["size"] == "64 x 48 (rows x columns)"
    assert found["VOI_LUT"].startswith("none: the 0.5th to 99.5th percentile")
    assert found["polarity"] == "MONOCHROME2: as stored"
    assert "PLANTED" not in str({**found, "file": None})


def test_a_window_that_is_ignored_is_not_the_one_that_is_used(decided, dicom):
    path = dicom(WindowCenter=["90000", "1500"], WindowWidth=["10", "2001"])
    _, found = decided(path)
    assert found["VOI_LUT"] == "window (Window Center 1500, Window Width 2001, LINEAR)"
    assert len(found["warnings"]) == 1


def test_where_the_header_is_wrong_what_reading_did_is_told(decided, dicom):
    _, found = decided(dicom(HighBit=15))
    assert found["bits"] == "12 of 16 stored, high bit 11"
    assert "its High Bit is 15, but its samples are in the lowest 12 bits" in found["warnings"][0]


def test_a_file_is_described_up_to_what_it_is_refused_for(decided, dicom):
    _, found = decided(dicom(Modality="CT"))
    assert (found["format"], found["modality"]) == ("DICOM", "CT")
    assert not {"bits", "VOI_LUT", "size"} & set(found)


def test_a_file_that_would_be_refused_says_why_and_is_a_problem(decided, dicom, tmp_path):
    status, found = decided(dicom(Modality="CT"))
    assert (status, found["refused"][:21]) == (1, "its modality is 'CT',")
    Image.new("L", (40, 30)).save(tmp_path / "flat.png")
    status, found = decided(tmp_path / "flat.png")
    assert (status, found["refused"][:21]) == (1, "the image is constant")
    (tmp_path / "labels.csv").write_text("path\n")
    status, found = decided(tmp_path / "labels.csv")
    assert (status, found["refused"][:11]) == (1, "this is not")


@pytest.mark.parametrize(
    ("name", "pixels", "bits", "scaling"),
    [
        ("x.png", np.uint8, 8, "divided by 255"),
        ("x.tif", np.uint16, 16, "divided by 65535"),
        ("x.npy", np.float32, "32 (float32)", "none"),
        ("x.npy", np.uint16, "16 (uint16)", "divided by 65535"),
    ],
)
def test_how_pixels_become_grays_is_told_for_every_format(
    name, pixels, bits, scaling, decided, tmp_path
):
    values = np.arange(40 * 30).reshape(40, 30).astype(pixels)
    if name.endswith("npy"):
        np.save(tmp_path / name, values)
    else:
        Image.fromarray(values).save(tmp_path / name)
    _, found = decided(tmp_path / name)
    assert (found["bits"], found["scaling"]) == (bits, scaling)


def test_a_picture_shows_all_files_and_a_terminal_shows_each(run, dicom, tmp_path, monkeypatch):
    ramp = np.tile(np.linspace(0, 4095, 48), (64, 1)).astype(int)
    path, sheet = dicom(stored=ramp), tmp_path / "sheet.png"
    status, out, _ = run("inspect", path, path, "--png", sheet, "--thumbnail")
    assert status == 0
    row = out.decode().splitlines()[-1]
    # From black on the left to white on the right.
    assert (row[0], row[-1]) == (" ", "@")
    assert list(row) == sorted(row, key=" .:-=+*#%@".index)
    with Image.open(sheet) as picture:
        gray = np.asarray(picture)
    assert gray.shape == (528, 2 * 520 + 8)
    np.testing.assert_array_equal(gray[:, 8:520], gray[:, 528:1040])


@pytest.mark.filterwarnings("ignore:Invalid value for VR")
def test_nothing_that_a_file_says_reaches_the_terminal_as_a_command(run, dicom):
    _, out, _ = run("inspect", dicom(Modality="DX\x1b[2J"))
    assert b"\x1b" not in out
