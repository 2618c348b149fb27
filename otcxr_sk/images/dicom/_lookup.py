"""Read the lookup tables of a header: modality LUT, VOI LUT and palettes (PS3.3, C.11.1.1.1)."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from otcxr_sk.images._errors import doubt
from otcxr_sk.images.dicom._header import Header

_FEWEST_BITS, _MOST_BITS = 8, 16


class Table(NamedTuple):
    """A lookup table: values from `first` on become `entries`, which span `bits` bits."""

    entries: NDArray[np.uint16]
    first: int
    bits: int

    def apply(self, values: NDArray[Any]) -> NDArray[np.uint16]:
        """Map values; those beyond either end of the table become its first or last entry."""
        last = self.first + len(self.entries) - 1
        inside = np.clip(np.rint(values), self.first, last)
        return self.entries[inside.astype(np.int64) - self.first]


def read_table(header: Header, name: str, keyword: str, values: NDArray[Any]) -> Table | None:
    """Read a lookup table, or return None if there is none.

    Parameters
    ----------
    header : Header
        The item, or whole header, that contains it.
    name : str
        What to call the table.
    keyword : str
        How the keywords of its descriptor and of its entries start.
    values : ndarray
        What it is to map.
    """
    descriptor = [int(word) for word in header.words(f"{keyword}Descriptor")]
    entries = header.words(f"{keyword}Data")
    if len(descriptor) < 3 or not len(entries):
        return None
    count, first, bits = descriptor[:3]
    count = count or 2**16
    # Its sign may be written as that of another kind of number.
    if first >= 2**15 and (values.min() < 0 or header.vr(f"{keyword}Descriptor") == "SS"):
        first -= 2**16
    if bits <= _FEWEST_BITS and len(entries) == (count + 1) // 2 and count > 1:
        # Two entries to a word, the first one in its lower half, and one to fill up the last.
        entries = entries.view(np.uint8).astype(np.uint16)[:count]
    if len(entries) < count:
        doubt(
            f"its {name} has {len(entries)} entries, not {count} as it claims: higher values are "
            "shown as the last of them"
        )
    elif len(entries) > count:
        doubt(
            f"its {name} has {len(entries)} entries, not {count} as it claims, all of which were "
            "used: check the image"
        )
    real = max(int(entries.max()).bit_length(), _FEWEST_BITS)
    if not real <= bits <= _MOST_BITS:
        doubt(f"its {name} claims entries of {bits} bits, but they have {real}, which were used")
        bits = real
    return Table(entries, first, bits)
