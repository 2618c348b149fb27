"""
What the library adds to the decoder
====================================

Time from a DICOM file to a 224 px image, over that of the bare decoder and one resize: medians and
range over repeats, taken in turns. The decoder is pydicom's or, for syntaxes that pydicom alone
cannot decode, the codec that the library uses. Processor time, in one thread.

    python examples/benchmarks/read_speed.py [--repeats 15] [--file RADIOGRAPH]
"""

import argparse
import ctypes
import io
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import imagecodecs
import numpy as np
import pydicom
import torch
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, get_frame
from timing import report, time_in_turns

from otcxr_sk.datasets import make_chest_phantoms
from otcxr_sk.images import PathSource, read_image

SIZE = 224
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
BITS = 12


def jpeg(pixels):
    stream = io.BytesIO()
    Image.fromarray((pixels >> (BITS - 8)).astype(np.uint8)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def lossless(pixels):
    return imagecodecs.jpeg8_encode(pixels, lossless=True, predictor=1, bitspersample=BITS)


def jpeg2000(pixels):
    return imagecodecs.jpeg2k_encode(pixels, level=0, codecformat="j2k", reversible=True)


# Transfer syntax: encoder of a frame, and decoder where pydicom alone has none.
CODECS = {
    uid.ExplicitVRLittleEndian: (None, None),
    uid.DeflatedExplicitVRLittleEndian: (None, None),
    uid.RLELossless: (None, None),
    uid.JPEGBaseline8Bit: (jpeg, None),
    uid.JPEGLosslessSV1: (lossless, imagecodecs.jpeg8_decode),
    uid.JPEGLSLossless: (imagecodecs.jpegls_encode, imagecodecs.jpegls_decode),
    uid.JPEG2000Lossless: (jpeg2000, imagecodecs.jpeg2k_decode),
    uid.HTJ2KLossless: (imagecodecs.htj2k_encode, imagecodecs.jpeg2k_decode),
}


def radiograph(file, side):
    """Return the stored values of a radiograph or of a phantom, 12 bits."""
    if file is not None:
        shown = read_image(file)
    else:
        phantom = make_chest_phantoms(1, image_size=256, random_state=0).images[0] / 255
        shown = np.asarray(Image.fromarray(phantom.astype(np.float32)).resize((side, side)))
        # Without noise, the codecs would have too little to do.
        shown = shown + np.random.default_rng(0).normal(0, 0.005, shown.shape)
    return (np.clip(shown, 0, 1) * (2**BITS - 1)).astype(np.uint16)


def write(path, pixels, syntax, encode):
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian
    dataset.SOPClassUID = uid.DigitalXRayImageStorageForPresentation
    dataset.SOPInstanceUID = uid.generate_uid()
    dataset.Modality, dataset.PhotometricInterpretation = "DX", "MONOCHROME2"
    bits = 8 if encode is jpeg else BITS
    dataset.Rows, dataset.Columns = pixels.shape
    dataset.SamplesPerPixel, dataset.PixelRepresentation = 1, 0
    dataset.BitsStored, dataset.BitsAllocated = bits, 8 if bits == 8 else 16
    dataset.HighBit = bits - 1
    dataset.WindowCenter, dataset.WindowWidth = 2 ** (bits - 1), 2**bits
    dataset.PixelData = pixels.tobytes()
    if syntax == uid.RLELossless:
        dataset.compress(syntax)
    elif encode is not None:
        dataset.PixelData = encapsulate([encode(pixels)])
        dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(path, enforce_file_format=True)


def bare(path, decode):
    """Decode and resize as code without this library would."""
    dataset = pydicom.dcmread(path)
    if decode is None:
        if dataset.file_meta.TransferSyntaxUID == uid.JPEGBaseline8Bit:
            dataset.pixel_array_options(decoding_plugin="pillow")
        pixels = dataset.pixel_array
    else:
        pixels = decode(get_frame(dataset.PixelData, 0, number_of_frames=1))
    stored = torch.from_numpy(pixels.astype(np.float32))[None, None]
    return torch.nn.functional.interpolate(
        stored, size=(SIZE, SIZE), mode="bilinear", antialias=True
    )


def keep_memory():
    """Make glibc keep freed memory, so that neither side pays for pages the other returned."""
    with suppress(AttributeError, OSError):
        libc = ctypes.CDLL(None)
        for option in (M_MMAP_THRESHOLD, M_TRIM_THRESHOLD):
            libc.mallopt(option, 2**30)


def main(arguments=None):
    parser = argparse.ArgumentParser(description="What the library adds to the decoder.")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--side", type=int, default=2048, help="side of the phantom, in pixels")
    parser.add_argument("--file", help="a radiograph to use instead of a phantom")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    keep_memory()
    pixels = radiograph(options.file, options.side)
    print(f"{pixels.shape[0]} x {pixels.shape[1]} pixels, {BITS} bits (JPEG Baseline: 8)")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "image.dcm"
        for syntax, (encode, decode) in CODECS.items():
            write(path, pixels, syntax, encode)
            seconds = time_in_turns(
                options.repeats,
                clock=time.process_time,
                bare=lambda decode=decode: bare(path, decode),
                ours=lambda: PathSource([path]).read([0], SIZE),
            )
            milliseconds = 1000 * np.median(seconds["bare"])
            label = f"{syntax.name.split(',')[0][:44]}, bare {milliseconds:.1f} ms"
            report(label, seconds["ours"] / seconds["bare"], "<= 1.15")


if __name__ == "__main__":
    main()
