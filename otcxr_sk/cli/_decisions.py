"""What is decided when a file is read as an image, in words."""

import warnings
from contextlib import suppress
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydicom.filereader import read_file_meta_info

from otcxr_sk._files import open_file
from otcxr_sk.images import ImageReadError, as_source, read_dicom_texts, read_image
from otcxr_sk.images.dicom import looks_like_dicom

_KEYWORDS = (
    "Modality", "PhotometricInterpretation", "PresentationLUTShape", "PresentationIntentType",
    "Rows", "Columns", "NumberOfFrames", "BitsAllocated", "BitsStored", "HighBit",
    "PixelRepresentation", "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
)  # fmt: skip
_ORIENTATION, _PHOTOMETRIC = 0x0112, 0x0106
_SIZE = 64
_PERCENTILES = "none: the 0.5th to 99.5th percentile become 0 to 1"


def decide(path: str) -> tuple[dict[str, Any], NDArray[np.float32] | None]:
    """Return how a file would be read, and the image; None if it would be refused.

    Parameters
    ----------
    path : str

    Returns
    -------
    decisions : dict
        ``file``, what its format decides, ``size``, ``range``, ``refused`` (why, or None) and
        ``warnings``, as JSON holds them.
    pixels : ndarray of shape (height, width), float32, or None
    """
    pixels, refused = None, None
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        try:
            pixels = read_image(path)
            # Beyond being read, an image must be finite, and not constant.
            as_source([pixels]).read([0], _SIZE, refuse_constant=True)
        except ValueError as error:
            refused = str(error).removeprefix(f"cannot read {path!r}: ").removeprefix("row 0: ")
    told = [str(one.message).removeprefix(f"{path!r}: ") for one in found]
    decisions = {
        "file": path,
        **_of_format(path, told),
        "size": None
        if pixels is None
        else f"{pixels.shape[0]} x {pixels.shape[1]} (rows x columns)",
        "range": None if pixels is None else _range(pixels),
        "refused": refused,
        "warnings": told,
    }
    return decisions, pixels if refused is None else None


def _range(pixels: NDArray[np.float32]) -> str:
    return f"{pixels.min():.4g} to {pixels.max():.4g}, mean {pixels.mean():.4g}"


def _of_format(path: str, told: list[str]) -> dict[str, Any]:
    head = b""
    with suppress(OSError), open_file(path) as file:
        head = file.read(132)
    if looks_like_dicom(head):
        try:
            texts = read_dicom_texts(path, _KEYWORDS)
        except ImageReadError:
            return {"format": "DICOM"}
        return _of_dicom(path, dict(zip(_KEYWORDS, texts, strict=True)), told)
    if head.startswith(b"\x93NUMPY"):
        return _of_npy(path)
    # What is not known, hostile or damaged has been refused with a reason.
    with suppress(Exception), warnings.catch_warnings(), open_file(path) as file:
        warnings.simplefilter("ignore")
        with suppress(UnidentifiedImageError):
            return _of_picture(Image.open(file))
    return {}


def _of_dicom(path: str, header: dict[str, str], told: list[str]) -> dict[str, Any]:
    photometric = header["PhotometricInterpretation"].upper()
    gray = photometric.replace(" ", "").startswith("MONOCHROME")
    return {
        "format": "DICOM",
        "transfer_syntax": _transfer_syntax(path),
        "modality": header["Modality"] or "not said",
        "intent": header["PresentationIntentType"] or None,
        "frames": header["NumberOfFrames"] or "1",
        "stored_size": f"{header['Rows']} x {header['Columns']}",
        "bits": _bits(header),
        "modality_LUT": _modality(header, told) if gray else None,
        "window": _window(header, told) if gray else None,
        "polarity": _polarity(photometric),
    }


def _transfer_syntax(path: str) -> str:
    # pydicom raises errors of many kinds. The file may lack this, and is read all the same.
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        syntax = read_file_meta_info(path).TransferSyntaxUID
        return f"{syntax.name} ({syntax})" if syntax.name != syntax else str(syntax)
    return "not said: found by the content"


def _bits(header: dict[str, str]) -> str:
    signed = {"1": ", signed"}.get(header["PixelRepresentation"], "")
    high = f", high bit {header['HighBit']}" if header["HighBit"] else ""
    allocated = header["BitsAllocated"]
    return f"{header['BitsStored'] or allocated} of {allocated} stored{high}{signed}"


def _modality(header: dict[str, str], told: list[str]) -> str:
    slope, intercept = _first(header["RescaleSlope"]), _first(header["RescaleIntercept"])
    if header["ModalityLUTSequence"] and not _ignored("its Modality LUT ", told):
        return "lookup table"
    if slope and intercept and not _ignored("its rescale ", told):
        return f"times {slope} plus {intercept}"
    return "none"


def _window(header: dict[str, str], told: list[str]) -> str:
    if header["VOILUTSequence"] and not _ignored("its VOI LUT ", told):
        return "VOI LUT"
    function = header["VOILUTFunction"].upper() or "LINEAR"
    least = 1.0 if function == "LINEAR" else 0.0
    pairs = zip(header["WindowCenter"].split("\\"), header["WindowWidth"].split("\\"), strict=False)
    for center, width in pairs:
        with suppress(ValueError):
            numbers = float(center), float(width)
            if not np.isfinite(numbers).all() or not numbers[1] or numbers[1] < least:
                continue
            name = "window (Window Center {:g}, Window Width {:g})".format(*numbers)
            if not _ignored(f"its {name} ", told):
                return f"center {numbers[0]:g}, width {numbers[1]:g}, {function}"
    return _PERCENTILES


def _first(text: str) -> str:
    return text.split("\\")[0].strip()


def _ignored(start: str, told: list[str]) -> bool:
    return any(one.startswith(start) and one.endswith("ignored") for one in told)


def _polarity(photometric: str) -> str:
    if photometric.replace(" ", "") == "MONOCHROME1":
        return "MONOCHROME1: inverted once"
    if photometric.replace(" ", "") == "MONOCHROME2":
        return "MONOCHROME2: as stored"
    return f"{photometric or 'not said'}: luma of the colors"


def _of_npy(path: str) -> dict[str, Any]:
    from numpy.lib import format as npy

    with suppress(OSError, ValueError, EOFError), open_file(path) as file:
        reads = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
        shape, _, dtype = reads[npy.read_magic(file)](file)
        return {
            "format": "NPY",
            "stored_size": " x ".join(map(str, shape)),
            "bits": f"{dtype.itemsize * 8} ({dtype})",
            "scaling": _scaling(dtype),
            "polarity": "as stored",
        }
    return {"format": "NPY"}


def _scaling(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "iu" and dtype.itemsize < 3:
        return f"divided by {np.iinfo(dtype).max}"
    return "none" if dtype.kind != "b" else "0 and 1"


def _of_picture(picture: Any) -> dict[str, Any]:
    deep = picture.mode.startswith("I;16")
    color = picture.mode not in ("1", "L", "F", "I") and not deep
    orientation = picture.getexif().get(_ORIENTATION, 1)
    white = picture.format == "TIFF" and picture.tag_v2.get(_PHOTOMETRIC) == 0
    return {
        "format": picture.format,
        "stored_size": f"{picture.height} x {picture.width}",
        "bits": f"16 ({picture.mode})"
        if deep
        else f"8 ({picture.mode})"
        if picture.mode != "F"
        else "32 (F)",
        "scaling": "none" if picture.mode == "F" else f"divided by {65535 if deep else 255}",
        "color": "luma of the colors" if color else None,
        "orientation": None if orientation == 1 else f"EXIF {orientation}: turned upright",
        "polarity": "inverted: the TIFF says that 0 is white" if white else "as stored",
    }
