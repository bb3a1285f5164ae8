"""Sizes of tensors that notice when Python code compares them: a forward that asks may go two ways.

While a network is observed, `x.shape` and its like give numbers of this kind. Whatever is computed from them
asks as well. Each place in the code that asks can be told something else in another run.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Mapping
from itertools import pairwise
from types import FrameType
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from bn_deploy.folding.modules.course import Place


class Asker:
    """Answers questions, and notes where they are asked.

    Args:
        answers: what is told at some places, whatever is true.
        call: the module call that runs now.

    Attributes:
        questions: where questions were asked, with the other answers that are worth a run.
    """

    def __init__(self, answers: Mapping[Place, bool | float], call: Callable[[], object]) -> None:
        self.questions: dict[Place, set[bool | float]] = {}
        self._answers = answers
        self._call = call
        self._told: Counter[tuple[Place, int]] = Counter()

    def told(self, truth: bool | float, others: set[bool | float]) -> bool | float:
        """What the code that asks is told.

        Args:
            truth: the right answer.
            others: what it could be told instead.
        """
        place = _place()
        self.questions.setdefault(place, set()).update(others - {truth})
        asked = place, id(self._call())
        self._told[asked] += 1
        if place in self._answers and self._told[asked] <= _OFTEN:
            return self._answers[place]
        return truth

    def answer(self, truth: bool) -> bool:
        """What the code that asks for a truth about sizes is told; torch's own checks get the truth."""
        return truth if _is_torch_asking() else bool(self.told(truth, {True, False}))


_OFTEN = 8
"""How often one call of a module is told something else at one place: a loop would not end."""


def _place() -> Place:
    """The place in the forward of a module that asks now; torch's functions on the way there do not count."""
    found = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name != "_call_impl":
        if not _is_of(frame, _HERE, "torch"):
            found.append((frame.f_code.co_filename, frame.f_code.co_firstlineno, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


def numbers_in_code() -> set[int | float]:
    """The numbers that are written in the function that asks now, and those in their middle."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_of(frame, _HERE, "torch"):
        frame = frame.f_back
    constants: tuple[Any, ...] = () if frame is None else frame.f_code.co_consts
    found: list[Any] = sorted({constant for constant in constants if type(constant) in (int, float)})[:_SOME]
    return {*found, *((a + b) / 2 for a, b in pairwise(found))}


_SOME = 4
"""How many numbers of a function are tried as an answer."""


def _is_torch_asking() -> bool:
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and _is_of(frame, _HERE):
        frame = frame.f_back
    return frame is None or _is_of(frame, "torch")


def _is_of(frame: FrameType, *packages: str) -> bool:
    """Whether code is part of one of some packages."""
    return str(frame.f_globals.get("__name__")).partition(".")[0] in packages


_HERE = __name__.partition(".")[0]
"""Layers of this package stand for those of others, and know what they ask."""


class Number(int):
    """A size, or a whole number that was computed from sizes."""

    asker: Asker


class Real(float):
    """Another number that was computed from sizes."""

    asker: Asker


def watched(number: Any, asker: Asker) -> Any:
    """`number`, with `asker` to answer for it."""
    kind = {int: Number, float: Real}.get(type(number))
    if kind is None:
        return number
    found = kind(number)
    found.asker = asker
    return found


def _comparing(plain: Callable[..., Any]) -> Callable[..., Any]:
    def compare(self: Number | Real, *other: Any) -> Any:
        truth = plain(self, *other)
        return truth if truth is NotImplemented else self.asker.answer(truth)

    return compare


def _computing(plain: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self: Number | Real, *others: Any) -> Any:
        result = plain(self, *others)
        if isinstance(result, tuple):
            return tuple(watched(number, self.asker) for number in result)
        return watched(result, self.asker)

    return compute


for _kind, _base in ((Number, int), (Real, float)):
    for _name in ("__eq__", "__ge__", "__gt__", "__le__", "__lt__", "__ne__", "__bool__"):
        setattr(_kind, _name, _comparing(getattr(_base, _name)))
    for _name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "divmod", "pow"):
        for _side in (f"__{_name}__", f"__r{_name}__"):
            setattr(_kind, _side, _computing(getattr(_base, _side)))
    for _name in ("__abs__", "__neg__", "__round__", "__ceil__", "__floor__"):
        setattr(_kind, _name, _computing(getattr(_base, _name)))
    setattr(_kind, "__hash__", getattr(_base, "__hash__"))  # noqa: B009, B010 - gone with a new __eq__
for _name in ("and", "or", "xor", "rshift", "lshift"):
    for _side in (f"__{_name}__", f"__r{_name}__"):
        setattr(Number, _side, _computing(getattr(int, _side)))


_SHAPES = (Tensor.size, Tensor.stride, Tensor.numel, Tensor.nelement, torch.numel)
_GETTERS = (Tensor.shape, Tensor.nbytes)
_RANKS = (Tensor.dim, Tensor.ndimension)
_COUNTS = (Tensor.__len__,)
_HANDS_OUT = (Tensor.tolist, Tensor.numpy, Tensor.__array__, Tensor.data_ptr, Tensor.__dlpack__)


class Watch(TorchFunctionMode):
    """Gives such sizes for the tensors that depend on the inputs, and tells when numbers leave torch.

    Attributes:
        used: whether any was asked for.
        ranked: whether the number of axes was asked for.
    """

    def __init__(
        self, asker: Asker, depends: Callable[[Tensor], bool], hand_out: Callable[[Tensor], None]
    ) -> None:
        super().__init__()
        self._asker = asker
        self._depends = depends
        self._hand_out = hand_out
        self.used = False
        self.ranked = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        getter = getattr(func, "__self__", None)
        rank = func in _RANKS or getter is Tensor.ndim
        if func in _HANDS_OUT and self._depends(args[0]):
            self._hand_out(args[0])
        shown = rank or func in _SHAPES or getter in _GETTERS
        if not (shown or func in _COUNTS) or not self._depends(args[0]) or (rank and _is_torch_asking()):
            return result
        self.used |= not rank
        self.ranked |= rank
        if isinstance(result, torch.Size):
            return torch.Size([watched(size, self._asker) for size in result])
        if isinstance(result, tuple):
            return tuple(watched(size, self._asker) for size in result)
        return watched(result, self._asker) if shown else result
