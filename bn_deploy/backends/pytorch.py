"""Runs a torch module on the CPU: eagerly, or what a compiler made of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType

import numpy as np
import torch
from torch import Tensor, nn

from bn_deploy.backends.base import Array, Facts, Feeds, check_feeds
from bn_deploy.errors import InputError, ModelError, first_line
from bn_deploy.spec import Precision, TensorSpec

_PRECISIONS = {torch.float32: Precision.FP32, torch.float16: Precision.FP16, torch.bfloat16: Precision.BF16}


def why_not() -> str | None:
    """None: torch is a dependency of the package, so this backend is always there."""
    return None


@dataclass(frozen=True)
class TorchNetwork:
    """A torch module with its boundary, which a module itself does not tell.

    Attributes:
        module: the network, in eval mode.
        inputs: what it takes, in the order of its forward's arguments.
        outputs: what it gives.
    """

    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def open_runner(source: TorchNetwork, *, threads: int) -> TorchRunner:
    """A runner for `source`; see Backend.open."""
    return TorchRunner(source, threads=threads)


class TorchRunner:
    """A torch module in eval mode, without autograd, on as many CPU threads as asked for.

    Args:
        network: the module with its boundary; it is used, not copied.
        threads: torch's threads, a setting of the whole process, from entering the runner until leaving it;
            the old number comes back after. A runner that is entered meanwhile does not change it for this
            one: each computes on its own number.

    Raises:
        ModelError: a part of the network is in training mode or not on the CPU, or its parameters are in
            several number formats or in one that is no Precision.
    """

    backend = "torch"
    provider = "eager"

    def __init__(self, network: TorchNetwork, *, threads: int) -> None:
        module = network.module
        if any(part.training for part in module.modules()):
            raise ModelError("the network is in training mode; call .eval() before running it")
        tensors = [*module.parameters(), *module.buffers()]
        if others := {tensor.device.type for tensor in tensors} - {"cpu"}:
            raise ModelError(f"the network lies on {', '.join(sorted(others))}; this backend runs on the CPU")
        dtypes = {p.dtype for p in module.parameters() if p.is_floating_point()}
        if len(dtypes) > 1 or not dtypes <= set(_PRECISIONS):
            found = ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
            raise ModelError(f"the network's parameters are {found}; expected one of fp32, fp16, bf16")
        self.inputs = network.inputs
        self.outputs = network.outputs
        self.device = "cpu"
        self.precision = _PRECISIONS[dtypes.pop()] if dtypes else Precision.FP32
        self._compute: Callable[..., Tensor | tuple[Tensor, ...]] = module
        self._threads = threads
        self._threads_before = torch.get_num_threads()
        self._loaded: tuple[Tensor, ...] | None = None
        self._results: tuple[Tensor, ...] | None = None

    @property
    def facts(self) -> Facts:
        """Read from torch, whose settings belong to the process: true of this runner while it is entered."""
        self._take_threads()
        tf32 = torch.get_float32_matmul_precision() != "highest"
        return Facts(threads=torch.get_num_threads(), tf32=tf32)

    def __enter__(self) -> TorchRunner:
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loaded = self._results = None
        torch.set_num_threads(self._threads_before)

    def load(self, feeds: Feeds) -> None:
        """See Runner. The tensors share the caller's memory where torch can: contiguous and writable."""
        check_feeds(self.inputs, feeds)
        self._results = None
        self._loaded = tuple(
            torch.from_numpy(np.require(feeds[spec.name], requirements=["C", "W"])) for spec in self.inputs
        )

    def enqueue(self) -> None:
        """See Runner. Blocks until the outputs are there."""
        if self._loaded is None:
            raise InputError("the network cannot run before its inputs are loaded")
        self._take_threads()
        try:
            with torch.inference_mode():
                results = self._compute(*self._loaded)
        except Exception as error:  # a forward is foreign code
            raise ModelError(f"the network does not run: {first_line(error)}") from error
        self._results = results if isinstance(results, tuple) else (results,)

    def synchronize(self) -> None:
        """See Runner. Nothing runs after `enqueue` returns."""

    def fetch(self) -> dict[str, Array]:
        """See Runner.

        Raises:
            InputError: nothing was computed.
            ModelError: the network gives another number of outputs than its boundary says.
        """
        if self._results is None:
            raise InputError("the network has no outputs before it has run")
        if len(self._results) != len(self.outputs):
            raise ModelError(f"the network gives {len(self._results)} outputs, not {len(self.outputs)}")
        return {spec.name: r.numpy().copy() for spec, r in zip(self.outputs, self._results, strict=True)}

    def _take_threads(self) -> None:
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
