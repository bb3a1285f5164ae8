"""Which of the two ways to the GPU's memory there is here."""

from __future__ import annotations

from importlib import import_module

from bn_deploy.backends.cuda_memory import CudaMemory
from bn_deploy.backends.device_memory import DeviceMemory
from bn_deploy.backends.torch_memory import TorchMemory
from bn_deploy.errors import NotAvailable

# Where cuda-python keeps the runtime API: since 12.8, and before.
_CUDA_RUNTIMES = ("cuda.bindings.runtime", "cuda.cudart")


def open_memory() -> DeviceMemory:
    """The memory of the GPU, through torch if it has CUDA, else through cuda-python.

    Raises:
        NotAvailable: neither can reach the GPU; the message names the extra that brings one.
    """
    try:
        torch = import_module("torch")
    except ImportError:
        torch = None
    if torch is not None and torch.cuda.is_available():
        return TorchMemory(torch)
    for name in _CUDA_RUNTIMES:
        try:
            return CudaMemory(import_module(name))
        except ImportError:
            continue
    torch_lacks = "torch is not installed" if torch is None else "the installed torch has no CUDA"
    raise NotAvailable(
        f"no way to GPU memory: {torch_lacks}, and cuda-python is not installed; pip install 'bn-deploy[gpu]'"
    )
