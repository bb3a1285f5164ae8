"""Memory on the GPU and the stream that fills and empties it, for runners that manage their own buffers.

Two ways to it: torch, where torch has CUDA, and cuda-python, where it does not (Jetson's images). Both work
on a stream of their own, because TensorRT synchronises the whole device on the default one, and both copy
through page-locked memory, so that copies are asynchronous and the caller's arrays are free at once.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from bn_deploy.errors import NotAvailable

# Where cuda-python keeps the runtime API: since 12.8, and before.
_CUDA_RUNTIMES = ("cuda.bindings.runtime", "cuda.cudart")


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

    def copy_from_host(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Queues a copy of `array` to the start of `buffer`, which must be idle; `array` is free at once."""

    def copy_to_host(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """Fills the contiguous `array` from the start of `buffer`, after all that was queued before."""

    def synchronize(self) -> None:
        """Waits until everything that was queued is done.

        Raises:
            NotAvailable: the GPU reported an error.
        """

    def close(self) -> None:
        """Gives all of it back."""


def open_memory() -> DeviceMemory:
    """The memory of the GPU, through torch if it has CUDA, else through cuda-python.

    Raises:
        NotAvailable: neither can reach the GPU; the message names the extra that brings one.
    """
    import torch

    if torch.cuda.is_available():
        return TorchMemory(torch)
    for name in _CUDA_RUNTIMES:
        try:
            return CudaMemory(import_module(name))
        except ImportError:
            continue
    raise NotAvailable(
        "no way to GPU memory: the installed torch has no CUDA, and cuda-python is not installed; "
        "pip install 'bn-deploy[gpu]'"
    )


class TorchMemory:
    """DeviceMemory made of torch tensors."""

    def __init__(self, torch: Any) -> None:
        self._torch = torch
        with _torch_errors():
            self._stream = torch.cuda.Stream()

    @property
    def stream(self) -> int:
        """See DeviceMemory."""
        return int(self._stream.cuda_stream)

    def allocate(self, nbytes: int) -> Buffer:
        """See DeviceMemory."""
        torch = self._torch
        # On the stream that uses it: torch's allocator then knows when the memory may be used again.
        with _torch_errors(), torch.cuda.stream(self._stream):
            device = torch.empty(nbytes, dtype=torch.uint8, device="cuda")
            host = torch.empty(nbytes, dtype=torch.uint8, pin_memory=True)
        return Buffer(device.data_ptr(), host.numpy(), (device, host))

    def free(self, buffer: Buffer) -> None:
        """See DeviceMemory; a tensor frees itself when nobody holds it."""

    def copy_from_host(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """See DeviceMemory."""
        device, host = buffer.owner
        size = _stage(buffer, array)
        with _torch_errors(), self._torch.cuda.stream(self._stream):
            device[:size].copy_(host[:size], non_blocking=True)

    def copy_to_host(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """See DeviceMemory."""
        device, host = buffer.owner
        with _torch_errors(), self._torch.cuda.stream(self._stream):
            host[: array.nbytes].copy_(device[: array.nbytes], non_blocking=True)
        self.synchronize()
        _unstage(buffer, array)

    def synchronize(self) -> None:
        """See DeviceMemory."""
        with _torch_errors():
            self._stream.synchronize()

    def close(self) -> None:
        """See DeviceMemory; tensors and stream free themselves when nobody holds them."""


class CudaMemory:
    """DeviceMemory made with cuda-python's binding of the CUDA runtime."""

    def __init__(self, runtime: Any) -> None:
        self._runtime = runtime
        self._buffers: dict[int, Buffer] = {}
        self._stream = self._call("cudaStreamCreateWithFlags", runtime.cudaStreamNonBlocking)

    @property
    def stream(self) -> int:
        """See DeviceMemory."""
        return int(self._stream)

    def allocate(self, nbytes: int) -> Buffer:
        """See DeviceMemory."""
        device = int(self._call("cudaMalloc", nbytes))
        try:
            host = int(self._call("cudaMallocHost", nbytes))
        except NotAvailable:
            self._call("cudaFree", device)
            raise
        staging = np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(host))
        buffer = Buffer(device, staging, host)
        self._buffers[device] = buffer
        return buffer

    def free(self, buffer: Buffer) -> None:
        """See DeviceMemory."""
        del self._buffers[buffer.ptr]
        self._call("cudaFree", buffer.ptr)
        self._call("cudaFreeHost", buffer.owner)

    def copy_from_host(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """See DeviceMemory."""
        size = _stage(buffer, array)
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", buffer.ptr, buffer.owner, size, kind, self._stream)

    def copy_to_host(self, buffer: Buffer, array: NDArray[Any]) -> None:
        """See DeviceMemory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", buffer.owner, buffer.ptr, array.nbytes, kind, self._stream)
        self.synchronize()
        _unstage(buffer, array)

    def synchronize(self) -> None:
        """See DeviceMemory."""
        self._call("cudaStreamSynchronize", self._stream)

    def close(self) -> None:
        """See DeviceMemory."""
        for buffer in list(self._buffers.values()):
            self.free(buffer)
        self._call("cudaStreamDestroy", self._stream)

    def _call(self, function: str, *arguments: Any) -> Any:
        """Calls a function of the runtime and returns what it gives beside its return code."""
        code, *values = getattr(self._runtime, function)(*arguments)
        if int(code) != 0:
            raise NotAvailable(f"the GPU refused {function}: {getattr(code, 'name', code)}")
        return values[0] if values else None


def _stage(buffer: Buffer, array: NDArray[Any]) -> int:
    """Copies `array` to the buffer's staging memory and returns its size in bytes."""
    flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    buffer.staging[: flat.nbytes] = flat
    return flat.nbytes


def _unstage(buffer: Buffer, array: NDArray[Any]) -> None:
    array.reshape(-1).view(np.uint8)[:] = buffer.staging[: array.nbytes]


@contextmanager
def _torch_errors() -> Iterator[None]:
    """Turns torch's CUDA errors, which tell their cause in the first line, into one of ours."""
    try:
        yield
    except RuntimeError as error:
        raise NotAvailable(f"the GPU refused: {str(error).splitlines()[0]}") from error
