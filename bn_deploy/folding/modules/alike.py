"""Whether two courses are one, but for the sizes of their tensors, and what that says about the sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from bn_deploy.folding.modules.course import Call, Constant, Course, Op, Value

VARIES = "varies"
"""Stands for a number in an operator's arguments that depends on the sizes of the inputs."""


def alike(main: Course, other: Course) -> bool:
    """Whether two courses are the same operators on the same values, whatever their sizes."""
    if len(main.ops) != len(other.ops) or len(main.inputs) != len(other.inputs):
        return False
    pairs = _pairs(main, other, len(main.ops))
    return pairs is not None and {pairs[value] for value in main.seen if value in pairs} == other.seen


def _pairs(main: Course, other: Course, end: int) -> dict[Value, Value] | None:
    """The values of `other` that are those of `main` after so many operators, if these are the same."""
    pairs: dict[Value, Value] = dict(zip(main.inputs, other.inputs, strict=True))
    for ours, theirs in zip(main.ops[:end], other.ops[:end], strict=True):
        if (ours.name, ours.call.path) != (theirs.name, theirs.call.path):
            return None
        if not _same(ours.arguments, theirs.arguments, pairs):
            return None
        if [_kind(value) for value in ours.outputs] != [_kind(value) for value in theirs.outputs]:
            return None
        pairs |= {a: b for a, b in zip(ours.outputs, theirs.outputs, strict=True) if a and b}
    return pairs


def alike_until(main: Course, other: Course) -> int | None:
    """After how many operators two courses differ only where nothing decides what can be folded.

    That is after the last operator that holds numbers of the network, if the other course uses there nothing
    of before that `main` does not use as well. None if they differ otherwise, too.
    """
    end = _end(main)
    if other.broken or len(main.inputs) != len(other.inputs) or end != _end(other):
        return None
    pairs = _pairs(main, other, end)
    if pairs is None:
        return None
    twins: dict[object, Value] = {theirs: ours for ours, theirs in pairs.items()}
    also = {twins[value] for value in _used(other, end) if value in twins}
    return end if also <= _used(main, end) else None


def _end(course: Course) -> int:
    """The number of operators up to the last that holds numbers, or is part of a layer with a batch norm."""
    norms = {op.call for op in course.ops if op.name.startswith("aten.batch_norm")}
    return max((n for n, op in enumerate(course.ops, 1) if _decides(op, norms)), default=0)


def _decides(op: Op, norms: set[Call]) -> bool:
    return any(map(_is_held, op.inputs)) or any(op.call.within(call) for call in norms)


def _is_held(given: Value | Constant) -> bool:
    if not isinstance(given, Constant):
        return False
    return bool(given.slots) or (given.tensor.is_floating_point() and given.tensor.numel() > 1)


def _used(course: Course, end: int) -> set[Value | Constant]:
    """What is used after an operator, or returned."""
    return {given for op in course.ops[end:] for given in op.inputs} | set(course.seen)


def _kind(value: Value | None) -> tuple[int, torch.dtype] | None:
    """What has to be the same at every size."""
    return None if value is None else (len(value.shape), value.dtype)


_SIZED = frozenset(
    {"end", "length", "output_size", "pad", "repeats", "scale_factors", "shape", "size", "sizes"}
    | {"split_size", "split_sizes", "start", "other", "value"}
)
"""The arguments of operators that may hold sizes, which depend on those of the inputs."""


def _same(ours: Any, theirs: Any, pairs: dict[Value, Value], *, sized: bool = True) -> bool:
    """Whether two arguments are the same but for sizes."""
    if isinstance(ours, Value):
        return pairs.get(ours) is theirs
    if isinstance(ours, Constant):
        return isinstance(theirs, Constant) and ours.slots == theirs.slots
    if isinstance(ours, (tuple, list)):
        alike = isinstance(theirs, (tuple, list)) and len(ours) == len(theirs)
        return alike and all(_same(a, b, pairs, sized=sized) for a, b in zip(ours, theirs, strict=True))
    if isinstance(ours, dict):
        return ours.keys() == theirs.keys() and all(
            _same(ours[key], theirs[key], pairs, sized=key in _SIZED) for key in ours
        )
    if isinstance(ours, bool) or not isinstance(ours, (int, float)) or not sized:
        return bool(ours == theirs)
    return isinstance(theirs, (int, float))


def name_sizes(main: Course, others: Sequence[Course], end: int | None = None) -> None:
    """Gives every size and number of `main` that is another one in one of `others` a name, or marks it.

    Args:
        main: a course.
        others: courses that are like it.
        end: after how many operators they are not any more; None for never.
    """
    courses = (main, *others)
    inputs = zip(*(course.inputs for course in courses), strict=False)  # `main` may have some more by now
    made = zip(*(_made(course, end) for course in courses), strict=True)
    for value, *twins in [*inputs, *made]:
        value.shape = tuple(map(_name, zip(value.shape, *(twin.shape for twin in twins), strict=True)))
    for ours, *theirs in zip(*(course.ops[:end] for course in courses), strict=True):
        ours.arguments = _marked(main, ours.arguments, [op.arguments for op in theirs])


def _name(sizes: tuple[int | str, ...]) -> int | str:
    """What stands for a size that is one of these."""
    known = str(sizes[0]).split(" or ")
    others = [str(size) for size in sizes[1:]]
    return sizes[0] if set(others) <= set(known) else " or ".join([*known, *others])


def _made(course: Course, end: int | None) -> Iterator[Value]:
    for op in course.ops[:end]:
        yield from (value for value in op.outputs if value is not None)


def _marked(course: Course, ours: Any, theirs: Sequence[Any]) -> Any:
    """`ours`, with a mark for each number, and a value of its own for each constant, that differ."""
    if isinstance(ours, Constant):
        if ours.slots or all(_equal(ours.tensor, other.tensor) for other in theirs):
            return ours
        shapes = zip(ours.tensor.shape, *(other.tensor.shape for other in theirs), strict=False)
        unknown = Value(tuple(map(_name, shapes)), ours.tensor.dtype)
        course.inputs.append(unknown)
        return unknown
    if isinstance(ours, (tuple, list)):
        return type(ours)(_marked(course, a, b) for a, *b in zip(ours, *theirs, strict=True))
    if isinstance(ours, dict):
        return {key: _marked(course, ours[key], [other[key] for other in theirs]) for key in ours}
    if isinstance(ours, (int, float)) and any(other != ours for other in theirs):
        return VARIES
    return ours


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a is b or (a.shape == b.shape and torch.equal(a, b))
