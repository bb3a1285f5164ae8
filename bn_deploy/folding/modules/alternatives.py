"""What else a forward could be called with: other plain arguments, numbers and types, no batch."""

from __future__ import annotations

import copy
import enum
import inspect
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from types import CodeType, FunctionType
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bn_deploy.folding.modules.course import HANDED_OUT, Course, Inputs
from bn_deploy.folding.modules.resizing import Candidates


def other_arguments(network: nn.Module, inputs: Inputs) -> Iterator[Candidates]:
    """Every other value of a plain argument, and the inputs without each that may be left out."""
    args, kwargs = inputs

    def at(position: int, *values: Any) -> Inputs:
        return (*args[:position], *values, *args[position + 1 :]), kwargs

    functions = [type(network).forward, *_inner(network)]
    known = [c for function in functions for c in _constants(getattr(function, "__code__", None))]
    for position, value in enumerate(args):
        for group in _others(network, value, inputs, known):
            yield [at(position, other) for other in group]
    for name, value in kwargs.items():
        for group in _others(network, value, inputs, known):
            yield [(args, {**kwargs, name: other}) for other in group]
    for position, parameter in enumerate(_parameters(network)):
        name, default = parameter.name, parameter.default
        if parameter.kind is parameter.VAR_POSITIONAL and args:
            yield [at(len(args) - 1, args[-1], args[-1])]
            yield [at(len(args) - 1)] if len(args) > position else []
        if parameter.kind is parameter.VAR_KEYWORD:
            yield from _more_names(network, inputs, known)
        if default is parameter.empty:
            continue
        if position < len(args):
            yield [at(position, default)]
        elif name in kwargs:
            yield [(args, {**kwargs, name: default})]
        else:
            for group in _others(network, default, inputs, known):
                yield [(args, {**kwargs, name: other}) for other in group]


def _more_names(network: nn.Module, inputs: Inputs, known: list[Any]) -> Iterator[Candidates]:
    """Arguments of names that the network may know though it takes any."""
    args, kwargs = inputs
    names = [c for c in known if isinstance(c, str) and c.isidentifier() and c not in kwargs]
    yield from ([(args, {**kwargs, other: True})] for other in names[:_SOME])
    for inner in _inner_parameters(network, {*kwargs, *names}):
        for group in _others(network, inner.default, inputs, known):
            yield [(args, {**kwargs, inner.name: other}) for other in group]


def _parameters(network: nn.Module) -> list[inspect.Parameter]:
    return _parameters_of(network.forward)


def _parameters_of(function: Callable[..., Any]) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return []


def _inner(network: nn.Module) -> list[Callable[..., Any]]:
    """What a network may hand its arguments on to: its functions, and its children if it takes any."""
    held = [held for held in vars(network).values() if isinstance(held, FunctionType)]
    many = any(p.kind in (p.VAR_KEYWORD, p.VAR_POSITIONAL) for p in _parameters(network))
    return [*held, *(child.forward for child in network.children() if many)]


def _inner_parameters(network: nn.Module, but: set[str]) -> list[inspect.Parameter]:
    """The arguments that may be left out of what the network may hand its named arguments on to."""
    inner = _inner(network)
    found = {p.name: p for function in inner for p in _parameters_of(function) if p.default is not p.empty}
    return [parameter for name, parameter in found.items() if name not in but][:_SOME]


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
        return [_anything(inputs)]
    if isinstance(value, Mapping) or (hasattr(value, "__dict__") and not isinstance(value, _NO_RECORDS)):
        return _other_records(network, value, inputs, known)
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
    elif isinstance(value, (list, tuple)):
        kind: Callable[[Any], Any] = list if isinstance(value, list) else tuple
        items = [c for c in known if isinstance(c, (int, str))][:_SOME]
        found = [kind([*value, value[-1]]), kind(value[:-1])] if value else [kind([c]) for c in items]
    return [[other] for other in found]


def _anything(inputs: Inputs) -> list[Any]:
    """A switch, another input, a mask, as many numbers as there are examples, a name, a number."""
    first = next((leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)), None)
    if first is None:
        return [True, "", 1.0]
    many = [[1] * len(first), torch.ones(len(first)).long()] if first.dim() else []
    return [True, first, first > 0, *many, "", 1.0]


_NO_RECORDS = (enum.Enum, nn.Module, Tensor, type, FunctionType)


def _other_records(network: nn.Module, record: Any, inputs: Inputs, known: list[Any]) -> list[list[Any]]:
    """A mapping or object with other values, and a mapping with other keys that the forward names."""
    mapping = isinstance(record, Mapping)
    held = dict(record) if mapping else dict(vars(record))

    def changed(key: Any, value: Any) -> Any:
        if mapping:
            return {**held, key: value}
        other = copy.copy(record)
        other.__dict__[key] = value
        return other

    plain = [(key, value) for key, value in held.items() if isinstance(value, (*_PLAIN, type(None)))]
    groups = [(key, group) for key, value in plain for group in _others(network, value, inputs, known)]
    names = [c for c in known if isinstance(c, str) and c.isidentifier() and c not in held] if mapping else []
    groups += [(name, [*_anything(inputs)[1:], True]) for name in names[:_SOME]]
    return [[changed(key, other) for other in group] for key, group in groups]


_PLAIN = (bool, int, float, str, enum.Enum)

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


def other_types(main: Course) -> Iterator[Candidates]:
    """The inputs with numbers of other types, if the forward asks for the type."""
    leaves = [leaf for leaf in pytree.tree_leaves(main.given) if isinstance(leaf, Tensor)]
    for dtype in _TYPES if main.typed else ():
        if all(leaf.dtype is not dtype for leaf in leaves):
            yield [pytree.tree_map_only(Tensor, partial(_of_type, dtype=dtype), main.given)]


_TYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int64, torch.bool)


def _of_type(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype)


def without_batch(main: Course, inputs: Inputs) -> Candidates:
    """The inputs without axis 0, if the forward asks how many axes there are."""
    leaves = [leaf for leaf in pytree.tree_leaves(inputs) if isinstance(leaf, Tensor)]
    if not main.ranked or not leaves or not leaves[0].dim() or not len(leaves[0]):
        return []
    rank = leaves[0].dim()
    return [pytree.tree_map_only(Tensor, lambda t: t.detach()[0] if t.dim() == rank else t, inputs)]
