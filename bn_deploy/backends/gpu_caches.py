"""Empties the caches of the first GPU, whichever runtime computes on it: through the driver alone."""

from __future__ import annotations

import ctypes
from types import TracebackType

from bn_deploy.engine import driver

_L2_BYTES = 38  # CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE of CUdevice_attribute, cuda.h


class GpuCaches:
    """Memory of the first GPU that is twice as large as its L2 cache, to be written through.

    It lies in the device's primary context, which is the one that every runtime uses when not told.

    Attributes:
        nbytes: how large it is.

    Raises:
        NotAvailable: there is no GPU, or no room on it.
    """

    def __init__(self) -> None:
        self._library = driver.started()
        device = driver.integer(self._library, "cuDeviceGet", 0)
        context = ctypes.c_void_p()
        driver.call(self._library, "cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        driver.call(self._library, "cuCtxSetCurrent", context)
        self.nbytes = 2 * driver.integer(self._library, "cuDeviceGetAttribute", _L2_BYTES, device)
        self._place = ctypes.c_uint64()
        driver.call(self._library, "cuMemAlloc_v2", ctypes.byref(self._place), ctypes.c_size_t(self.nbytes))

    def __enter__(self) -> GpuCaches:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        driver.call(self._library, "cuMemFree_v2", self._place)

    def evict(self) -> None:
        """Writes all of it, and waits until that is done: nothing else is left in the cache."""
        value, count = ctypes.c_ubyte(0), ctypes.c_size_t(self.nbytes)
        driver.call(self._library, "cuMemsetD8_v2", self._place, value, count)
        driver.call(self._library, "cuCtxSynchronize")
