"""Headers of safetensors files, checked before memory or time is spent on what they claim."""

import os
from math import prod
from typing import Any, BinaryIO, NamedTuple

from otcxr_sk._json import MOST_VALUES, parse

# Far more than networks have, and read in a fraction of a second.
MOST_TENSORS, LONGEST_NAME, _MOST_DIMENSIONS = 2**14, 1000, 16
_MOST_BYTES = 2**23

# How many times as much a checkpoint may have: it is of the user's own, and has an optimizer.
OF_A_RUN = 16

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "I16": 16, "U16": 16,
    "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32, "C64": 64, "I64": 64, "U64": 64,
    "F64": 64,
}  # fmt: skip


class Header(NamedTuple):
    """What a safetensors file says of itself.

    Attributes
    ----------
    metadata : dict of str to str
    shapes : dict of str to tuple of int
        By the name of the tensor.
    """

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]


def read_header(file: BinaryIO, times: int = 1) -> Header:
    """Read the header of an open file, whose tensors then have the bytes that it claims.

    Parameters
    ----------
    file : binary file
        Read from its start.
    times : int, default=1
        How many times as much as a network it may have.

    Raises
    ------
    ValueError
        It is not a safetensors file, or is damaged or cut short, or claims more than any network
        has.
    """
    size = os.fstat(file.fileno()).st_size
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if not 2 <= length <= min(times * _MOST_BYTES, size - 8):
        raise ValueError
    try:
        content = parse(file.read(length), times * MOST_VALUES)
        metadata = content.pop("__metadata__", {})
        spans = [_span(name, tensor) for name, tensor in content.items()]
        plain = all(isinstance(text, str) for text in metadata.values())
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError from error
    if len(spans) > times * MOST_TENSORS or not plain:
        raise ValueError
    # One after the other, up to the end of the file.
    end = 0
    for start, stop in sorted(span for _, span in spans):
        if start != end:
            raise ValueError
        end = stop
    if end != size - 8 - length:
        raise ValueError
    return Header(metadata, dict(zip(content, (shape for shape, _ in spans), strict=True)))


def _span(name: str, tensor: dict[str, Any]) -> tuple[tuple[int, ...], tuple[int, int]]:
    """Return the shape of a tensor and where its bytes are."""
    shape, (start, stop) = tensor["shape"], tensor["data_offsets"]
    numbers = [*shape, start, stop]
    if (
        len(name) > LONGEST_NAME
        or len(shape) > _MOST_DIMENSIONS
        or not all(type(number) is int and 0 <= number < 2**48 for number in numbers)
        or prod(shape) * _BITS[tensor["dtype"]] != 8 * (stop - start)
    ):
        raise ValueError
    return tuple(shape), (start, stop)
