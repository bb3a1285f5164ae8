"""Sizes of tensors that notice when Python code compares them: a forward that asks may go two ways.

While a network is observed, `x.shape` and its like give numbers of this kind. Whatever is computed from them
asks as well. Each place in the code that asks can be told something else in another run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from bn_deploy.folding.modules.course import Place
from bn_deploy.folding.modules.places import is_thrown_away, is_torch_asking, place


class Asker:
    """Answers questions, and notes where they are asked.

    Args:
        answers: what is told at some places, whatever is true.
        call: the module call that runs now.

    Attributes:
        questions: where questions were asked, with the other answers that are worth a run.
        lost: the sizes of which no one sees what depends on them, each with how it was lost.
        numbers: the whole numbers in the code that computes with sizes: it may compare them with these.
        unknown: what else was asked for that no run can vary, if anything was.
        lied: whether anything was told that is not true.
    """

    def __init__(self, answers: Mapping[Place, bool | float], call: Callable[[], object]) -> None:
        self.questions: dict[Place, set[bool | float]] = {}
        self.lost: list[tuple[str, float]] = []
        self.numbers: set[int] = set()
        self.unknown: str | None = None
        self.lied = False
        self._answers = answers
        self._call = call
        self._told: Counter[tuple[Place, int]] = Counter()

    def told(
        self, truth: bool | float, others: set[bool | float], where: Place | None = None
    ) -> bool | float:
        """What the code that asks is told.

        Args:
            truth: the right answer.
            others: what it could be told instead.
            where: the place; None for the one that asks now.
        """
        where = place() if where is None else where
        self.questions.setdefault(where, set()).update(others - {truth})
        asked = where, id(self._call())
        self._told[asked] += 1
        if where in self._answers and (is_setting(where) or self._told[asked] <= _OFTEN):
            self.lied |= self._answers[where] != truth
            return self._answers[where]
        return truth

    def answer(self, truth: bool) -> bool:
        """What the code that asks for a truth about sizes is told; torch's own checks get the truth."""
        return truth if is_torch_asking() else bool(self.told(truth, {True, False}))

    def lose(self, number: float, how: str) -> None:
        """Notes that a size goes where no one sees what depends on it."""
        if not is_torch_asking():
            self.lost.append((how, number))


_OFTEN = 8
"""How often one call of a module is told something else at one place: a loop would not end."""


def is_setting(where: Place) -> bool:
    """Whether a question is about what is set for all of torch, and so has one answer everywhere."""
    return len(where) == 1 and where[0][1] == 0


class Number(int):
    """A size, or a whole number that was computed from sizes."""

    asker: Asker


class Rank(Number):
    """A number of axes, or what was computed from it: there are few of them, which are tried."""


class Real(float):
    """Another number that was computed from sizes."""

    asker: Asker


def watched(number: Any, asker: Asker, like: object = None) -> Any:
    """`number`, with `asker` to answer for it, of the kind of the number that it was computed from."""
    kind: Any = {int: Rank if isinstance(like, Rank) else Number, float: Real}.get(type(number))
    if kind is None:
        return number
    found = kind(number)
    found.asker = asker
    return found


def _comparing(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    def compare(self: Number | Real, *other: Any) -> Any:
        truth = plain(self, *other)
        if truth is NotImplemented and isinstance(other[0], float):  # it would not ask
            truth = getattr(float, name)(int.__float__(self), *other)  # type: ignore[arg-type]
        return truth if truth is NotImplemented else self.asker.answer(truth)

    return compare


def _computing(plain: Callable[..., Any]) -> Callable[..., Any]:
    def compute(self: Number | Real, *others: Any) -> Any:
        result = plain(self, *others)
        if isinstance(result, tuple):
            return tuple(watched(number, self.asker, self) for number in result)
        return watched(result, self.asker, self)

    return compute


def _losing(plain: Callable[..., Any], how: str, *, told: bool) -> Callable[..., Any]:
    """What makes something of a size that asks no more; `told`: unless that is only told to someone."""

    def lose(self: Number | Real, *others: Any) -> Any:
        if not isinstance(self, Rank) and not (told and is_thrown_away()):
            self.asker.lose(self, how)
        return plain(self, *others)

    return lose


for _kind, _base in ((Number, int), (Real, float)):
    for _name in ("__eq__", "__ge__", "__gt__", "__le__", "__lt__", "__ne__", "__bool__"):
        setattr(_kind, _name, _comparing(_name, getattr(_base, _name)))
    for _name in ("add", "sub", "mul", "floordiv", "truediv", "mod", "divmod", "pow"):
        for _side in (f"__{_name}__", f"__r{_name}__"):
            setattr(_kind, _side, _computing(getattr(_base, _side)))
    for _name in ("__abs__", "__neg__", "__round__", "__ceil__", "__floor__"):
        setattr(_kind, _name, _computing(getattr(_base, _name)))
    for _name in ("__hash__",):
        setattr(_kind, _name, _losing(getattr(_base, _name), "looks it up in a table", told=False))
    for _name in ("__format__", "__repr__", "__str__"):
        setattr(_kind, _name, _losing(getattr(_base, _name), "writes it into a text", told=True))
for _name in ("and", "or", "xor", "rshift", "lshift"):
    for _side in (f"__{_name}__", f"__r{_name}__"):
        setattr(Number, _side, _computing(getattr(int, _side)))
