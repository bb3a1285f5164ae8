"""Shows that an edited network does what was planned, by observing it again.

A forward may look at its modules, ignore a bias, or test a weight: then it does something else now. So every
course is run once more, and has to consist of the same operators on the same values, but for the batch norms
that are gone and the numbers that were changed. In doubt the results decide, in float64.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from bn_deploy.batchnorm.foreign import twin
from bn_deploy.folding.modules.alike import VARIES
from bn_deploy.folding.modules.bind import Bindings
from bn_deploy.folding.modules.course import Answers, Constant, Course, Op, Value
from bn_deploy.folding.modules.observe import Unrun, observe
from bn_deploy.folding.modules.sizes import is_setting
from bn_deploy.folding.modules.surgery import Edits
from bn_deploy.folding.modules.translate import plain


class Unproved(Exception):
    """The edited network does something else; its text says where."""

    def __init__(self, reason: str, path: str | None = None) -> None:
        super().__init__(reason)
        self.path = path


def prove(
    network: nn.Module, courses: list[Course], bindings: Bindings, edits: Edits, whole: Callable[[str], bool]
) -> None:
    """Runs every course again on the edited `network`.

    Raises:
        Unproved: one is not as planned.
    """
    gone = {op for norm in bindings.norms.values() if norm.path in edits.gone for op in norm.ops}
    moved = {op for norm in bindings.norms.values() if norm.path in edits.changed for op in norm.ops}
    for course in courses:
        try:
            # A number that is read now differs by rounding, and every other answer has its own course.
            answers = Answers(tuple(course.read), course.answers.told)
            again = observe(
                twin(network) if any(map(is_setting, answers.told)) else network, course.given, answers, whole
            )
        except Unrun as error:
            if course.broken and error.course is not None:
                _compare(course, error.course, gone, moved, edits)
                continue
            raise Unproved(f"after folding, the forward would fail: {error}") from error
        _compare(course, again, gone, moved, edits)


def _compare(course: Course, again: Course, gone: set[Op], moved: set[Op], edits: Edits) -> None:
    """Goes through both courses side by side."""
    pairs: dict[Value, Value] = dict(zip(course.inputs, again.inputs, strict=False))
    rest = iter(again.ops)
    for op in course.ops:
        if op in gone:
            given, made = op.arguments["input"], op.outputs[0]
            pairs[made] = pairs[given]  # type: ignore[index]
            if op.call.path in edits.shifts:
                pairs[made] = _shifted(next(rest, None), pairs[made], edits.shifts[op.call.path])  # type: ignore[index]
            continue
        other = next(rest, None)
        if other is None or plain(op.name) != plain(other.name) or len(op.outputs) != len(other.outputs):
            raise Unproved("after folding, the forward would take another course", op.call.path)
        expected = op.arguments
        if op in edits.of_op:
            expected = _with_new(op, edits)
        if not (op in moved or _same(expected, other.arguments, pairs)):
            raise Unproved("after folding, the forward would use other numbers", op.call.path)
        for ours, theirs in zip(op.outputs, other.outputs, strict=True):
            if ours is not None and theirs is not None:
                pairs[ours] = theirs
    if next(rest, None) is not None or {pairs[value] for value in course.seen} != again.seen:
        raise Unproved("after folding, the forward would return something else")


def _shifted(op: Op | None, given: Value, shift: Tensor) -> Value:
    """The value that stands for `given` once `op` has added `shift`."""
    if op is not None and plain(op.name) == "aten.add" and op.arguments["self"] is given:
        added = op.arguments["other"]
        if isinstance(added, Constant) and _equal(added.tensor.reshape(-1), shift) and op.outputs[0]:
            return op.outputs[0]
    raise Unproved("a shift is not added where it should be")


def _with_new(op: Op, edits: Edits) -> dict[str, Any]:
    """The arguments that an edited operator has to have."""
    weight, bias = edits.of_op[op]
    names = _NAMES.get(plain(op.name), ("weight", "bias"))
    if plain(op.name) == "aten.einsum":
        tensors = op.arguments["tensors"]
        new = [Constant(weight) if isinstance(t, Constant) and weight is not None else t for t in tensors]
        return {**op.arguments, "tensors": new}
    if plain(op.name) in ("aten.add", "aten.matmul", "aten.mm", "aten.bmm"):
        names = (next(key for key, given in op.arguments.items() if isinstance(given, Constant)), "")
    changed = {name: Constant(t) for name, t in zip(names, (weight, bias), strict=True) if t is not None}
    return {**op.arguments, **changed}


_IN_TRAINING = ("momentum", "cudnn_enabled")
"""Arguments that do not matter to a batch norm in eval mode."""

_NAMES = {"aten.addmm": ("mat2", "self")}


def _same(ours: Any, theirs: Any, pairs: dict[Value, Value]) -> bool:
    """Whether two arguments are the same, to the last bit."""
    if isinstance(ours, Value):
        return pairs[ours] is theirs if ours in pairs else not isinstance(theirs, Value)
    if isinstance(ours, Constant):
        if not isinstance(theirs, Constant):
            return False
        a, b = ours.tensor, theirs.tensor
        return a is b or (a.shape == b.shape and a.dtype == b.dtype and _equal(a, b))
    if isinstance(ours, (tuple, list)):
        alike = isinstance(theirs, (tuple, list)) and len(ours) == len(theirs)
        return alike and all(_same(a, b, pairs) for a, b in zip(ours, theirs, strict=True))
    if isinstance(ours, dict):
        return all(_same(ours[key], theirs.get(key), pairs) for key in ours if key not in _IN_TRAINING)
    return bool(ours in (VARIES, theirs) or (isinstance(ours, float) and math.isnan(ours)))


def _equal(a: Tensor, b: Tensor) -> bool:
    if a.data_ptr() == b.data_ptr() and a.stride() == b.stride():
        return True
    return bool(torch.allclose(a.to(b.device), b, rtol=0, atol=0, equal_nan=True))


def agree(before: nn.Module, after: nn.Module, course: Course) -> float:
    """How far the results of two networks are apart in float64, relative to their size (RMS)."""

    def doubled(network: nn.Module) -> list[Tensor]:
        args, kwargs = pytree.tree_map_only(
            Tensor, lambda t: t.double() if t.is_floating_point() else t, course.given
        )
        with torch.no_grad():
            result = copy.deepcopy(network).double()(*args, **kwargs)
        return [leaf.double() for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]

    pairs = zip(doubled(before), doubled(after), strict=True)
    return max(
        (float((a - b).square().mean().sqrt() / a.square().mean().sqrt()) for a, b in pairs), default=0
    )
