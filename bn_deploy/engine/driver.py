"""The CUDA driver, asked directly: is there a GPU, and which one.

TensorRT must not be asked. Without a driver its Builder raises a TypeError that names no cause, and reading
a property of its Runtime ends the process (seen with TensorRT 11.4). ctypes needs no package at all.
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass
from typing import Any

from bn_deploy.errors import NotAvailable

# Values of CUresult and CUdevice_attribute, which never change: cuda.h.
_SUCCESS = 0
_REASONS = {
    34: "the driver library is a stub for linking, not a driver",
    100: "it sees no CUDA device",
    803: "its library and its kernel module have different versions; reboot, or install them again",
    804: "this GPU cannot be used with a driver library newer than the installed driver",
}
_COMPUTE_CAPABILITY_MAJOR = 75
_COMPUTE_CAPABILITY_MINOR = 76
_NAME_BYTES = 256


@dataclass(frozen=True)
class Gpu:
    """The first CUDA device that this process may use.

    Attributes:
        name: what the driver calls it.
        compute_capability: the version of its instruction set, major and minor.
        driver_version: the newest CUDA version that the driver supports, major and minor.
    """

    name: str
    compute_capability: tuple[int, int]
    driver_version: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} (compute capability {self.compute_capability[0]}.{self.compute_capability[1]})"


def capability(text: str) -> tuple[int, int]:
    """Reads a compute capability such as "8.6" or "8.0+", without regard to the plus.

    Raises:
        ValueError: it is neither.
    """
    major, minor = text.removesuffix("+").split(".")
    if not (major.isdecimal() and minor.isdecimal()):
        raise ValueError(f"not a compute capability: {text!r}")
    return int(major), int(minor)


def covers(capabilities: tuple[str, ...], gpu: Gpu) -> bool:
    """Whether one of the compute capabilities is that of `gpu`, or "8.0+" and the like include it."""
    here = gpu.compute_capability
    return any(
        here >= capability(text) if text.endswith("+") else here == capability(text) for text in capabilities
    )


def find_gpu() -> Gpu | str:
    """The GPU, or one sentence that says why there is none."""
    try:
        library = started()
        if integer(library, "cuDeviceGetCount") == 0:
            return "the NVIDIA driver sees no CUDA device"
        return _describe(library)
    except NotAvailable as error:
        return str(error)


def why_no_gpu() -> str | None:
    """None if there is a GPU, else the reason."""
    found = find_gpu()
    return found if isinstance(found, str) else None


def gpu() -> Gpu:
    """The GPU.

    Raises:
        NotAvailable: there is none; the message is the reason.
    """
    found = find_gpu()
    if isinstance(found, str):
        raise NotAvailable(found)
    return found


def started() -> Any:
    """The driver's library, ready to be called.

    Raises:
        NotAvailable: there is none, or it does not work.
    """
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        library = _library(name)
    except OSError as error:
        raise NotAvailable(f"no NVIDIA driver is installed ({name} cannot be loaded)") from error
    call(library, "cuInit", 0)
    return library


def call(library: Any, function: str, *arguments: Any) -> None:
    """Calls a function of the driver; what is no int needs its ctypes type.

    Raises:
        NotAvailable: it did not succeed.
    """
    code = getattr(library, function)(*arguments)
    if code != _SUCCESS:
        reason = _REASONS.get(code, f"{function} returned the CUDA error {code}")
        raise NotAvailable(f"the NVIDIA driver does not work: {reason}")


def integer(library: Any, function: str, *arguments: int) -> int:
    """Calls a function that writes one int through its first argument.

    Raises:
        NotAvailable: it did not succeed.
    """
    value = ctypes.c_int()
    call(library, function, ctypes.byref(value), *arguments)
    return value.value


def _library(name: str) -> Any:
    return ctypes.CDLL(name)


def _describe(library: Any) -> Gpu:
    # Device 0 of those that CUDA_VISIBLE_DEVICES leaves: the one torch and TensorRT use when not told.
    device = integer(library, "cuDeviceGet", 0)
    name = ctypes.create_string_buffer(_NAME_BYTES)
    call(library, "cuDeviceGetName", name, _NAME_BYTES, device)
    major = integer(library, "cuDeviceGetAttribute", _COMPUTE_CAPABILITY_MAJOR, device)
    minor = integer(library, "cuDeviceGetAttribute", _COMPUTE_CAPABILITY_MINOR, device)
    version = integer(library, "cuDriverGetVersion")  # 1000 x major + 10 x minor
    return Gpu(
        name=name.value.decode("utf-8", "replace"),
        compute_capability=(major, minor),
        driver_version=(version // 1000, version % 1000 // 10),
    )
