"""What the code of a network keeps outside its modules: global names, closures, defaults, classes.

A forward that counts its calls there takes another course some day. Copies of the network share these places,
so they are also put back.
"""

from __future__ import annotations

import copy
import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import nn

from bn_deploy.folding.modules.state import State, inside

_FOREIGN = ("bn_deploy", "torch", "numpy", "builtins")
"""Packages whose code is not looked into."""

Put = Callable[[Any], None]


def spaces_of(network: nn.Module) -> list[dict[str, Any]]:
    """The global names of the code of a network's modules, and of the functions that these hold."""
    held = (value for module in network.modules() for value in vars(module).values())
    functions = (function for value in held if (function := _function(value)) is not None)
    classes = {
        sys.modules.get(cls.__module__)
        for cls in {type(m) for m in network.modules()}
        if not _is_foreign(cls)
    }
    found = [vars(module) for module in classes if module is not None]
    found += [function.__globals__ for function in functions if not _is_foreign(function)]
    return list({id(space): space for space in found}.values())


class Outside:
    """The places outside a network that its code reaches.

    Args:
        network: whose code it is.
    """

    def __init__(self, network: nn.Module) -> None:
        self._places: dict[tuple[int, str], tuple[str, Callable[[], Any], Put]] = {}
        self._classes: set[type] = set()
        self._functions: dict[int, FunctionType] = {}
        for module in network.modules():
            self._add_class(type(module), ("forward",))
            for name in _HOOKS:
                for hook in getattr(module, name, {}).values():
                    self._follow(hook)
            for value in vars(module).values():
                self._follow(value)
        self._saved = [(get, put, get(), _copied(get())) for _, get, put in self._places.values()]

    def contents(self) -> State:
        """What is there now."""
        found: State = {}
        for name, get, _ in self._places.values():
            found.update(inside(name, get()))
        return found

    def restore(self) -> None:
        """Puts back what was there, and what was in it."""
        for get, put, value, held in self._saved:
            if get() is not value:
                put(value)
            if held is None or _items(value) == _items(held):
                continue
            value.clear()
            (value.update if isinstance(value, (dict, set)) else value.extend)(held)

    def _add_class(self, cls: type, names: Iterable[str]) -> None:
        """Follows some methods of a class, and notes what the class itself holds."""
        for base in cls.__mro__:
            if _is_foreign(base):
                continue
            for name in names:
                self._follow(vars(base).get(name), cls)
            if base not in self._classes:
                self._classes.add(base)
                for name, value in list(vars(base).items()):
                    if not name.startswith("__") and _is_kept(value):
                        self._note(f"{base.__name__}.{name}", base, name)

    def _follow(self, value: Any, cls: type | None = None) -> None:
        """Goes through the code of a function, and of those that it calls by name."""
        function = _function(value)
        if function is None or id(function) in self._functions or _is_foreign(function):
            return
        self._functions[id(function)] = function
        names = set(_names(function.__code__))
        for name in names & function.__globals__.keys():
            self._reach(f"the global {name}", function.__globals__[name], function.__globals__, name)
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                held = cell.cell_contents
            except ValueError:  # it is not filled yet
                continue
            self._reach(f"{name} in {function.__name__}", held, cell, "cell_contents")
        defaults: dict[Any, Any] = dict(enumerate(function.__defaults__ or ()))
        for owner in (defaults, function.__kwdefaults__ or {}, vars(function)):
            for name, held in list(owner.items()):
                self._reach(f"default or attribute {name} of {function.__name__}", held, owner, name)
        if cls is not None:
            self._add_class(cls, [name for base in cls.__mro__ for name in names & vars(base).keys()])

    def _reach(self, label: str, held: Any, owner: Any, name: Any) -> None:
        if isinstance(held, type):
            self._add_class(held, tuple(n for n, m in vars(held).items() if isinstance(m, FunctionType)))
        elif callable(held):
            self._follow(held)
            if _is_kept(held):
                self._add_class(type(held), ("__call__",))
                self._note(label, owner, name)
        elif _is_kept(held):
            self._note(label, owner, name)

    def _note(self, label: str, owner: Any, name: Any) -> None:
        key = (id(owner), str(name))
        if key in self._places:
            return
        if isinstance(owner, (dict, list)):
            self._places[key] = label, partial(owner.__getitem__, name), partial(owner.__setitem__, name)
        else:
            self._places[key] = label, partial(getattr, owner, name), partial(setattr, owner, name)


@contextmanager
def as_before(network: nn.Module) -> Iterator[None]:
    """Puts back what the forward of `network` may change outside, and what is global to Python and torch."""
    outside = Outside(network)
    drawn, numpy_drawn = random.getstate(), np.random.get_state()  # noqa: NPY002 - the forward's own
    dtype = torch.get_default_dtype()
    try:
        yield
    finally:
        outside.restore()
        torch.set_default_dtype(dtype)
        random.setstate(drawn)
        np.random.set_state(numpy_drawn)  # noqa: NPY002


_HOOKS = ("_forward_hooks", "_forward_pre_hooks")

_DATA = ("builtins", "collections", "itertools", "random", "types")
"""The modules of Python's own library whose objects are data."""


def _is_foreign(code: type | FunctionType) -> bool:
    package = str(code.__module__).partition(".")[0]
    return package in _FOREIGN or package in sys.stdlib_module_names


def _is_kept(value: Any) -> bool:
    """Whether it is a datum that a forward could change."""
    if isinstance(value, (type, nn.Module, FunctionType, MethodType, property, staticmethod, classmethod)):
        return False
    package = type(value).__module__.partition(".")[0]
    return not isinstance(value, ModuleType) and (package in _DATA or package not in sys.stdlib_module_names)


def _function(value: Any) -> FunctionType | None:
    """The function inside a partial, a method, a decorated or a cached one."""
    if value is None or isinstance(value, (bool, int, float, str, tuple, dict, nn.Module)):  # most are
        return None
    for _ in range(_DEEP):
        if isinstance(value, partial):
            value = value.func
        elif isinstance(value, (MethodType, staticmethod, classmethod)):
            value = value.__func__
        elif isinstance(value, property):
            value = value.fget
        elif isinstance(value, (FunctionType, nn.Module)) or not callable(value):
            break
        else:
            value = getattr(value, "__wrapped__", None)
    return value if isinstance(value, FunctionType) else None


_DEEP = 8


def _names(code: CodeType) -> Iterator[str]:
    """The global names and attributes that code uses, and the functions that it defines."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _copied(value: Any) -> Any:
    return copy.copy(value) if isinstance(value, (list, deque, dict, set)) else None


def _items(value: Any) -> list[int]:
    """What a container holds, by identity."""
    items = (*value, *value.values()) if isinstance(value, dict) else value
    return [id(item) for item in items]
