"""The numbers that are written in a layer's code or beside it: sizes at which it may do something else."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from types import CodeType, FunctionType
from typing import Any

from torch import nn

_NN_MODULE = vars(nn.Module())


def whole_numbers(constants: Iterable[Any]) -> Iterator[int]:
    """The whole numbers among constants, also those inside texts and collections."""
    for constant in constants:
        if isinstance(constant, (tuple, list, set, frozenset)):
            yield from whole_numbers(constant)
        elif isinstance(constant, dict):
            yield from whole_numbers((*constant, *constant.values()))
        elif isinstance(constant, str):
            yield from map(int, re.findall(r"\d{1,4}", constant))
        elif (
            isinstance(constant, (int, float))
            and not isinstance(constant, bool)
            and constant == constant // 1
        ):
            yield int(constant)


def numbers_about(module: nn.Module) -> set[int]:
    """The whole numbers in the forward of `module`, in what it calls by name, and in its plain attributes."""
    plain = [value for name, value in vars(module).items() if name not in _NN_MODULE]
    found = set(whole_numbers(plain))
    waiting: list[Any] = [module.forward, *plain]
    seen: set[CodeType] = set()
    while waiting:
        function = waiting.pop()
        function = getattr(function, "__func__", function)  # a method's
        if not isinstance(function, FunctionType) or function.__code__ in seen:
            continue
        cells = [cell.cell_contents for cell in function.__closure__ or () if _is_full(cell)]
        found |= set(whole_numbers([*(function.__defaults__ or ()), *cells]))
        waiting += cells
        for code in _nested(function.__code__):
            seen.add(code)
            found |= set(whole_numbers(code.co_consts))
            for name in code.co_names:
                value = function.__globals__.get(name, getattr(type(module), name, None))
                found |= set(whole_numbers([value]))
                if not str(getattr(value, "__module__", "torch")).startswith("torch"):
                    waiting.append(value)
    return found


def _nested(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _nested(constant)


def _is_full(cell: Any) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - an empty one raises
    except ValueError:
        return False
    return True
