"""Running a foreign layer to see what it does, and leaving no trace of that."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bn_deploy.batchnorm.foreign import copied, first_line
from bn_deploy.batchnorm.holdings import Array, Unlike, held, state

_BLOW_UP = 8
"""Times the largest operand: no batch norm broadcasts its input at all, but for a few samples or places."""


@contextmanager
def quietly() -> Iterator[None]:
    """Without grad and warnings, on one thread, and with torch's random numbers as they were before."""
    threads = torch.get_num_threads()
    with (
        warnings.catch_warnings(),
        np.errstate(all="ignore"),
        torch.random.fork_rng(devices=[]),
        torch.no_grad(),
    ):
        warnings.simplefilter("ignore")
        torch.set_num_threads(1)  # trials are small: waking a second thread takes longer than they do
        try:
            yield
        finally:
            torch.set_num_threads(threads)


class Trial:
    """A copy of a foreign layer, to be run on arrays.

    Args:
        module: the layer; it is not changed.
        dtype: what the copy's numbers, plain attributes included, and its inputs are cast to; None leaves the
            numbers as they are.
        training: the copy's mode.

    Raises:
        Unlike: it cannot be copied or cast.
    """

    def __init__(
        self, module: nn.Module, dtype: torch.dtype | None = torch.float64, *, training: bool = False
    ) -> None:
        try:
            self.layer = copied(module).cpu().train(training)
            if dtype is not None:
                self.layer.to(dtype)
            for part in self.layer.modules():
                for name, value in list(vars(part).items()):
                    if name not in ("_parameters", "_buffers", "_modules"):
                        part.__dict__[name] = _cast(value, dtype)
        except Exception as error:  # what the module holds decides what is raised
            raise Unlike(f"it cannot be tried ({first_line(error)})") from error

    def __call__(self, x: Array, dtype: torch.dtype = torch.float64) -> Array:
        """What the layer gives for x.

        Raises:
            Unlike: it fails, gives something else than a tensor like x, or overwrites x.
        """
        given = torch.from_numpy(x.copy()).to(dtype)
        before = given.clone()
        try:
            y = self.layer(given)
        except Exception as error:  # the forward is foreign code
            raise Unlike(f"its forward fails on a trial ({first_line(error)})") from error
        if type(y) is not Tensor or y.shape != given.shape or not y.is_floating_point():
            raise Unlike("its forward does not give one tensor of the shape of its input")
        result: Array = y.detach().double().numpy().copy()
        if not torch.equal(given, before):
            raise Unlike("its forward overwrites its input")
        return result

    def state(self) -> dict[str, object]:
        """What the copy holds, by value."""
        return state(self.layer)


def _cast(value: Any, dtype: torch.dtype | None) -> Any:
    """A plain attribute with its tensors on the CPU in `dtype`; nn.Module.to leaves it alone."""
    if isinstance(value, Tensor):
        plain = value.detach().cpu()
        return plain.to(dtype) if dtype is not None and plain.is_floating_point() else plain
    if type(value) in (list, tuple):
        return type(value)(_cast(item, dtype) for item in value)
    if type(value) is dict:
        return {key: _cast(item, dtype) for key, item in value.items()}
    return value


def trains(module: nn.Module, x: Array) -> bool:
    """Whether the layer takes x in training mode with grad on, and its numbers have their shapes afterwards.

    What it fails on there is nothing it was ever trained on.
    """
    trial = Trial(module, training=True)
    before = {name: array.shape for name, array in held(trial.layer).items()}
    try:
        with torch.enable_grad():
            trial(x)
        return {name: array.shape for name, array in held(trial.layer).items()} == before
    except Unlike:
        return False


class Arithmetic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of what runs inside, and sees the narrowest type that they give.

    One that would broadcast its operands to many times their size is stopped before it takes the memory: that
    is what vectors (1, C, 1, 1) make of an input (N, C).

    Attributes:
        operations: how many there were.
        eps: of the narrowest type; that of float64 at least.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = 0
        self.eps = float(torch.finfo(torch.float64).eps)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # nothing here is compiled, and to tell the compiler so would load all of it: seconds

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs `func` and looks at what it gives."""
        sizes = [value.shape for value in args if isinstance(value, Tensor)]
        with suppress(ValueError):  # not all operations broadcast
            if prod(np.broadcast_shapes(*sizes)) > _BLOW_UP * max([1, *map(prod, sizes)]):
                raise MemoryError("its forward blows its input up")
        given = func(*args, **(kwargs or {}))
        self.operations += 1
        for tensor in given if isinstance(given, (list, tuple)) else (given,):
            if isinstance(tensor, Tensor) and tensor.is_floating_point():
                self.eps = max(self.eps, float(torch.finfo(tensor.dtype).eps))
        return given
