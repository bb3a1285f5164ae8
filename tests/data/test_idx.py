from __future__ import annotations

import struct

import numpy as np
import pytest

from bn_deploy.data import idx
from bn_deploy.errors import DataError

PIXELS = bytes(range(24))
GOOD = struct.pack(">4B3I", 0, 0, 8, 3, 2, 3, 4) + PIXELS
HUGE = 2**32 - 1
HUGE_SIZES = f"{HUGE} x {HUGE} x {HUGE}"


def test_images_come_back_in_c_order() -> None:
    array = idx.parse(GOOD, axes=3, source="images")
    assert array.dtype == np.uint8
    np.testing.assert_array_equal(array, np.arange(24, dtype=np.uint8).reshape(2, 3, 4))


def test_labels_come_back() -> None:
    data = struct.pack(">4BI", 0, 0, 8, 1, 3) + b"\x07\x00\x09"
    np.testing.assert_array_equal(idx.parse(data, axes=1, source="labels"), [7, 0, 9])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "images is not an idx file: 0 bytes are too short for its header"),
        (b"\0\0\x08", "images is not an idx file: 3 bytes are too short for its header"),
        (b"\x1f\x8b" + GOOD[2:], "images is not an idx file: it starts with 0x1f8b0803, not with two zeros"),
        (b"\0\x01" + GOOD[2:], "images is not an idx file: it starts with 0x00010803, not with two zeros"),
        (GOOD[:2] + b"\x0d" + GOOD[3:], "images has idx type 0x0d; expected 0x08, unsigned bytes"),
        (GOOD[:3] + b"\x01" + GOOD[4:], "images has 1 axes; expected 3"),
        (GOOD[:11], "images ends within its header: 11 of 16 bytes"),
        (
            GOOD[:-1],
            "images is truncated: it holds 23 elements where its header states 2 x 3 x 4 = 24",
        ),
        (
            GOOD + b"!",
            "images has 1 trailing bytes: it holds 25 elements where its header states 2 x 3 x 4 = 24",
        ),
        (
            struct.pack(">4B3I", 0, 0, 8, 3, HUGE, HUGE, HUGE),
            f"images is truncated: it holds 0 elements where its header states {HUGE_SIZES} = {HUGE**3}",
        ),
    ],
    ids=["empty", "3-bytes", "gzip", "no-zero", "type", "axes", "header", "truncated", "trailing", "huge"],
)
def test_each_fault_is_named(data: bytes, message: str) -> None:
    with pytest.raises(DataError) as caught:
        idx.parse(data, axes=3, source="images")
    assert str(caught.value) == message
