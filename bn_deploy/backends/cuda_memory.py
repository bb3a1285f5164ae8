"""GPU memory made with cuda-python, for hosts without torch."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np

from bn_deploy.backends.device_memory import NOT_STARTED, Buffer, Graph
from bn_deploy.errors import NotAvailable


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

    def copy_to_device(self, buffer: Buffer) -> None:
        """See DeviceMemory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call("cudaMemcpyAsync", buffer.ptr, buffer.owner, buffer.nbytes, kind, self._stream)

    def copy_to_host(self, buffer: Buffer) -> None:
        """See DeviceMemory."""
        kind = self._runtime.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call("cudaMemcpyAsync", buffer.owner, buffer.ptr, buffer.nbytes, kind, self._stream)

    def synchronize(self) -> None:
        """See DeviceMemory."""
        self._call("cudaStreamSynchronize", self._stream)

    def record(self, start: Callable[[], bool]) -> Graph:
        """See DeviceMemory."""
        mode = self._runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)
        try:
            started = start()
        finally:
            graph = self._call("cudaStreamEndCapture", self._stream)
        try:
            if not started:
                raise NotAvailable(NOT_STARTED)
            return _CudaGraph(self._call, self._call("cudaGraphInstantiate", graph, 0), self._stream)
        finally:
            self._call("cudaGraphDestroy", graph)

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


class _CudaGraph:
    """Graph over the CUDA runtime's."""

    def __init__(self, call: Callable[..., Any], executable: Any, stream: Any) -> None:
        self._call, self._executable, self._stream = call, executable, stream

    def launch(self) -> None:
        self._call("cudaGraphLaunch", self._executable, self._stream)

    def close(self) -> None:
        self._call("cudaGraphExecDestroy", self._executable)
