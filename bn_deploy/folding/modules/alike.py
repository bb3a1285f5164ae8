"""Whether two courses are one, but for the sizes of their tensors, and what that says about the sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from bn_deploy.folding.modules.course import Constant, Course, Value

VARIES = "varies"
"""Stands for a number in an operator's arguments that depends on the sizes of the inputs."""


def alike(main: Course, other: Course) -> bool:
    """Whether two courses are the same operators on the same values, whatever their sizes."""
    if len(main.ops) != len(other.ops) or len(main.inputs) != len(other.inputs):
        return False
    pairs: dict[Value, Value] = dict(zip(main.inputs, other.inputs, strict=True))
    for ours, theirs in zip(main.ops, other.ops, strict=True):
        if (ours.name, ours.call.path) != (theirs.name, theirs.call.path):
            return False
        if not _same(ours.arguments, theirs.arguments, pairs):
            return False
        if [_kind(value) for value in ours.outputs] != [_kind(value) for value in theirs.outputs]:
            return False
        pairs |= {a: b for a, b in zip(ours.outputs, theirs.outputs, strict=True) if a and b}
    return {pairs[value] for value in main.seen if value in pairs} == other.seen


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


def name_sizes(main: Course, others: Sequence[Course]) -> None:
    """Gives every size and number of `main` that is another one in one of `others` a name, or marks it."""
    for value, *twins in list(zip(_values(main), *map(_values, others), strict=True)):
        value.shape = tuple(map(_name, zip(value.shape, *(twin.shape for twin in twins), strict=True)))
    for ours, *theirs in zip(main.ops, *(other.ops for other in others), strict=True):
        ours.arguments = _marked(main, ours.arguments, [op.arguments for op in theirs])


def _name(sizes: tuple[int | str, ...]) -> int | str:
    """What stands for a size that is one of these."""
    return sizes[0] if len(set(sizes)) == 1 else " or ".join(map(str, sizes))


def _values(course: Course) -> Iterator[Value]:
    yield from course.inputs
    for op in course.ops:
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
