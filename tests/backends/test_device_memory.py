"""Both kinds of GPU memory, over fakes that keep the bytes on the host at real addresses."""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from bn_deploy.backends import memory_choice
from bn_deploy.backends.cuda_memory import CudaMemory
from bn_deploy.backends.device_memory import Buffer, DeviceMemory, stage, unstage
from bn_deploy.backends.memory_choice import open_memory
from bn_deploy.backends.torch_memory import TorchMemory
from bn_deploy.errors import NotAvailable

Error = IntEnum("Error", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2})


class FakeCudart:
    """The runtime functions that are used, over ctypes buffers; `fails` is one that returns an error."""

    cudaStreamNonBlocking = 1  # noqa: N815 - CUDA's name
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # noqa: N815 - CUDA's name
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.live: dict[int, Any] = {}
        self.streams = 0
        self.graphs: list[str] = []
        self.launches = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if name.startswith("cuda") and callable(found) and name == self.fails:
            return lambda *arguments: (Error.cudaErrorMemoryAllocation, 0)
        return found

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Error, int]:  # noqa: N802
        assert flags == self.cudaStreamNonBlocking
        self.streams += 1
        return Error.cudaSuccess, 33

    def cudaStreamDestroy(self, stream: int) -> tuple[Error]:  # noqa: N802
        self.streams -= 1
        return (Error.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Error]:  # noqa: N802
        assert stream == 33
        return (Error.cudaSuccess,)

    def cudaStreamBeginCapture(self, stream: int, mode: int) -> tuple[Error]:  # noqa: N802
        assert (stream, mode) == (33, 1)
        self.graphs.append("recorded")
        return (Error.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: int) -> tuple[Error, str]:  # noqa: N802
        return Error.cudaSuccess, self.graphs[-1]

    def cudaGraphInstantiate(self, graph: str, flags: int) -> tuple[Error, str]:  # noqa: N802
        self.graphs.append("executable")
        return Error.cudaSuccess, "executable"

    def cudaGraphLaunch(self, graph: str, stream: int) -> tuple[Error]:  # noqa: N802
        assert (graph, stream) == ("executable", 33)
        self.launches += 1
        return (Error.cudaSuccess,)

    def cudaGraphDestroy(self, graph: str) -> tuple[Error]:  # noqa: N802
        self.graphs.remove(graph)
        return (Error.cudaSuccess,)

    cudaGraphExecDestroy = cudaGraphDestroy  # noqa: N815

    def cudaMalloc(self, nbytes: int) -> tuple[Error, int]:  # noqa: N802
        memory = ctypes.create_string_buffer(nbytes)
        self.live[ctypes.addressof(memory)] = memory
        return Error.cudaSuccess, ctypes.addressof(memory)

    cudaMallocHost = cudaMalloc  # noqa: N815

    def cudaFree(self, address: int) -> tuple[Error]:  # noqa: N802
        del self.live[address]
        return (Error.cudaSuccess,)

    cudaFreeHost = cudaFree  # noqa: N815

    def cudaMemcpyAsync(self, to: int, source: int, nbytes: int, kind: int, stream: int) -> tuple[Error]:  # noqa: N802
        assert kind in {1, 2}
        assert stream == 33
        ctypes.memmove(to, source, nbytes)
        return (Error.cudaSuccess,)


class FakeStream:
    cuda_stream = 33

    def synchronize(self) -> None:
        pass


class FakeGraph:
    launches = 0

    def replay(self) -> None:
        FakeGraph.launches += 1

    def reset(self) -> None:
        pass


def fake_torch(fails: bool = False) -> Any:
    """torch whose "cuda" device is the host."""

    def empty(nbytes: int, *, dtype: Any, device: str = "cpu", pin_memory: bool = False) -> torch.Tensor:
        assert (device == "cuda") is not pin_memory
        if fails:
            raise RuntimeError("CUDA out of memory. Tried a lot.\nmore")
        return torch.empty(nbytes, dtype=dtype)

    def stream(which: FakeStream) -> AbstractContextManager[None]:
        assert isinstance(which, FakeStream)
        return nullcontext()

    def graph(
        recorded: FakeGraph, stream: FakeStream, capture_error_mode: str
    ) -> AbstractContextManager[None]:
        assert capture_error_mode == "thread_local"  # other threads may use the GPU meanwhile
        if fails:
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing\nmore")
        return nullcontext()

    cuda = SimpleNamespace(Stream=FakeStream, stream=stream, CUDAGraph=FakeGraph, graph=graph)
    return SimpleNamespace(cuda=cuda, empty=empty, uint8=torch.uint8)


@pytest.fixture(params=["torch", "cuda-python"])
def memory(request: pytest.FixtureRequest) -> DeviceMemory:
    return TorchMemory(fake_torch()) if request.param == "torch" else CudaMemory(FakeCudart())


def put(memory: DeviceMemory, buffer: Buffer, array: np.ndarray[Any, Any]) -> None:
    stage(buffer, array)
    memory.copy_to_device(buffer)
    memory.synchronize()


def got(memory: DeviceMemory, buffer: Buffer, array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    buffer.staging[:] = 0
    memory.copy_to_host(buffer)
    memory.synchronize()
    unstage(buffer, array)
    return array


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_what_is_copied_there_comes_back(memory: DeviceMemory, dtype: str) -> None:
    array = np.random.default_rng(3).integers(0, 2, size=(4, 5)).astype(dtype)
    buffer = memory.allocate(array.nbytes)
    assert buffer.nbytes == array.nbytes
    put(memory, buffer, array)
    on_device = np.frombuffer(ctypes.string_at(buffer.ptr, array.nbytes), dtype).reshape(array.shape)
    np.testing.assert_array_equal(on_device, array)
    np.testing.assert_array_equal(got(memory, buffer, np.zeros_like(array)), array)
    assert memory.stream == 33
    memory.free(buffer)
    memory.close()


def test_arrays_of_any_layout_and_read_only_ones_can_be_copied(memory: DeviceMemory) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    array.flags.writeable = False
    buffer = memory.allocate(array.nbytes)
    put(memory, buffer, array)
    np.testing.assert_array_equal(got(memory, buffer, np.zeros((4, 3), np.float32)), array)
    memory.close()


def test_cuda_memory_gives_everything_back() -> None:
    cudart = FakeCudart()
    memory = CudaMemory(cudart)
    memory.free(memory.allocate(8))
    assert not cudart.live
    memory.allocate(8)
    memory.allocate(16)
    memory.close()
    assert not cudart.live
    assert cudart.streams == 0


@pytest.mark.parametrize(
    "function",
    [
        *("cudaStreamCreateWithFlags", "cudaMalloc", "cudaMallocHost", "cudaMemcpyAsync"),
        *("cudaStreamSynchronize", "cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate"),
        *("cudaGraphDestroy", "cudaGraphLaunch"),
    ],
)
def test_every_return_code_is_checked(function: str) -> None:
    def use() -> None:
        memory = CudaMemory(FakeCudart(fails=function))
        buffer = memory.allocate(8)
        put(memory, buffer, np.zeros(2, np.float32))
        memory.record(lambda: True).launch()

    with pytest.raises(NotAvailable, match=f"the GPU refused {function}: cudaErrorMemoryAllocation"):
        use()


def test_a_half_made_buffer_is_given_back() -> None:
    cudart = FakeCudart(fails="cudaMallocHost")
    with pytest.raises(NotAvailable):
        CudaMemory(cudart).allocate(8)
    assert not cudart.live


def test_what_is_recorded_can_be_launched_again_and_again(memory: DeviceMemory) -> None:
    FakeGraph.launches = 0
    calls: list[int] = []

    def start() -> bool:
        calls.append(1)
        return True

    graph = memory.record(start)
    for _ in range(3):
        graph.launch()
    assert calls == [1]
    if isinstance(memory, CudaMemory):
        assert (memory._runtime.launches, memory._runtime.graphs) == (3, ["executable"])
        graph.close()
        assert memory._runtime.graphs == []
    else:
        assert FakeGraph.launches == 3
        graph.close()


def test_what_does_not_start_is_no_graph(memory: DeviceMemory) -> None:
    with pytest.raises(NotAvailable, match="TensorRT does not start its work while that is recorded"):
        memory.record(lambda: False)
    if isinstance(memory, CudaMemory):
        assert memory._runtime.graphs == []


def test_torch_errors_are_one_line() -> None:
    memory = TorchMemory(fake_torch(fails=True))
    with pytest.raises(NotAvailable, match=r"^the GPU refused: CUDA out of memory\. Tried a lot\.$"):
        memory.allocate(8)


def modules(monkeypatch: pytest.MonkeyPatch, **present: Any) -> None:
    """Makes `open_memory` find these modules only; dots are written as underscores."""

    def load(name: str) -> Any:
        if name.replace(".", "_") not in present:
            raise ImportError(name)
        return present[name.replace(".", "_")]

    monkeypatch.setattr(memory_choice, "import_module", load)


def torch_with(cuda: bool) -> Any:
    return SimpleNamespace(cuda=SimpleNamespace(is_available=lambda: cuda, Stream=FakeStream))


def test_torch_is_taken_where_it_has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    modules(monkeypatch, torch=torch_with(True), cuda_cudart=FakeCudart())
    assert isinstance(open_memory(), TorchMemory)


@pytest.mark.parametrize("present", ["cuda_bindings_runtime", "cuda_cudart"])
@pytest.mark.parametrize("others", [{}, {"torch": torch_with(False)}], ids=["no torch", "torch for the CPU"])
def test_cuda_python_is_taken_where_torch_cannot(
    monkeypatch: pytest.MonkeyPatch, present: str, others: dict[str, Any]
) -> None:
    modules(monkeypatch, **{present: FakeCudart()}, **others)
    assert isinstance(open_memory(), CudaMemory)


@pytest.mark.parametrize(
    ("others", "why"),
    [({}, "torch is not installed"), ({"torch": torch_with(False)}, "the installed torch has no CUDA")],
)
def test_neither_names_the_extra(monkeypatch: pytest.MonkeyPatch, others: dict[str, Any], why: str) -> None:
    modules(monkeypatch, **others)
    with pytest.raises(NotAvailable, match=rf"{why}, and cuda-python is not installed; .*bn-deploy\[gpu\]"):
        open_memory()
