"""Whether two courses are one, but for the sizes of their tensors, and what that says about the sizes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from bn_deploy.folding.modules.course import Constant, Course, Value

VARIES = "varies"
"""Stands for a number in an operator's arguments that depends on the size of the batch."""


def alike(main: Course, other: Course) -> bool:
    """Whether two courses are the same operators on the same values, whatever their sizes."""
    pairs: dict[Value, Value] = dict(zip(main.inputs, other.inputs, strict=True))
    if len(main.ops) != len(other.ops):
        return False
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
    """What has to be the same at every size of the batch."""
    return None if value is None else (len(value.shape), value.dtype)


_SIZED = frozenset(
    {"end", "length", "output_size", "pad", "repeats", "scale_factors", "shape", "size", "sizes"}
    | {"split_size", "split_sizes", "start", "other", "value"}
)
"""The arguments of operators that may hold sizes, which depend on the batch."""


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


def name_sizes(main: Course, other: Course) -> None:
    """Gives every size and number of `main` that is another one in `other` a name, or marks it."""
    values = list(zip(_values(main), _values(other), strict=True))
    for value, twin in values:
        sizes = zip(value.shape, twin.shape, strict=True)
        value.shape = tuple(a if a == b else f"{a} or {b}" for a, b in sizes)
    for ours, theirs in zip(main.ops, other.ops, strict=True):
        ours.arguments = _marked(main, ours.arguments, theirs.arguments)


def _values(course: Course) -> Iterator[Value]:
    yield from course.inputs
    for op in course.ops:
        yield from (value for value in op.outputs if value is not None)


def _marked(course: Course, ours: Any, theirs: Any) -> Any:
    """`ours`, with a mark for each number, and a value of its own for each constant, that differ."""
    if isinstance(ours, Constant):
        a, b = ours.tensor, theirs.tensor
        if ours.slots or a is b or (a.shape == b.shape and torch.equal(a, b)):
            return ours
        shape = tuple(m if m == n else f"{m} or {n}" for m, n in zip(a.shape, b.shape, strict=False))
        unknown = Value(shape, a.dtype)
        course.inputs.append(unknown)
        return unknown
    if isinstance(ours, (tuple, list)):
        return type(ours)(_marked(course, a, b) for a, b in zip(ours, theirs, strict=True))
    if isinstance(ours, dict):
        return {key: _marked(course, ours[key], theirs[key]) for key in ours}
    if isinstance(ours, (int, float)) and ours != theirs:
        return VARIES
    return ours
