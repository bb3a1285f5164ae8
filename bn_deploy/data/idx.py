"""The idx format: a big-endian header, then the elements in C order.

    byte 0-1   zero
    byte 2     element type; 0x08 is the unsigned byte, the only one read here
    byte 3     number of axes
    then       the size of each axis, as uint32
    then       the elements, and nothing after them

Source: "THE IDX FILE FORMAT" on the MNIST page of LeCun, Cortes and Burges.
"""

from __future__ import annotations

import math
import struct

import numpy as np
from numpy.typing import NDArray

from bn_deploy.errors import DataError

UNSIGNED_BYTE = 0x08


def parse(data: bytes, *, axes: int, source: str) -> NDArray[np.uint8]:
    """Reads idx bytes that must hold unsigned bytes along `axes` axes.

    Args:
        data: the whole file, decompressed.
        axes: the number of axes expected: 3 for images, 1 for labels.
        source: the file's name, for messages.

    Returns:
        A read-only view of `data` with the shape that the header states.

    Raises:
        DataError: the header is wrong, or the elements are fewer or more than it states.
    """
    if len(data) < 4:
        raise DataError(f"{source} is not an idx file: {len(data)} bytes are too short for its header")
    if data[:2] != b"\0\0":
        raise DataError(f"{source} is not an idx file: it starts with 0x{data[:4].hex()}, not with two zeros")
    if data[2] != UNSIGNED_BYTE:
        raise DataError(
            f"{source} has idx type 0x{data[2]:02x}; expected 0x{UNSIGNED_BYTE:02x}, unsigned bytes"
        )
    if data[3] != axes:
        raise DataError(f"{source} has {data[3]} axes; expected {axes}")
    header_bytes = 4 + 4 * axes
    if len(data) < header_bytes:
        raise DataError(f"{source} ends within its header: {len(data)} of {header_bytes} bytes")
    shape = struct.unpack_from(f">{axes}I", data, 4)
    stated, held = math.prod(shape), len(data) - header_bytes
    if held != stated:
        sizes = " x ".join(map(str, shape))
        fault = "is truncated: it holds" if held < stated else f"has {held - stated} trailing bytes: it holds"
        raise DataError(f"{source} {fault} {held} elements where its header states {sizes} = {stated}")
    return np.frombuffer(data, dtype=np.uint8, offset=header_bytes).reshape(shape)
