"""Runs a torch module eagerly on the CPU."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor, nn

from bn_deploy.backends.base import Array, Feeds, check_feeds
from bn_deploy.errors import ModelError
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
        threads: torch's threads while the runner is entered; the old number comes back after.

    Raises:
        ModelError: a part of the network is in training mode, or its parameters mix number formats.
    """

    backend = "torch"
    provider = "eager"

    def __init__(self, network: TorchNetwork, *, threads: int) -> None:
        if any(module.training for module in network.module.modules()):
            raise ModelError("the network is in training mode; call .eval() before running it")
        dtypes = {p.dtype for p in network.module.parameters() if p.is_floating_point()}
        if len(dtypes) > 1 or not dtypes <= set(_PRECISIONS):
            raise ModelError(f"the network computes in {', '.join(sorted(map(str, dtypes)))}; expected one of fp32, fp16, bf16")
        self._module = network.module
        self.inputs = network.inputs
        self.outputs = network.outputs
        self.device = "cpu"
        self.precision = _PRECISIONS[dtypes.pop()] if dtypes else Precision.FP32
        self._threads = threads
        self._threads_before = torch.get_num_threads()
        self._loaded: tuple[Tensor, ...] = ()
        self._results: tuple[Tensor, ...] = ()

    def __enter__(self) -> TorchRunner:
        self._threads_before = torch.get_num_threads()
        torch.set_num_threads(self._threads)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        torch.set_num_threads(self._threads_before)

    def load(self, feeds: Feeds) -> None:
        """See Runner. On the CPU the tensors share the caller's memory."""
        check_feeds(self.inputs, feeds)
        self._loaded = tuple(torch.from_numpy(feeds[spec.name]) for spec in self.inputs)

    def enqueue(self) -> None:
        """See Runner. Blocks until the outputs are there."""
        with torch.inference_mode():
            results = self._module(*self._loaded)
        self._results = results if isinstance(results, tuple) else (results,)

    def synchronize(self) -> None:
        """See Runner. Nothing runs after `enqueue` returns."""

    def fetch(self) -> dict[str, Array]:
        """See Runner."""
        return {spec.name: r.numpy().copy() for spec, r in zip(self.outputs, self._results, strict=True)}
