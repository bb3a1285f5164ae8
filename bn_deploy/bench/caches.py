"""The regime "cold": what a call costs when nothing it needs is in the processor's caches.

A service that is called now and then finds its inputs, its weights and its code in memory. Calls in a row do
not, so before each one a set of inputs larger than the last-level cache is read through, untimed, and the
call gets other inputs than the one before. Where a GPU computes, its L2 cache is written over as well.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import cycle
from pathlib import Path

import numpy as np

from bn_deploy.backends.base import Array, Feeds

UNKNOWN_BYTES = 64 << 20
"""Taken for the last-level cache where the system does not tell its size."""

_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def last_level_bytes(root: Path = Path("/")) -> int | None:
    """The size of the first core's largest cache, or None where the system does not tell.

    Args:
        root: where `sys` lies.
    """
    sizes = []
    for file in root.glob("sys/devices/system/cpu/cpu0/cache/index*/size"):
        try:
            text = file.read_text(encoding="ascii", errors="replace").strip()
            sizes.append(int(text.rstrip("KMG")) * _UNITS.get(text[-1:], 1))
        except (OSError, ValueError):
            continue
    return max(sizes, default=None)


class Rotation:
    """Inputs in turn from a set larger than the last-level cache.

    Args:
        rows: each input by name, its rows on the first axis; they are repeated until there are enough.
        batch: rows per call.
        cache_bytes: what the set must exceed; it becomes twice as large.
    """

    def __init__(self, rows: Mapping[str, Array], batch: int, cache_bytes: int | None = None) -> None:
        least = 2 * (cache_bytes or last_level_bytes() or UNKNOWN_BYTES)
        row_bytes = sum(array[:1].nbytes for array in rows.values())
        self.batches = max(2, -(-least // (row_bytes * batch)))
        self._pool = {name: np.resize(a, (self.batches * batch, *a.shape[1:])) for name, a in rows.items()}
        self.nbytes = sum(array.nbytes for array in self._pool.values())
        self._places: Iterator[int] = cycle(range(0, self.batches * batch, batch))
        self._batch = batch

    def evict(self) -> None:
        """Reads all of the set, which leaves no room for anything else in the caches."""
        for array in self._pool.values():
            array.view(np.uint8).max()

    def next(self) -> Feeds:
        """The inputs of the next call, views into the set."""
        place = next(self._places)
        return {name: array[place : place + self._batch] for name, array in self._pool.items()}


def cold(
    rotation: Rotation,
    feeds: dict[str, Array],
    place: Callable[[Feeds], object] | None,
    evict: Callable[[], object] | None = None,
) -> Callable[[], object]:
    """What is done before a cold call: other inputs, and none of them in a cache.

    Args:
        rotation: where inputs come from.
        feeds: what the call reads its inputs from; changed in place.
        place: brings the inputs to the runner, where that is no part of the call.
        evict: empties the caches of where the runner computes, if that is not the CPU.
    """

    def prepare() -> None:
        feeds.update(rotation.next())
        if place is not None:
            place(feeds)
        rotation.evict()
        if evict is not None:
            evict()

    return prepare
