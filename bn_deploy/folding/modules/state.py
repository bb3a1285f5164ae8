"""What a network holds besides its parameters, and whether a pass of its forward has changed it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from operator import length_hint
from random import Random
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bn_deploy.folding.outcome import Refusal

State = dict[str, object]
"""What the modules hold, by path."""


def contents(network: nn.Module) -> State:
    """The attributes of all modules, the items of those that are containers, and so on inside."""
    found: State = {}
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if name not in _HOOKS:
                found.update(inside(f"{path}.{name}", value))
    return found


def inside(name: str, value: Any, depth: int = 3) -> Iterator[tuple[str, object]]:
    """What a value holds, its name first: the items of containers, the attributes of objects.

    Args:
        name: what it is called.
        value: anything.
        depth: how far containers and objects inside others are looked into.
    """
    items: Iterator[tuple[object, object]] = iter(())
    if value is None or isinstance(value, _SIMPLE):  # most are, and to ask for a Mapping takes long
        yield name, value
        return
    if depth and isinstance(value, Mapping):
        items = iter(list(value.items()))
    elif depth and isinstance(value, (list, tuple, set, deque)):
        items = enumerate(list(value))
    elif isinstance(value, _GENERATORS):
        yield name, _drawn(value)
    elif isinstance(value, np.ndarray) and value.dtype != object and value.nbytes <= _SMALL:
        yield name, value.tobytes()
    elif depth and not isinstance(value, _CLOSED):
        yield name, value
        if hasattr(value, "__next__"):
            yield f"{name} (what comes next)", _next(value)
        items = iter(list(_attributes(value).items()))
    else:
        yield name, value
        return
    if isinstance(value, (Mapping, list, tuple, set, deque)):
        yield name, (type(value).__name__, len(value))  # another one with the same items is as good
    for key, item in items:
        yield from inside(f"{name}.{key}", item, depth - 1)


def _attributes(value: Any) -> dict[str, object]:
    """The attributes of an object, also those without a dictionary."""
    slots = (name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ()))
    found = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return {**found, **getattr(value, "__dict__", {})}


def _next(iterator: Any) -> object:
    """What shows how far an iterator has come; something else each time if nothing does."""
    left, shown = length_hint(iterator, -1), repr(iterator)
    return object() if left < 0 and " object at " in shown else (left, shown)


_SIMPLE = (bool, int, float, str, Tensor)

_CLOSED = (nn.Module, Tensor, type, FunctionType, MethodType, BuiltinFunctionType)
"""What is not looked into."""

_GENERATORS = (Random, np.random.Generator, np.random.RandomState, torch.Generator)


def _drawn(generator: Any) -> str:
    """The state of a random generator."""
    if isinstance(generator, torch.Generator):
        return str(generator.get_state().tolist())
    if isinstance(generator, np.random.Generator):
        return str(generator.bit_generator.state)
    return str(generator.getstate() if isinstance(generator, Random) else generator.get_state(legacy=False))


_SMALL = 1 << 20
"""Of how many bytes arrays are compared."""

_HOOKS = frozenset(
    {
        "_forward_hooks",
        "_forward_hooks_always_called",
        "_forward_hooks_with_kwargs",
        "_forward_pre_hooks",
        "_forward_pre_hooks_with_kwargs",
    }
)


def changed(before: State, after: State) -> list[str]:
    """The names of what is not as before."""

    def same(name: str) -> bool:
        if name not in before or name not in after:
            return False
        old, new = before[name], after[name]
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            return old is new or _memory(old) == _memory(new)
        return old is new or (type(old) is type(new) and isinstance(old, _PLAIN) and old == new)

    return [name for name in sorted(before.keys() | after.keys()) if not same(name)]


def equal(before: State, after: State, names: list[str]) -> bool:
    """Whether all of these are tensors of the same numbers, made anew."""
    pairs = [(before.get(name), after.get(name)) for name in names]
    return all(
        isinstance(old, Tensor)
        and isinstance(new, Tensor)
        and (old.shape, old.dtype, old.layout, old.device) == (new.shape, new.dtype, new.layout, new.device)
        and old.layout is torch.strided
        and not old.is_meta
        and torch.equal(old, new)
        for old, new in pairs
    )


def _memory(tensor: Tensor) -> object:
    """Where a tensor lies: two that lie in the same place are one under two names."""
    strided = tensor.layout is torch.strided and tensor.device.type != "meta" and tensor.numel() > 0
    return (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype) if strided else id(tensor)


_PLAIN = (bool, int, float, str, complex, bytes, tuple, torch.dtype, torch.device)


def check_unwritten(original: nn.Module, observed: nn.Module) -> None:
    """Compares the parameters and buffers of a network with those of the copy that was run.

    Raises:
        Refusal: one was written to in a way that torch does not see, as through numpy.
    """
    held = dict((*observed.named_parameters(), *observed.named_buffers()))
    for name, tensor in (*original.named_parameters(), *original.named_buffers()):
        other = held.get(name)
        plain = tensor.layout is torch.strided and not tensor.is_meta and not tensor.is_quantized
        if plain and other is not None and not torch.equal(_bits(tensor), _bits(other)):
            raise Refusal(f"the forward writes to {name}, so that no two passes need be alike")


def _bits(tensor: Tensor) -> Tensor:
    """The bits of a tensor: NaN equals itself, and 0 differs from -0."""
    flat = tensor.detach().contiguous().reshape(-1)
    return flat.view(_WORDS.get(flat.element_size(), torch.uint8))


_WORDS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Whole numbers as long as others."""
