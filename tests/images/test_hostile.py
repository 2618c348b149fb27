"""Hostile and damaged files: an image or an error that names the file, in bounded resources."""

import io
import random
import textwrap
import threading
import time
import zlib
from contextlib import suppress

import numpy as np
import pytest
from bounded import MEBIBYTES, SECONDS, damaged, reports_of
from PIL import Image

from otcxr_sk.images import ImageReadError, read_image

MUTANTS = 1200

# Reads the files of a folder one by one, in a process with limited memory, and reports on each.
# Measures processor time, since the machine may be shared.
READER = textwrap.dedent("""
    import json, os, resource, sys, time, warnings
    import numpy as np
    from otcxr_sk.images import ImageReadError, ImageReadWarning, read_image
    from bounded import limit_memory
    from words import foreign

    warnings.simplefilter("error")
    warnings.simplefilter("ignore", ImageReadWarning)

    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

    folder = sys.argv[1]
    read_image(os.path.join(folder, "first.png"))
    limit_memory()
    before = peak()
    for name in sorted(os.listdir(folder)):
        path = os.path.join(folder, name)
        began = time.process_time()
        try:
            image = read_image(path)
            assert image.ndim == 2 and image.dtype == np.float32, image.shape
            end = "image"
        except ImageReadError as error:
            named = str(error).startswith(f"cannot read {path!r}: ") and not foreign(error)
            end = "error" if named else str(error)
        took = time.process_time() - began
        print(json.dumps([name, end, took, peak() - before]), flush=True)
""")


def read_all(folder):
    """Return (name, end, seconds, MiB) for every file; fail if one of them ends the process."""
    Image.new("L", (4, 4)).save(folder / "first.png")
    reports = reports_of("-c", READER, folder)
    assert len(reports) == len(list(folder.iterdir()))
    return reports


def in_bounds(reports):
    for name, end, seconds, mebibytes in reports:
        assert end in ("image", "error"), (name, end)
        assert seconds < SECONDS, (name, seconds)
        assert mebibytes < MEBIBYTES, (name, mebibytes)


def png_of(side, rows=None):
    """Return a small PNG file of a large black image, or of only some of its rows."""
    packer = zlib.compressobj(9)
    row = bytes(1 + side) if rows != 0 else b""
    rows = side if rows is None else rows
    packed = b"".join(packer.compress(row) for _ in range(rows)) + packer.flush()

    def chunk(name, content):
        checksum = zlib.crc32(name + content)
        return b"".join(
            [len(content).to_bytes(4), name, content, checksum.to_bytes(4)],
        )

    head = side.to_bytes(4) + side.to_bytes(4) + bytes([8, 0, 0, 0, 0])
    parts = [chunk(b"IHDR", head), chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def npy_of(shape, dtype, content=b"", order=False):
    file = io.BytesIO()
    header = {"shape": shape, "fortran_order": order, "descr": dtype}
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + content


def tiff_of(side):
    """Return a TIFF file that claims a large strip but does not contain it."""
    file = io.BytesIO()
    Image.new("L", (8, 8)).save(file, "TIFF")
    raw = bytearray(file.getvalue())
    for tag in (256, 257, 278):
        place = raw.index(tag.to_bytes(2, "little"))
        raw[place + 2 : place + 12] = (
            (4).to_bytes(2, "little") + (1).to_bytes(4, "little") + (side.to_bytes(4, "little"))
        )
    return bytes(raw)


HOSTILE = {
    "bomb": (png_of(30_000, rows=10), "limit of"),
    "absurd": (png_of(2**31 - 1, rows=0), "limit of"),
    "no rows": (png_of(9_000, rows=0)[:-20], "cut short"),
    "absurd npy": (npy_of((10**6, 10**6), "<f8"), "limit of"),
    "overflowing npy": (npy_of((2**40, 2**40), "<f8"), "limit of"),
    "negative npy": (npy_of((-4, -4), "<f8", bytes(128)), "pixels; leave it out"),
    "empty npy": (npy_of((5000, 5000), "<f8", bytes(64)), "cut short: it contains 64"),
    "npy of objects": (npy_of((2, 2), "|O", b"cos\nsystem\n(S'exit 1'\ntR."), "Python objects"),
    "npy of text": (npy_of((2, 2), "<U9000000"), "of text"),
    "npy of nothing": (npy_of((2, 2), "|V0"), "raw bytes"),
    "npy that is code": (b"\x93NUMPY\x01\x00\x20\x00__import__('os')._exit(1)       \n", "damaged"),
    "long npy header": (b"\x93NUMPY\x02\x00\xff\xff\xff\x7f{" + b" " * 999, "damaged"),
    "absurd tiff": (tiff_of(60_000), "limit of"),
    "tiff without its strip": (tiff_of(9_000), "cut short"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_an_error_with_a_reason(read, name):
    content, words = HOSTILE[name]
    with pytest.raises(ImageReadError, match=rf"^cannot read '.*file': .*({words})"):
        read(content)


def test_a_file_longer_than_any_image_is_not_read(tmp_path):
    path = tmp_path / "long.png"
    path.write_bytes(png_of(8))
    with open(path, "r+b") as file:
        file.truncate(2**40)
    with pytest.raises(ImageReadError, match="bytes are more than an image of"):
        read_image(path)


def test_a_file_replaced_while_it_is_read_is_one_of_the_two_images_or_an_error(tmp_path):
    path, spare = tmp_path / "a.png", tmp_path / "b.png"
    contents = {}
    for value in (10, 200):
        for kind in ("PNG", "TIFF", "NPY"):
            file = io.BytesIO()
            pixels = np.full((300, 300), value, np.uint8)
            np.save(file, pixels) if kind == "NPY" else Image.fromarray(pixels).save(file, kind)
            contents[value, kind] = file.getvalue()
    done = threading.Event()
    path.write_bytes(contents[10, "NPY"])

    def replace():
        while not done.is_set():
            for whole in contents.values():
                # In place, so that a reader may see part of it, and as a whole.
                path.write_bytes(whole)
                path.write_bytes(whole[: len(whole) // 3])
                spare.write_bytes(whole)
                spare.replace(path)
                time.sleep(0.002)

    thread = threading.Thread(target=replace)
    thread.start()
    n_read = 0
    try:
        for _ in range(400):
            # A reader that opened the file twice could mix both.
            with suppress(ImageReadError):
                assert set(np.unique(read_image(path) * 255).round()) <= {10, 200}
                n_read += 1
    finally:
        done.set()
        thread.join()
    assert n_read


def fixed_png(raw):
    """Correct the checksums, so that the damage reaches the decoder."""
    raw, place = bytearray(raw), 8
    while place + 12 <= len(raw):
        stop = place + 8 + int.from_bytes(raw[place : place + 4])
        if stop + 4 > len(raw):
            break
        raw[stop : stop + 4] = zlib.crc32(raw[place + 4 : stop]).to_bytes(4)
        place = stop + 4
    return raw


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_mutated_real_files_are_images_or_errors_in_bounds(real_data, tmp_path):
    samples = real_data / "raw_samples"
    pngs = sorted((samples / "nih_png").glob("*.png"))[:4]
    jpegs = sorted((samples / "kermany_jpeg").rglob("*.jpeg"))[:8:2]
    originals = {"PNG": [path.read_bytes() for path in pngs]}
    originals["JPEG"] = [path.read_bytes() for path in jpegs]
    originals["TIFF"], originals["NPY"] = [], []
    # There are no TIFF or NPY samples, so real images are written as such, in every compression.
    for path, compression in zip(
        [*pngs, *pngs], ["raw", "tiff_lzw", "tiff_adobe_deflate", "packbits"] * 2, strict=True
    ):
        for deep in (False, True):
            gray = read_image(path)
            pixels = (gray * 65535).astype(np.uint16) if deep else (gray * 255).astype(np.uint8)
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "TIFF", compression=compression)
            originals["TIFF"].append(file.getvalue())
            file = io.BytesIO()
            np.save(file, pixels if deep else gray)
            originals["NPY"].append(file.getvalue())
    draw = random.Random(0)
    folder = tmp_path / "mutants"
    ends = []
    for kind, files in originals.items():
        folder.mkdir()
        for number in range(MUTANTS // 4):
            raw = damaged(draw, files[number % len(files)], near=200)
            if kind == "PNG" and number % 2:
                raw = fixed_png(raw)
            (folder / f"{number:04}.{kind}").write_bytes(raw)
        reports = read_all(folder)
        in_bounds(reports)
        ends += [(kind, end) for _, end, *_ in reports[:-1]]
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert len(ends) == MUTANTS
    # The damage must neither be too light to matter nor always be found in the first bytes.
    for kind in originals:
        assert ends.count((kind, "error")) > 30, kind
    for kind in ("JPEG", "TIFF", "NPY"):
        # The checksums of PNG reveal all damage.
        assert ends.count((kind, "image")) > 10, kind


def jpeg_of(side, n_scans):
    """Return a small progressive JPEG of a black image, most of whose scans bring nothing."""
    blocks = (side // 8) ** 2

    def segment(marker, content):
        return bytes([0xFF, marker]) + (len(content) + 2).to_bytes(2) + content

    sides = side.to_bytes(2) + side.to_bytes(2)
    head = segment(0xDB, b"\0" + b"\1" * 64) + segment(0xC2, b"\x08" + sides + b"\1\1\x11\0")
    # One code each: no difference, and the end of the next 2**14 or more blocks.
    head += segment(0xC4, b"\x00\1" + bytes(16)) + segment(0xC4, b"\x10\1" + bytes(15) + b"\xe0")
    bits = ""
    while blocks > 0:
        run = max(min(blocks, 2**15 - 1), 2**14)
        bits += "0" + format(run - 2**14, "014b")
        blocks -= run
    runs = int(bits + "1" * (-len(bits) % 8), 2).to_bytes(-(-len(bits) // 8))
    first = segment(0xDA, b"\1\1\0\0\0\0") + bytes(side**2 // 512 + 1)
    other = segment(0xDA, b"\1\1\0\1\x3f\0") + runs.replace(b"\xff", b"\xff\0")
    return b"\xff\xd8" + head + first + other * n_scans + b"\xff\xd9"


def tiled_tiff(side, tile):
    """Return an uncompressed TIFF whose tiles are all the same bytes."""
    n_tiles = (side // tile) ** 2
    tags = {256: [side], 257: [side], 258: [8], 259: [1], 262: [1], 277: [1], 322: [tile]}
    tags |= {323: [tile], 324: [8] * n_tiles, 325: [tile**2] * n_tiles}
    raw = b"II*\0\0\0\0\0" + bytes(tile**2)
    entries = b""
    for tag, values in tags.items():
        packed = np.array(values, "<u4").tobytes()
        value = packed if len(values) == 1 else len(raw).to_bytes(4, "little")
        raw += packed if len(values) > 1 else b""
        head = np.array([tag, 4], "<u2").tobytes() + len(values).to_bytes(4, "little")
        entries += head + value
    directory = len(tags).to_bytes(2, "little") + entries + bytes(4)
    return raw[:4] + len(raw).to_bytes(4, "little") + raw[8:] + directory


def png_with(name, content, count):
    small = png_of(8)
    part = len(content).to_bytes(4) + name + content + zlib.crc32(name + content).to_bytes(4)
    return small[:33] + part * count + small[33:]


BOMB = b"Raw profile type exif\0\0" + zlib.compress(b"\n\n\n" + b"z" * 2**20)
SMALL_JPEG = jpeg_of(256, 1)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (lambda: jpeg_of(8000, 2000), "more than 64 scans"),
        (lambda: jpeg_of(8000, 60), "limit of"),
        (lambda: SMALL_JPEG[:2] + b"\xff\xdb\0\2" * 10**6 + SMALL_JPEG[2:], "10000 parts"),
        (lambda: png_with(b"tEXt", b"", 300_000), "262144 parts"),
        (lambda: tiled_tiff(1000, 1), "strips or tiles"),
        (lambda: tiled_tiff(8192, 1024), "share their bytes"),
        (lambda: b"II*\0\x08\0\0\0\xff\xff" + bytes(800_000), "claims 65535 tags"),
        (lambda: npy_of((1, 2**17), "|u1", bytes(2**17)), "on a side"),
    ],
)
def test_a_count_in_a_header_is_bounded_before_it_costs_anything(read, content, words):
    made = content()
    began = time.process_time()
    with pytest.raises(ImageReadError, match=words):
        read(made)
    assert time.process_time() - began < SECONDS


def test_metadata_cannot_make_a_small_file_slow(tmp_path):
    (tmp_path / "texts.png").write_bytes(png_with(b"zTXt", BOMB, 2000))
    (tmp_path / "filled.jpg").write_bytes(SMALL_JPEG[:2] + b"\xff\0" * 10**6 + SMALL_JPEG[2:])
    in_bounds(read_all(tmp_path))


@pytest.mark.slow
def test_the_largest_images_allowed_stay_in_bounds(tmp_path):
    side = int(Image.MAX_IMAGE_PIXELS**0.5)
    (tmp_path / "gray.png").write_bytes(png_of(side))
    with open(tmp_path / "gray.npy", "wb") as file:
        file.write(npy_of((side, side), "|u1"))
        file.truncate(file.tell() + side**2)
    in_bounds(read_all(tmp_path))
