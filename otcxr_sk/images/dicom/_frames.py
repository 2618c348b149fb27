"""Find one frame among the fragments of compressed pixel data (PS3.5, annex A.4)."""

from itertools import pairwise
from struct import unpack

from otcxr_sk.images._errors import ImageReadError, damaged
from otcxr_sk.images.dicom._elements import Element
from otcxr_sk.images.dicom._file import DicomFile
from otcxr_sk.images.dicom._streams import HEAD, is_start


def read_stream(dicom: DicomFile, pixels: Element, frame: int, frames: int) -> tuple[bytes, bool]:
    """Return the stream of a frame, and whether the file has all of its bytes."""
    fragments = list(dicom.file.items(pixels))
    table: list[int] = []
    # The first item is the offset table, but some writers leave it out.
    if len(fragments) > 1 and not _starts_stream(dicom, fragments[0]):
        data = _read(dicom, fragments.pop(0))
        table = list(unpack(f"<{len(data) // 4}I", data[: len(data) // 4 * 4]))
    if not any(table):
        data = dicom.header.data("ExtendedOffsetTable")
        table = list(unpack(f"<{len(data) // 8}Q", data[: len(data) // 8 * 8]))
    fragments = _of_frame(dicom, fragments, table, frame, frames)
    parts = [_read(dicom, fragment) for fragment in fragments]
    stream = b"".join(parts)
    return stream, len(stream) == sum(fragment.length or 0 for fragment in fragments)


def _read(dicom: DicomFile, fragment: Element) -> bytes:
    return dicom.file.read(fragment.start, fragment.length or 0)


def _starts_stream(dicom: DicomFile, fragment: Element) -> bool:
    return is_start(dicom.file.read(fragment.start, HEAD))


def _of_frame(
    dicom: DicomFile, fragments: list[Element], table: list[int], frame: int, frames: int
) -> list[Element]:
    if frames == 1:
        return fragments
    # Offsets count from the first fragment; tag and length of an item take 8 bytes.
    places = {fragment.start - fragments[0].start: n for n, fragment in enumerate(fragments)}
    if len(table) == frames and table[0] == 0 and places.keys() >= set(table):
        firsts = [places[offset] for offset in table]
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
