"""The unfolded network run again: in float64, in narrower numbers, and with its roundings drawn at random.

Each function returns what takes images (n, ...) as they are fed to the network and gives logits (n, classes).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bn_deploy.backends.base import Array
from bn_deploy.verify.evidence import Reference
from bn_deploy.verify.perturb import perturbed
from bn_deploy.verify.program import PRODUCTS, Program, Slot, capture
from bn_deploy.verify.tolerance import NumberClass

Cut = Callable[[object, int | None], object]
"""Makes an operand of a product coarser, given the axis of its output channels, None for activations."""

DRAWS = 8
"""How many runs with drawn roundings: the farthest of eight is seldom a lucky one."""

_TF32_MASK = -1 << 13  # all but the 13 bits of float32's fraction that TF32 does not have


def in_float64(network: nn.Module) -> Reference:
    """The network's own computation in float64."""
    return _eager(network, torch.float64)


def in_class(network: nn.Module, numbers: NumberClass, shape: tuple[int, ...]) -> Reference:
    """The network in another class of numbers, on the CPU.

    TF32 is float32 whose products take operands cut to 11 bits, as NVIDIA's tensor cores do (PTX ISA, mma:
    the lower 13 bits of a .tf32 operand are ignored). int8 is float32 whose products take operands of 255
    levels: of the largest magnitude in the batch for activations, in each output channel for weights.

    Args:
        network: in float32.
        numbers: one of tolerance.CLASSES.
        shape: of one image.

    Raises:
        ModelError: TF32 or int8 is asked for and the network cannot be followed.
    """
    if (cut := _cut_of(numbers)) is not None:
        return _Cut(network, shape, cut)
    kinds = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
    return _eager(network, kinds[numbers.name])


def _eager(network: nn.Module, kind: torch.dtype) -> Reference:
    copied = _frozen(network, kind).eval()

    def run(images: Array) -> Array:
        with torch.no_grad():
            logits = copied(torch.from_numpy(np.ascontiguousarray(images)).to(kind))
        return np.asarray(logits.double().numpy())

    return run


def drawn(network: nn.Module, numbers: NumberClass, shape: tuple[int, ...]) -> tuple[Reference, ...]:
    """DRAWS runs with roundings of that class drawn at random; always the same ones.

    Raises:
        ModelError: the network cannot be followed.
    """
    program = capture(_frozen(network, torch.float64), shape)
    return tuple(_Drawn(program, numbers, seed) for seed in range(DRAWS))


def _frozen(network: nn.Module, kind: torch.dtype) -> nn.Module:
    return copy.deepcopy(network).to(kind).requires_grad_(requires_grad=False)


class _Drawn:
    """One run with drawn roundings. Those of the parameters are the same for every batch."""

    def __init__(self, program: Program, numbers: NumberClass, seed: int) -> None:
        self._program, self._numbers, self._seed = program, numbers, seed

    def __call__(self, images: Array) -> Array:
        generator = torch.Generator().manual_seed(self._seed)
        batch = torch.from_numpy(np.asarray(images, np.float64))
        logits = perturbed(self._program, batch, self._numbers, generator)
        return np.asarray(logits.numpy())


class _Cut:
    """A network whose products take coarser operands.

    Args:
        network: in float32.
        shape: of one image.
        cut: makes one operand coarser; the axis is that of the output channels, None for activations.
    """

    def __init__(self, network: nn.Module, shape: tuple[int, ...], cut: Cut) -> None:
        self._program, self._cut = capture(_frozen(network, torch.float32), shape), cut

    def __call__(self, images: Array) -> Array:
        program = self._program
        values: dict[Slot, Tensor] = {program.source: torch.from_numpy(np.array(images, np.float32))}
        values |= program.constants
        with torch.no_grad():
            for step in program.steps:
                args, kwargs = step.bind(values, len(images))
                args = _coarser(step.op, args, self._cut)
                values.update(zip(step.results, step.run(args, kwargs), strict=True))
        return np.asarray(values[program.result].double().numpy())


@contextmanager
def operands(numbers: NumberClass) -> Iterator[None]:
    """Inside, whatever torch runs in float32 has its products take the operands of that class.

    It is what `in_class` does to a network that was followed, here for one whose layers are watched while it
    runs. In classes that torch computes in itself nothing is changed.
    """
    cut = _cut_of(numbers)
    if cut is None:
        yield
        return
    with _Coarser(cut):
        yield


class _Coarser(TorchDispatchMode):
    """Makes the operands of every product coarser."""

    def __init__(self, cut: Cut) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self._cut = cut

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return func(*_coarser(func.overloadpacket.__name__, args, self._cut), **(kwargs or {}))


def _cut_of(numbers: NumberClass) -> Cut | None:
    """What makes an operand coarser in a class that torch does not compute in; None where it does."""
    if numbers.fixed_steps:
        return _stepped
    return _cut if numbers.name == "tf32" else None


def _coarser(op: str, args: tuple[Any, ...], cut: Cut) -> tuple[Any, ...]:
    """The arguments of an operator, with those that it multiplies made coarser."""
    if op not in PRODUCTS:
        return args
    axes = dict(zip(PRODUCTS[op], (None, _channels(op, args)), strict=True))
    return tuple(cut(one, axes[place]) if place in axes else one for place, one in enumerate(args))


def _channels(op: str, args: tuple[object, ...]) -> int | None:
    """The axis of a product's second operand that its output channels lie on; None if that is no weight."""
    if op == "convolution":
        return int(bool(args[6]))  # whether it is transposed
    return None if op == "bmm" else 1


def _stepped(value: object, axis: int | None) -> object:
    """Numbers on 127 equal steps to each side of zero."""
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return value
    rest = [other for other in range(value.dim()) if other != axis]
    step = value.abs().amax(dim=rest, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny) / 127
    return (value / step).round_() * step


def _cut(value: object, _: int | None) -> object:
    if not isinstance(value, Tensor) or value.dtype != torch.float32:
        return value
    return (value.contiguous().view(torch.int32) & _TF32_MASK).view(torch.float32)
