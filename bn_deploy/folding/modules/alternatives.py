"""What else a forward could be called with: other plain arguments, other numbers, other sizes, no batch."""

from __future__ import annotations

import enum
import inspect
from collections.abc import Callable, Iterator
from functools import partial
from math import prod
from types import CodeType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bn_deploy.folding.modules.course import HANDED_OUT, Course, Inputs

Candidates = list[Inputs]
"""Inputs of which the first that the network takes is run."""


def other_arguments(network: nn.Module, inputs: Inputs) -> Iterator[Candidates]:
    """Every other value of a plain argument, and the inputs without each that may be left out."""
    args, kwargs = inputs

    def at(position: int, *values: Any) -> Inputs:
        return (*args[:position], *values, *args[position + 1 :]), kwargs

    known = _constants(getattr(type(network).forward, "__code__", None))
    for position, value in enumerate(args):
        for group in _others(network, value, inputs, known):
            yield [at(position, other) for other in group]
    for name, value in kwargs.items():
        for group in _others(network, value, inputs, known):
            yield [(args, {**kwargs, name: other}) for other in group]
    for position, parameter in enumerate(_parameters(network)):
        name, default = parameter.name, parameter.default
        if parameter.kind is parameter.VAR_POSITIONAL and len(args) > position:
            yield [at(len(args) - 1)]
            yield [at(len(args) - 1, args[-1], args[-1])]
        if parameter.kind is parameter.VAR_KEYWORD:
            names = [c for c in known if isinstance(c, str) and c.isidentifier() and c not in kwargs]
            yield from ([(args, {**kwargs, other: True})] for other in names[:_SOME])
        if default is parameter.empty:
            continue
        if position < len(args):
            yield [at(position, default)]
        elif name in kwargs:
            yield [(args, {**kwargs, name: default})]
        else:
            for group in _others(network, default, inputs, known):
                yield [(args, {**kwargs, name: other}) for other in group]


def _parameters(network: nn.Module) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(network.forward).parameters.values())
    except (TypeError, ValueError):
        return []


def _others(network: nn.Module, value: Any, inputs: Inputs, known: list[Any]) -> list[list[Any]]:
    """What could stand in the place of a plain argument, in groups of which one is tried.

    Args:
        network: whose forward takes it.
        value: the argument.
        inputs: all arguments.
        known: the numbers and names that are written in the forward: it may compare it with them.
    """
    found: list[Any] = []
    written = [c for c in known if type(c) is type(value) and c != value][:_SOME]
    if value is None:
        first = next((leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)), None)
        # It may be a switch, another input, or a mask.
        return [[True, *([] if first is None else [first, first > 0])]]
    if isinstance(value, bool):
        found = [not value]
    elif isinstance(value, enum.Enum):
        found = [other for other in type(value) if other is not value]
    elif isinstance(value, int):
        found = sorted({0, 1, 2, 3, value + 1, *written} - {value})
    elif isinstance(value, float):
        found = [2 * value + 1, *written]
    elif isinstance(value, str):
        names = {key for m in network.modules() if isinstance(m, nn.ModuleDict) for key in m}
        found = sorted({*names, *written} - {value})
    elif isinstance(value, (list, tuple)) and value:
        kind: Callable[[Any], Any] = list if isinstance(value, list) else tuple
        found = [kind([*value, value[-1]]), kind(value[:-1])]
    return [[other] for other in found]


_SOME = 8
"""How many of the constants in the forward are tried."""


def _constants(code: CodeType | None) -> list[Any]:
    """The constants in a function and in those that it defines."""
    found: list[Any] = []
    for constant in () if code is None else code.co_consts:
        found += _constants(constant) if isinstance(constant, CodeType) else [constant]
    return found


def other_numbers(main: Course) -> Iterator[Candidates]:
    """Other numbers in the tensors, if the forward lets something depend on them that no question shows."""
    if any(op.name.startswith(_UNASKED) for op in main.ops):
        for factor in _FACTORS:
            yield [pytree.tree_map_only(Tensor, partial(_times, factor=factor), main.given)]


_FACTORS = (-1, 0, 1000)


def _times(tensor: Tensor, factor: int) -> Tensor:
    return tensor.detach() * factor if tensor.is_floating_point() else tensor


_UNASKED = (HANDED_OUT, "aten.nonzero", "aten.masked_select", "aten.unique", "aten._unique")
"""Operators that hand numbers to Python without a question, or make tensors of sizes that depend on them."""


def without_batch(main: Course, inputs: Inputs) -> Candidates:
    """The inputs without axis 0, if the forward asks how many axes there are."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not main.ranked or not leaves or not leaves[0].dim() or not len(leaves[0]):
        return []
    rank = leaves[0].dim()
    return [pytree.tree_map_only(Tensor, lambda t: t.detach()[0] if t.dim() == rank else t, inputs)]


def of_batch(inputs: Inputs, size: int) -> Inputs | None:
    """The inputs with another size of the batch, if there is one: an axis 0 that the first tensor shows."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor) and leaf.dim()]
    if not leaves or not len(leaves[0]):
        return None
    return _resized(inputs, 0, len(leaves[0]), size)


def other_sizes(main: Course) -> Iterator[Candidates]:
    """The inputs of a course with another size along one axis."""
    one = of_batch(main.given, 1)
    if one is not None:
        yield [one]
    if not main.sized:
        return
    shape = next(leaf for leaf in pytree.tree_leaves(main.given) if isinstance(leaf, Tensor)).shape
    for axis in range(1, len(shape)):
        # An odd size shows more, an even one is taken by networks that halve and double.
        yield [_resized(main.given, axis, shape[axis], 2 * shape[axis] + more) for more in (1, 0)]
    if prod(shape) <= _SMALL:  # what is told apart by size only is told apart at some of these
        many = of_batch(main.given, 2 * _FAR)
        yield [] if many is None else [many]
        for axis in range(1, len(shape)):
            yield [_resized(main.given, axis, shape[axis], _FAR * shape[axis])]
        places = main.given
        for axis in range(2, len(shape)):
            places = _resized(places, axis, shape[axis], _FAR * shape[axis])
        yield [places]


_FAR = 12
"""How many times as large the largest inputs are that are tried of a size."""

_SMALL = 1 << 11
"""Of how many numbers inputs may be that are enlarged so much: the run must not take long."""


def _resized(inputs: Inputs, axis: int, size: int, new: int) -> Inputs:
    """The inputs with every axis of that number and size made `new` long."""
    places = torch.arange(new) % size

    def resized(tensor: Tensor) -> Tensor:
        same = tensor.dim() > axis and tensor.shape[axis] == size
        return tensor.detach().index_select(axis, places.to(tensor.device)) if same else tensor.detach()

    found: Inputs = pytree.tree_map_only(Tensor, resized, inputs)
    return found
