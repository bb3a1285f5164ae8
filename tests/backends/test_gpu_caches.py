"""The driver's own calls, on a stand-in that checks the order and the types of what it is given."""

from __future__ import annotations

import ctypes
from typing import Any

import pytest

from bn_deploy.backends.gpu_caches import GpuCaches
from bn_deploy.engine import driver
from bn_deploy.errors import NotAvailable


class FakeCuda:
    """What of libcuda is used; `log` has each call that changes something."""

    def __init__(self, *, room: bool = True) -> None:
        self.log: list[str] = []
        self._room = room

    def cuInit(self, flags: int) -> int:  # noqa: N802 - libcuda's name
        return 0

    def cuDeviceGet(self, out: Any, ordinal: int) -> int:  # noqa: N802
        out._obj.value = 7
        return 0

    def cuDeviceGetAttribute(self, out: Any, attribute: int, device: int) -> int:  # noqa: N802
        out._obj.value = {38: 50 << 20}[attribute]
        return 0

    def cuDevicePrimaryCtxRetain(self, out: Any, device: int) -> int:  # noqa: N802
        out._obj.value = 0xC0FFEE0000
        self.log.append(f"retain {device}")
        return 0

    def cuCtxSetCurrent(self, context: ctypes.c_void_p) -> int:  # noqa: N802
        assert context.value == 0xC0FFEE0000
        return 0

    def cuMemAlloc_v2(self, out: Any, size: ctypes.c_size_t) -> int:  # noqa: N802
        out._obj.value = 0x7F0000000000
        self.log.append(f"allocate {size.value}")
        return 0 if self._room else 2

    def cuMemsetD8_v2(self, place: Any, value: Any, count: Any) -> int:  # noqa: N802
        assert place.value == 0x7F0000000000, "the address has more than 32 bits"
        self.log.append(f"set {count.value}")
        return 0

    def cuCtxSynchronize(self) -> int:  # noqa: N802
        self.log.append("synchronize")
        return 0

    def cuMemFree_v2(self, place: Any) -> int:  # noqa: N802
        self.log.append("free")
        return 0


def test_twice_the_cache_is_written_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr(driver, "_library", lambda name: cuda)
    with GpuCaches() as caches:
        assert caches.nbytes == 100 << 20
        caches.evict()
        caches.evict()
    written = [f"set {100 << 20}", "synchronize"]
    assert cuda.log == ["retain 7", f"allocate {100 << 20}", *written, *written, "free"]


def test_no_room_on_the_gpu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "_library", lambda name: FakeCuda(room=False))
    with pytest.raises(NotAvailable, match="cuMemAlloc_v2 returned the CUDA error 2"):
        GpuCaches()


@pytest.mark.gpu
def test_a_real_gpu_takes_it() -> None:
    if (reason := driver.why_no_gpu()) is not None:
        pytest.skip(reason)
    with GpuCaches() as caches:
        assert caches.nbytes > 1 << 20
        caches.evict()
