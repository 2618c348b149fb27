"""Find one frame among the fragments of compressed pixel data (PS3.5, annex A.4)."""

from itertools import pairwise

import numpy as np

from otcxr_sk.images._errors import ImageReadError, damaged
from otcxr_sk.images.dicom._elements import Element
from otcxr_sk.images.dicom._file import DicomFile
from otcxr_sk.images.dicom._streams import HEAD, is_start


def read_stream(dicom: DicomFile, pixels: Element, frame: int, frames: int) -> tuple[bytes, bool]:
    """Return the stream of a frame, and whether the file has all of its bytes."""
    fragments = list(dicom.file.items(pixels))
    table = b""
    # The first item is the offset table, but some writers leave it out.
    if len(fragments) > 1 and not _starts_stream(dicom, fragments[0]):
        table = _read(dicom, fragments.pop(0))
    offsets = np.frombuffer(table, "<u4", len(table) // 4).tolist()
    if not any(offsets):
        table = dicom.header.data("ExtendedOffsetTable")
        offsets = np.frombuffer(table, "<u8", len(table) // 8).tolist()
    fragments = _of_frame(dicom, fragments, offsets, frame, frames)
    stream = b"".join(_read(dicom, fragment) for fragment in fragments)
    return stream, len(stream) == sum(fragment.length or 0 for fragment in fragments)


def _read(dicom: DicomFile, fragment: Element) -> bytes:
    return dicom.file.read(fragment.start, fragment.length or 0)


def _starts_stream(dicom: DicomFile, fragment: Element) -> bool:
    return is_start(dicom.file.read(fragment.start, HEAD))


def _of_frame(
    dicom: DicomFile, fragments: list[Element], offsets: list[int], frame: int, frames: int
) -> list[Element]:
    if frames == 1:
        return fragments
    # Offsets count from the first fragment; tag and length of an item take 8 bytes.
    places = {fragment.start - fragments[0].start: n for n, fragment in enumerate(fragments)}
    if len(offsets) == frames and offsets[0] == 0 and places.keys() >= set(offsets):
        firsts = [places[offset] for offset in offsets]
    elif len(fragments) == frames:
        firsts = list(range(frames))
    else:
        firsts = [n for n, fragment in enumerate(fragments) if _starts_stream(dicom, fragment)]
    ends = [*firsts[1:], len(fragments)]
    if len(firsts) != frames or any(first >= second for first, second in pairwise(firsts)):
        if dicom.ends_early:
            raise damaged("it is cut short: it ends within its pixels")
        raise ImageReadError(
            f"its {frames} frames cannot be told apart: its pixels are {len(fragments)} fragments, "
            "and its offset table does not say where each frame starts; convert it"
        )
    return fragments[firsts[frame] : ends[frame]]
