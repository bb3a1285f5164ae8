"""GPU memory made of torch tensors, for hosts where torch has CUDA."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from bn_deploy.backends.device_memory import NOT_STARTED, Buffer, Graph
from bn_deploy.errors import NotAvailable, first_line


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

    def copy_to_device(self, buffer: Buffer) -> None:
        """See DeviceMemory."""
        device, host = buffer.owner
        with _torch_errors(), self._torch.cuda.stream(self._stream):
            device.copy_(host, non_blocking=True)

    def copy_to_host(self, buffer: Buffer) -> None:
        """See DeviceMemory."""
        device, host = buffer.owner
        with _torch_errors(), self._torch.cuda.stream(self._stream):
            host.copy_(device, non_blocking=True)

    def synchronize(self) -> None:
        """See DeviceMemory."""
        with _torch_errors():
            self._stream.synchronize()

    def record(self, start: Callable[[], bool]) -> Graph:
        """See DeviceMemory."""
        graph = self._torch.cuda.CUDAGraph()
        with (
            _torch_errors(),
            self._torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            started = start()
        if not started:
            raise NotAvailable(NOT_STARTED)
        return _TorchGraph(self._torch, graph, self._stream)

    def close(self) -> None:
        """See DeviceMemory; tensors and stream free themselves when nobody holds them."""


class _TorchGraph:
    """Graph over torch's."""

    def __init__(self, torch: Any, graph: Any, stream: Any) -> None:
        self._torch, self._graph, self._stream = torch, graph, stream

    def launch(self) -> None:
        with _torch_errors(), self._torch.cuda.stream(self._stream):
            self._graph.replay()

    def close(self) -> None:
        self._graph.reset()


@contextmanager
def _torch_errors() -> Iterator[None]:
    """Turns torch's CUDA errors, which tell their cause in the first line, into one of ours."""
    try:
        yield
    except RuntimeError as error:
        raise NotAvailable(f"the GPU refused: {first_line(error)}") from error
