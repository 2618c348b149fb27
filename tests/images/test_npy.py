"""NPY files: every layout of numbers, and headers of other programs."""

import numpy as np
import pytest

from otcxr_sk.images import ImageReadError, read_image

BYTES = np.arange(256, dtype=np.uint8).reshape(8, 32)
UNIT = BYTES / np.float32(255)
LUMA = np.array([0.299, 0.587, 0.114])


@pytest.mark.parametrize(
    ("dtype", "white"),
    [
        (">u2", 65535), ("<u2", 65535), (">i2", 32767), ("|u1", 255), ("|b1", 1),
        (">f4", 1), ("<f8", 1), (">i4", 1),
    ],
)  # fmt: skip
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
def test_npy_of_every_byte_order_axis_order_and_version(tmp_path, dtype, white, order, version):
    values = BYTES % 2 if dtype == "|b1" else BYTES
    with open(tmp_path / "a.npy", "wb") as file:
        np.lib.format.write_array(file, np.asarray(values, dtype=dtype, order=order), version)
    np.testing.assert_allclose(read_image(tmp_path / "a.npy"), values / white, rtol=1e-7)


def test_one_channel_or_three_may_come_first_or_last(tmp_path):
    path = tmp_path / "a.npy"
    color = np.stack([BYTES, BYTES[::-1], 255 - BYTES])
    for array, expected in [
        (BYTES[np.newaxis], UNIT),
        (BYTES[..., np.newaxis], UNIT),
        (color, np.moveaxis(color, 0, -1) @ LUMA / 255),
        (np.moveaxis(color, 0, -1), np.moveaxis(color, 0, -1) @ LUMA / 255),
        (np.asfortranarray(color / 255), np.moveaxis(color, 0, -1) @ LUMA / 255),
    ]:
        np.save(path, array)
        np.testing.assert_allclose(read_image(path), expected, atol=1e-6)


def npy(header, content=b""):
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + content


def test_headers_of_other_programs_are_understood(read):
    for header in [
        "{'shape': (8L, 32L), 'fortran_order': False, 'descr': '|u1'}",
        '{"descr":"<u1","fortran_order":false,"shape":[8,32]}'.replace("false", "False"),
        "{'descr': 'u1', 'fortran_order': False, 'shape': (8, 32, ), }",
    ]:
        found = read(npy(header, BYTES.tobytes() + b"anything"))
        np.testing.assert_allclose(found, UNIT, atol=1e-6)


def test_infinite_colors_are_read_without_a_warning(tmp_path):
    path = tmp_path / "a.npy"
    np.save(path, np.full((2, 2, 3), np.inf))
    assert not np.isfinite(read_image(path)).any()


REFUSED = {
    "one image must have shape .*, got ()": np.float32(1),
    "got (5,)": np.zeros(5),
    "got (7, 8, 9)": np.zeros((7, 8, 9)),
    "got (1, 1, 8, 9)": np.zeros((1, 1, 8, 9)),
    "got (3, 8, 3)": np.zeros((3, 8, 3)),
    "an NPY file of complex numbers": np.zeros((3, 3), dtype=complex),
    "an NPY file of text": np.array([["a"]]),
    "an NPY file of dates": np.zeros((2, 2), dtype="M8[s]"),
    "an NPY file of Python objects": np.array([[None, {}]]),
    "an NPY file of raw bytes or a table": np.zeros((2, 2), dtype=[("a", "f4")]),
    "an NPY file of raw bytes or a table;": np.zeros((2, 2), dtype="V2"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_is_not_an_image_of_numbers_is_told(tmp_path, message):
    np.save(tmp_path / "a.npy", REFUSED[message], allow_pickle=True)
    words = message.replace("(", r"\(").replace(")", r"\)")
    with pytest.raises(ImageReadError, match=words):
        read_image(tmp_path / "a.npy")


def test_several_arrays_in_one_file_are_refused(tmp_path):
    with open(tmp_path / "a.npy", "wb") as file:
        for _ in range(2):
            np.save(file, np.zeros((3, 4)))
    with pytest.raises(ImageReadError, match="it contains several arrays; save each"):
        read_image(tmp_path / "a.npy")


def test_a_header_that_is_code_or_nonsense_is_damage(read):
    for header in ["__import__('os')._exit(1)", "{'shape': (1e9, 3)}", "\\d" * 9, "(" * 99]:
        with pytest.raises(ImageReadError, match="it is damaged: its header"):
            read(npy(header))
