"""A torch network as the list of operators that it runs: what the rounding model is applied to.

The network is run on an example and every operator below autograd is noted, so that any forward that torch
can run is followed, however it is written. It is run for two batch sizes: what differs between the two is the
batch size, and the rest is the program.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from bn_deploy.errors import ModelError, first_line

PRODUCTS: dict[str, tuple[int, int]] = {"convolution": (0, 1), "addmm": (1, 2), "mm": (0, 1), "bmm": (0, 1)}
"""Operators that sum products, and which of their arguments are multiplied."""

_EXAMPLE_ROWS = (2, 3)


class _Rows:
    """Stands for the batch size among the arguments of an operator."""


_ROWS = _Rows()


@dataclass(frozen=True, eq=False)
class Slot:
    """Stands for a tensor of a program: the input, a constant or a result, of that shape in the example."""

    shape: tuple[int, ...]


@dataclass(frozen=True)
class Step:
    """One operator of a program.

    Attributes:
        op: the operator's name in torch's library, such as "convolution".
        function: the operator.
        args, kwargs: its arguments, with slots in place of tensors.
        results: what it gives; most give one.
        follows: whether its result depends on the network's input.
    """

    op: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[Slot, ...]
    follows: bool

    def bind(self, values: Mapping[Slot, Tensor], rows: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments with the results themselves, for a batch of `rows`."""

        def filled(one: Any) -> Any:
            if isinstance(one, (list, tuple)):
                return [filled(inner) for inner in one]
            if isinstance(one, Slot):
                return values[one]
            return rows if isinstance(one, _Rows) else one

        return tuple(map(filled, self.args)), {name: filled(one) for name, one in self.kwargs.items()}

    def run(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, ...]:
        """What it gives for these arguments, one tensor for each of `results`."""
        out = self.function(*args, **kwargs)
        return tuple(out) if isinstance(out, (tuple, list)) else (out,)


@dataclass(frozen=True)
class Program:
    """What a network does to a batch.

    Attributes:
        source: the input.
        constants: parameters and buffers.
        steps: the operators in order.
        result: the output.
    """

    source: Slot
    constants: Mapping[Slot, Tensor]
    steps: tuple[Step, ...]
    result: Slot


def capture(network: nn.Module, shape: tuple[int, ...]) -> Program:
    """Follows `network`, which has one input and one output.

    Args:
        network: in eval mode.
        shape: of one image; the batch is the axis before it.

    Raises:
        ModelError: it cannot be followed, or a result that depends on the input has its batch axis elsewhere
            than first: then nothing tells which of its numbers belong to which image.
    """
    program, other = (_observed(network, (rows, *shape)) for rows in _EXAMPLE_ROWS)
    if [step.op for step in program.steps] != [step.op for step in other.steps]:
        raise ModelError("the network does something else for another batch size")
    steps = []
    read = {program.result, *_slots([one.args for one in program.steps])}
    for step, theirs in zip(program.steps, other.steps, strict=True):
        for slot, twin in zip(step.results, theirs.results, strict=True):
            if step.follows and slot in read and twin.shape != (_EXAMPLE_ROWS[1], *slot.shape[1:]):
                raise ModelError(f"{step.op} moves the batch away from the first axis")
        args = tuple(_common(a, b, step.op) for a, b in zip(step.args, theirs.args, strict=True))
        kwargs = {name: _common(one, theirs.kwargs[name], step.op) for name, one in step.kwargs.items()}
        steps.append(replace(step, args=args, kwargs=kwargs))
    return replace(program, steps=tuple(steps))


def _common(one: Any, other: Any, op: str) -> Any:
    """An argument of both examples; where they differ by the batch size, what stands for it."""
    if isinstance(one, (list, tuple)):
        return [_common(a, b, op) for a, b in zip(one, other, strict=True)]
    if isinstance(one, Slot) or one == other:
        return one
    if (one, other) == _EXAMPLE_ROWS:
        return _ROWS
    raise ModelError(f"{op} computes with the batch size")


class _Observer(TorchDispatchMode):
    """Notes each operator that runs, with slots in place of tensors."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch's
        self.steps: list[Step] = []
        self.constants: dict[Slot, Tensor] = {}
        self.follows: set[Slot] = set()
        self._slots: dict[int, Slot] = {}
        self._alive: list[Tensor] = []  # an address must not be given to another tensor meanwhile

    def made(self, tensor: Tensor) -> Slot:
        """A new slot for a tensor."""
        self._alive.append(tensor)
        slot = self._slots[id(tensor)] = Slot(tuple(tensor.shape))
        return slot

    def slot(self, one: Any) -> Any:
        """An argument with the slots of its tensors; a tensor that nothing made is a constant."""
        if isinstance(one, (list, tuple)):
            return [self.slot(inner) for inner in one]
        if not isinstance(one, Tensor):
            return one
        if id(one) not in self._slots:
            self.constants[self.made(one)] = one.detach()
        return self._slots[id(one)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given, named = (
            tuple(self.slot(one) for one in args),
            {k: self.slot(v) for k, v in (kwargs or {}).items()},
        )
        out = func(*args, **(kwargs or {}))
        results = tuple(self.made(one) for one in (out if isinstance(out, (tuple, list)) else [out]))
        follows = any(slot in self.follows for slot in _slots([*given, *named.values()]))
        self.follows.update(results if follows else ())
        op = func.__name__.split(".")[0]
        self.steps.append(Step(op, func, given, named, results, follows))
        return out


def _slots(value: Any) -> Iterator[Slot]:
    for one in value:
        if isinstance(one, (list, tuple)):
            yield from _slots(one)
        elif isinstance(one, Slot):
            yield one


def _observed(network: nn.Module, shape: tuple[int, ...]) -> Program:
    kinds = {p.dtype for p in network.parameters() if p.is_floating_point()} or {torch.float64}
    example = torch.zeros(shape, dtype=kinds.pop())
    # What changes a tensor in place is replaced by what makes a new one: every result keeps its value.
    pure = torch.func.functionalize(network, remove="mutations")
    try:
        with torch.no_grad(), _Observer() as observer:
            source = observer.made(example)
            observer.follows.add(source)
            result = pure(example)
    except Exception as error:  # a forward is foreign code
        raise ModelError(f"the network cannot be followed: {first_line(error)}") from error
    if isinstance(result, (tuple, list)) and len(result) == 1:
        result = result[0]
    if not isinstance(result, Tensor):
        raise ModelError("only a network with one input and one output can be followed")
    wanted = {observer.slot(result)}
    needed: list[Step] = []
    for step in reversed(observer.steps):
        if wanted & set(step.results):
            needed.append(step)
            wanted |= set(_slots([*step.args, *step.kwargs.values()]))
    constants = {slot: value for slot, value in observer.constants.items() if slot in wanted}
    return Program(source, constants, tuple(reversed(needed)), observer.slot(result))
