"""Memory on the GPU and the stream that fills and empties it, for runners that manage their own buffers.

Two ways to it: torch, where torch has CUDA, and cuda-python, where it does not or is not installed (Jetson's
images). Both work on a stream of their own, because TensorRT synchronises the whole device on the default
one, and both copy through page-locked memory, so that copies are asynchronous and the caller's arrays are
free at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

# What is said of work that TensorRT refuses to queue while it is recorded.
NOT_STARTED = "TensorRT does not start its work while that is recorded"


@dataclass(frozen=True)
class Buffer:
    """A piece of GPU memory with a piece of host memory of the same size.

    Attributes:
        ptr: its address on the GPU.
        staging: the page-locked host memory, uint8 (bytes).
        owner: what keeps the two alive.
    """

    ptr: int
    staging: NDArray[np.uint8]
    owner: Any

    @property
    def nbytes(self) -> int:
        """Its size."""
        return self.staging.nbytes


class Graph(Protocol):
    """Work that was recorded once and can be started again as a whole."""

    def launch(self) -> None:
        """Queues the work.

        Raises:
            NotAvailable: the GPU refuses.
        """

    def close(self) -> None:
        """Gives it back; the stream must be idle."""


class DeviceMemory(Protocol):
    """Buffers and one stream on the GPU.

    Attributes:
        stream: the handle of the stream that all copies are queued on; not the default stream.
    """

    @property
    def stream(self) -> int: ...  # noqa: D102 - described on the class

    def allocate(self, nbytes: int) -> Buffer:
        """A buffer of `nbytes`, which must be at least 1.

        Raises:
            NotAvailable: the GPU has no such amount left.
        """
        ...

    def free(self, buffer: Buffer) -> None:
        """Gives a buffer back; the stream must be idle."""

    def copy_to_device(self, buffer: Buffer) -> None:
        """Queues a copy of the staging memory to the GPU's; the staging memory must stay until it is done."""

    def copy_to_host(self, buffer: Buffer) -> None:
        """Queues a copy of the GPU's memory to the staging memory."""

    def synchronize(self) -> None:
        """Waits until everything that was queued is done.

        Raises:
            NotAvailable: the GPU reported an error.
        """

    def record(self, start: Callable[[], bool]) -> Graph:
        """Records what `start` queues on the stream instead of doing it; `start` tells whether it could.

        Raises:
            NotAvailable: it could not, or the GPU cannot record that; the message is the reason.
        """
        ...

    def close(self) -> None:
        """Gives all of it back."""


def stage(buffer: Buffer, array: NDArray[Any]) -> None:
    """Copies `array`, of the buffer's size, to its staging memory; the array is free at once."""
    buffer.staging[:] = np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def unstage(buffer: Buffer, array: NDArray[Any]) -> None:
    """Fills the contiguous `array`, of the buffer's size, from its staging memory."""
    array.reshape(-1).view(np.uint8)[:] = buffer.staging
