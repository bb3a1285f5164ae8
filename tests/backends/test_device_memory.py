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

from bn_deploy.backends import device_memory
from bn_deploy.backends.device_memory import CudaMemory, DeviceMemory, TorchMemory, open_memory
from bn_deploy.errors import NotAvailable

Error = IntEnum("Error", {"cudaSuccess": 0, "cudaErrorMemoryAllocation": 2})


class FakeCudart:
    """The runtime functions that are used, over ctypes buffers; `fails` is one that returns an error."""

    cudaStreamNonBlocking = 1  # noqa: N815 - CUDA's name
    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice=1, cudaMemcpyDeviceToHost=2)  # noqa: N815

    def __init__(self, fails: str = "") -> None:
        self.fails = fails
        self.live: dict[int, Any] = {}
        self.streams = 0

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

    cuda = SimpleNamespace(Stream=FakeStream, stream=stream)
    return SimpleNamespace(cuda=cuda, empty=empty, uint8=torch.uint8)


@pytest.fixture(params=["torch", "cuda-python"])
def memory(request: pytest.FixtureRequest) -> DeviceMemory:
    return TorchMemory(fake_torch()) if request.param == "torch" else CudaMemory(FakeCudart())


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_what_is_copied_there_comes_back(memory: DeviceMemory, dtype: str) -> None:
    array = np.random.default_rng(3).integers(0, 2, size=(4, 5)).astype(dtype)
    buffer = memory.allocate(array.nbytes + 8)
    assert buffer.nbytes == array.nbytes + 8
    memory.copy_from_host(buffer, array)
    on_device = np.frombuffer(ctypes.string_at(buffer.ptr, array.nbytes), dtype).reshape(array.shape)
    np.testing.assert_array_equal(on_device, array)
    back = np.zeros_like(array)
    memory.copy_to_host(buffer, back)
    np.testing.assert_array_equal(back, array)
    assert memory.stream == 33
    memory.free(buffer)
    memory.close()


def test_arrays_of_any_layout_and_read_only_ones_can_be_copied(memory: DeviceMemory) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T
    array.flags.writeable = False
    buffer = memory.allocate(array.nbytes)
    memory.copy_from_host(buffer, array)
    back = np.zeros((4, 3), np.float32)
    memory.copy_to_host(buffer, back)
    np.testing.assert_array_equal(back, array)
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
    ["cudaStreamCreateWithFlags", "cudaMalloc", "cudaMallocHost", "cudaMemcpyAsync", "cudaStreamSynchronize"],
)
def test_every_return_code_is_checked(function: str) -> None:
    def use() -> None:
        memory = CudaMemory(FakeCudart(fails=function))
        buffer = memory.allocate(8)
        memory.copy_from_host(buffer, np.zeros(2, np.float32))
        memory.synchronize()

    with pytest.raises(NotAvailable, match=f"the GPU refused {function}: cudaErrorMemoryAllocation"):
        use()


def test_a_half_made_buffer_is_given_back() -> None:
    cudart = FakeCudart(fails="cudaMallocHost")
    with pytest.raises(NotAvailable):
        CudaMemory(cudart).allocate(8)
    assert not cudart.live


def test_torch_errors_are_one_line() -> None:
    memory = TorchMemory(fake_torch(fails=True))
    with pytest.raises(NotAvailable, match=r"^the GPU refused: CUDA out of memory\. Tried a lot\.$"):
        memory.allocate(8)


def test_torch_is_taken_where_it_has_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "Stream", FakeStream)
    assert isinstance(open_memory(), TorchMemory)


@pytest.mark.parametrize("present", ["cuda.bindings.runtime", "cuda.cudart"])
def test_cuda_python_is_taken_where_torch_has_no_cuda(monkeypatch: pytest.MonkeyPatch, present: str) -> None:
    def load(name: str) -> Any:
        if name != present:
            raise ImportError(name)
        return FakeCudart()

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device_memory, "import_module", load)
    assert isinstance(open_memory(), CudaMemory)


def test_neither_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(device_memory, "import_module", load)
    with pytest.raises(NotAvailable, match=r"the installed torch has no CUDA.*bn-deploy\[gpu\]"):
        open_memory()
