"""Sizes of tensors that notice when Python code compares them: a forward that asks may go two ways.

While a network is observed, `x.shape` and `x.size()` give whole numbers of this kind. Whatever is computed
from them asks as well. Each place in the code that asks can be told the opposite in another run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bn_deploy.folding.modules.course import Place


class Asker:
    """Answers questions about sizes, and notes where they are asked.

    Args:
        opposite: the places that get the opposite of the truth, once in each call of a module.
        call: the module call that runs now.

    Attributes:
        places: where questions were asked.
    """

    def __init__(self, opposite: frozenset[Place], call: Callable[[], object]) -> None:
        self.opposite = opposite
        self.places: list[Place] = []
        self._call = call
        self._told: set[tuple[Place, int]] = set()

    def answer(self, truth: bool) -> bool:
        """What the code that asks is told."""
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
            frame = frame.f_back
        if str(frame.f_globals.get("__name__")).partition(".")[0] == "torch":
            return truth  # torch's own checks of its arguments
        place = frame.f_code.co_filename, frame.f_lineno
        if place not in self.places:
            self.places.append(place)
        told = place, id(self._call())
        if place in self.opposite and told not in self._told:
            self._told.add(told)  # only once: a loop would not end
            return not truth
        return truth


class Number(int):
    """A size, or what was computed from sizes."""

    asker: Asker

    @classmethod
    def of(cls, number: int, asker: Asker) -> Number:
        """`number`, for `asker` to answer for."""
        found = cls(number)
        found.asker = asker
        return found

    def __bool__(self) -> bool:
        return self.asker.answer(int(self) != 0)

    def __hash__(self) -> int:
        return hash(int(self))


def _comparing(name: str) -> Callable[[Number, Any], Any]:
    plain = getattr(int, name)

    def compare(self: Number, other: Any) -> Any:
        truth = plain(self, other)
        return truth if truth is NotImplemented else self.asker.answer(truth)

    return compare


def _computing(name: str) -> Callable[..., Any]:
    plain = getattr(int, name)

    def compute(self: Number, *others: Any) -> Any:
        result = plain(self, *others)
        return Number.of(result, self.asker) if type(result) is int else result

    return compute


for _name in ("__eq__", "__ge__", "__gt__", "__le__", "__lt__", "__ne__"):
    setattr(Number, _name, _comparing(_name))
for _name in ("add", "sub", "mul", "floordiv", "mod", "and", "rshift", "lshift"):
    setattr(Number, f"__{_name}__", _computing(f"__{_name}__"))
    setattr(Number, f"__r{_name}__", _computing(f"__r{_name}__"))
for _name in ("__abs__", "__neg__"):
    setattr(Number, _name, _computing(_name))


_COUNTS = (Tensor.numel, Tensor.nelement, Tensor.__len__, Tensor.stride, torch.numel)


class Watch(TorchFunctionMode):
    """Gives such sizes for the tensors that depend on the inputs.

    Attributes:
        used: whether any was asked for.
    """

    def __init__(self, asker: Asker, depends: Callable[[Tensor], bool]) -> None:
        super().__init__()
        self._asker = asker
        self._depends = depends
        self.used = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        shown = func is Tensor.size or getattr(func, "__self__", None) is Tensor.shape
        if not (shown or func in _COUNTS) or not self._depends(args[0]):
            return result
        self.used = True
        if not shown:
            return result
        if isinstance(result, torch.Size):
            return torch.Size([Number.of(size, self._asker) for size in result])
        return Number.of(result, self._asker)
