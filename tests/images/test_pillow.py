import numpy as np
import pytest
from PIL import Image

from otcxr_sk.images import ImageReadError
from otcxr_sk.images._pillow import to_gray

BYTES = np.arange(256, dtype=np.uint8).reshape(8, 32)
UNIT = BYTES / 255


@pytest.mark.parametrize(
    "mode", ["L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "CMYK", "YCbCr", "HSV"]
)
def test_a_gray_image_of_every_mode_is_the_same(mode):
    image = Image.fromarray(BYTES)
    for step in {"La": ["LA"], "RGBa": ["RGBA"], "HSV": ["RGB"], "YCbCr": ["RGB"]}.get(mode, []):
        image = image.convert(step)
    pixels, bits = to_gray(image.convert(mode))
    # Pillow rounds this one down.
    np.testing.assert_allclose(pixels, UNIT, atol=1.01 / 255 if mode == "YCbCr" else 1e-6)
    assert bits == 8


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B"])
def test_16_bits_of_either_byte_order_are_the_same(mode):
    words = BYTES.astype(">u2" if mode.endswith("B") else "<u2") * 257
    pixels, bits = to_gray(Image.frombytes(mode, (32, 8), words.tobytes()))
    np.testing.assert_allclose(pixels, UNIT, atol=1e-6)
    assert bits == 16


def test_modes_of_unknown_range_or_colors_are_refused_by_name():
    with pytest.raises(ImageReadError, match="signed or have 32 bits"):
        to_gray(Image.new("I", (4, 3)))
    with pytest.raises(ImageReadError, match=r"a PIL image of mode 'LAB', .* convert it to 'L'"):
        to_gray(Image.new("LAB", (4, 3)))
