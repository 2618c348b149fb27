RAMP = np.arange(4096, dtype=np.uint16).reshape(64, 64)


@pytest.mark.parametrize("preamble", [True, False])
@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian]
)
def test_every_plain_encoding_gives_the_same_picture(write_dicom, syntax, preamble):
    expected = read_dicom(write_dicom(RAMP, name="a.dcm"))
    path = write_dicom(RAMP, name="b.png", syntax=syntax, preamble=preamble)
    np.testing.assert_array_equal(read_image(path), expected)


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


