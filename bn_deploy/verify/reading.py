"""Reads dataclasses back from JSON, strictly: every field there, of its own type, and nothing else.

JSON has no infinity and no NaN; a number that was one is written as null and read as infinity.
"""

from __future__ import annotations

import math
import types
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, Union, cast, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_json(value: Any) -> Any:
    """A dataclass, or what it is made of, as JSON values."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_json(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: to_json(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [to_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def from_json(kind: type[T], value: Any) -> T:
    """The inverse of `to_json` for a dataclass.

    Raises:
        TypeError, KeyError: the value is not what `to_json` makes of one.
    """
    return cast(T, _read(kind, value))


def _read(kind: Any, value: Any) -> Any:
    if is_dataclass(kind):
        return _dataclass(cast(type, kind), value)
    if (several := _CONTAINERS.get(get_origin(kind))) is not None:
        return several(get_args(kind), value)
    if kind is Any:
        return value
    return math.inf if kind is float and value is None else _typed(kind, value)


def _optional(kinds: tuple[Any, ...], value: Any) -> Any:
    (inner,) = (kind for kind in kinds if kind is not type(None))
    return None if value is None else _read(inner, value)


_CONTAINERS: dict[Any, Callable[[tuple[Any, ...], Any], Any]] = {
    Union: _optional,
    types.UnionType: _optional,
    tuple: lambda kinds, value: tuple(_read(kinds[0], one) for one in _typed(list, value)),
    dict: lambda kinds, value: {key: _read(kinds[1], one) for key, one in _typed(dict, value).items()},
}


def _dataclass(kind: type, value: Any) -> Any:
    given = _typed(dict, value)
    hints = get_type_hints(kind)
    names = [f.name for f in fields(kind)]
    if unknown := set(given) - set(names):
        raise KeyError(f"{kind.__name__} has no {sorted(unknown)[0]}")
    return kind(**{name: _read(hints[name], given[name]) for name in names})


def _typed(kind: type[T], value: Any) -> T:
    """`value`, which must be exactly of type `kind`: JSON's true is no number."""
    if type(value) is not kind:
        raise TypeError(f"expected a {kind.__name__}, found a {type(value).__name__}")
    return value
