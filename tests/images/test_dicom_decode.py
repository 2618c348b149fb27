import io

import gdcm

RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


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


