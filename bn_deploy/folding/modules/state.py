"""What a network holds besides its parameters, and whether a pass of its forward has changed it."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

State = dict[str, object]
"""What the modules hold, by path."""


def contents(network: nn.Module) -> State:
    """The attributes of all modules, the items of those that are containers, and so on inside."""
    found: State = {}
    for path, module in network.named_modules():
        for name, value in vars(module).items():
            if name not in _HOOKS:
                found.update(_inside(f"{path}.{name}", value, _DEEP))
    return found


def _inside(name: str, value: Any, depth: int) -> Iterator[tuple[str, object]]:
    items: Iterator[tuple[object, object]] = iter(())
    if depth and isinstance(value, Mapping):
        items = iter(list(value.items()))
    elif depth and isinstance(value, (list, tuple, set, deque)):
        items = enumerate(list(value))
    elif depth and not isinstance(value, (nn.Module, Tensor, type)) and not callable(value):
        yield name, value
        items = iter(list(getattr(value, "__dict__", {}).items()))
    else:
        yield name, value
        return
    if isinstance(value, (Mapping, list, tuple, set, deque)):
        yield name, (type(value).__name__, len(value))  # another one with the same items is as good
    for key, item in items:
        yield from _inside(f"{name}.{key}", item, depth - 1)


_DEEP = 3
"""How far containers and objects inside others are looked into."""

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
