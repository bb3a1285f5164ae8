from __future__ import annotations

import ctypes
from typing import Any

import pytest

from bn_deploy.engine import driver
from bn_deploy.errors import NotAvailable


class FakeCuda:
    """The six functions of libcuda that are used; each returns a CUresult and writes through a pointer."""

    def __init__(self, *, init: int = 0, count: int = 1, name_code: int = 0) -> None:
        self._init, self._count, self._name_code = init, count, name_code

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self._init

    def cuDeviceGetCount(self, out: Any) -> int:  # noqa: N802
        out._obj.value = self._count
        return 0

    def cuDeviceGet(self, out: Any, ordinal: int) -> int:  # noqa: N802
        out._obj.value = 40 + ordinal
        return 0

    def cuDeviceGetName(self, out: Any, size: int, device: int) -> int:  # noqa: N802
        assert device == 40
        assert size == ctypes.sizeof(out)
        out.value = b"NVIDIA Thing"
        return self._name_code

    def cuDeviceGetAttribute(self, out: Any, attribute: int, device: int) -> int:  # noqa: N802
        out._obj.value = {75: 8, 76: 9}[attribute]
        return 0

    def cuDriverGetVersion(self, out: Any) -> int:  # noqa: N802
        out._obj.value = 12080
        return 0


def use(monkeypatch: pytest.MonkeyPatch, library: FakeCuda) -> None:
    monkeypatch.setattr(driver, "_library", lambda name: library)


def test_a_gpu_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, FakeCuda())
    assert driver.gpu() == driver.Gpu("NVIDIA Thing", (8, 9), (12, 8))
    assert driver.why_no_gpu() is None
    assert str(driver.gpu()) == "NVIDIA Thing (compute capability 8.9)"


@pytest.mark.parametrize(
    ("library", "reason"),
    [
        (FakeCuda(init=100), "the NVIDIA driver does not work: it sees no CUDA device"),
        (FakeCuda(init=999), "the NVIDIA driver does not work: cuInit returned the CUDA error 999"),
        (FakeCuda(name_code=3), "the NVIDIA driver does not work: cuDeviceGetName returned the CUDA error 3"),
        (FakeCuda(count=0), "the NVIDIA driver sees no CUDA device"),
    ],
)
def test_each_way_to_have_no_gpu_says_why(
    monkeypatch: pytest.MonkeyPatch, library: FakeCuda, reason: str
) -> None:
    use(monkeypatch, library)
    assert driver.why_no_gpu() == reason
    with pytest.raises(NotAvailable, match="NVIDIA driver"):
        driver.gpu()


@pytest.mark.parametrize(("system", "library"), [("linux", "libcuda.so.1"), ("win32", "nvcuda.dll")])
def test_no_driver_names_the_library(monkeypatch: pytest.MonkeyPatch, system: str, library: str) -> None:
    def missing(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr("bn_deploy.engine.driver.sys.platform", system)
    monkeypatch.setattr(driver, "_library", missing)
    assert driver.find_gpu() == f"no NVIDIA driver is installed ({library} cannot be loaded)"
