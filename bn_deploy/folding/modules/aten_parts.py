"""How torch's operators that take parts of tensors, or put parts together, are written down in ONNX."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from bn_deploy.folding.modules.aten import Row, first, value_of, whole, wholes
from bn_deploy.folding.modules.course import Constant, Op, Value
from bn_deploy.folding.modules.translate import Opaque, Translation


def _taken(t: Translation, op: Op, axis: int, index: Sequence[int]) -> None:
    t.node(op, "Gather", [t.read(value_of(op)), t.array(list(index))], {"axis": axis})


def _axis_and_size(op: Op) -> tuple[int, int]:
    x = value_of(op)
    axis = whole(op.arguments["dim"]) % len(x.shape)
    return axis, whole(x.shape[axis])


def _slice(t: Translation, op: Op) -> None:
    x = value_of(op)
    axis = whole(op.arguments["dim"]) % len(x.shape)
    if first(op).shape[axis] == x.shape[axis] and op.arguments["step"] == 1:
        t.node(op, "Identity", [t.read(x)])
        return
    if isinstance(x.shape[axis], str):
        _some(t, op, axis)
        return
    start, end, step = (op.arguments[name] for name in ("start", "end", "step"))
    bounds = [whole(start or 0), whole((1 << 62) if end is None else end)]
    t.node(
        op,
        "Slice",
        [t.read(x), t.array(bounds[:1]), t.array(bounds[1:]), t.array([axis]), t.array([whole(step)])],
    )


def _some(t: Translation, op: Op, axis: int) -> None:
    """Some places along an axis whose size is no fixed one: which ones does not matter to any map."""
    t.node(op, "Slice", [t.read(value_of(op)), t.array([0]), t.array([1]), t.array([axis])])


def _narrow(t: Translation, op: Op) -> None:
    x = value_of(op)
    axis = whole(op.arguments["dim"]) % len(x.shape)
    if isinstance(x.shape[axis], str):
        _some(t, op, axis)
        return
    start, length = whole(op.arguments["start"]), whole(op.arguments["length"])
    t.node(op, "Slice", [t.read(value_of(op)), t.array([start]), t.array([start + length]), t.array([axis])])


def _select(t: Translation, op: Op) -> None:
    x = value_of(op)
    axis = whole(op.arguments["dim"]) % len(x.shape)
    size = x.shape[axis]
    index = 0 if isinstance(size, str) else whole(op.arguments["index"]) % size
    t.node(op, "Gather", [t.read(x), t.array(index)], {"axis": axis})


def _index_select(t: Translation, op: Op) -> None:
    axis, size = _axis_and_size(op)
    index = op.arguments["index"]
    if not isinstance(index, Constant):
        raise Opaque("positions that depend on the inputs")
    _taken(t, op, axis, [int(i) % size for i in index.tensor.reshape(-1)])


def _index(t: Translation, op: Op) -> None:
    """x[:, [2, 0, 1]]: constant positions along one axis."""
    indices = op.arguments["indices"]
    used = [(axis, index) for axis, index in enumerate(indices) if index is not None]
    if len(used) != 1 or not isinstance(used[0][1], Constant):
        raise Opaque("several axes, or positions that depend on the inputs")
    axis, index = used[0]
    size = whole(value_of(op).shape[axis])
    if index.tensor.dim() != 1 or index.tensor.dtype is not torch.int64:
        raise Opaque("a mask")
    _taken(t, op, axis, [int(i) % size for i in index.tensor])


def _flip(t: Translation, op: Op) -> None:
    _arranged(t, op, op.arguments["dims"], lambda size: range(size - 1, -1, -1))


def _roll(t: Translation, op: Op) -> None:
    shifts = wholes(op.arguments["shifts"], 1)
    _arranged(t, op, op.arguments["dims"], lambda size: np.roll(np.arange(size), shifts[0]).tolist())


def _arranged(t: Translation, op: Op, dims: object, order: Callable[[int], Sequence[int]]) -> None:
    """The same places of one axis in another order, which depends on how many there are."""
    axes = wholes(dims, 1)
    if len(axes) != 1:
        raise Opaque("several axes")
    shape = value_of(op).shape
    size, axis = shape[axes[0]], axes[0] % len(shape)
    if isinstance(size, str):
        _some(t, op, axis)
    else:
        _taken(t, op, axis, order(size))


def _split(t: Translation, op: Op) -> None:
    x = value_of(op)
    axis = whole(op.arguments["dim"]) % len(x.shape)
    t.spread(op, "Split", [t.read(x)], {"axis": axis})


def _unbind(t: Translation, op: Op) -> None:
    """One Gather for each position."""
    axis, size = _axis_and_size(op)
    for position in range(size):
        t.node(op, "Gather", [t.read(value_of(op)), t.array(position)], {"axis": axis}, op.outputs[position])


def _cat(t: Translation, op: Op) -> None:
    parts = [part for part in op.arguments["tensors"] if _rank(part) == len(first(op).shape)]
    axis = whole(op.arguments["dim"]) % len(first(op).shape)
    t.node(op, "Concat", [t.read(part) for part in parts], {"axis": axis})


def _rank(part: Value | Constant) -> int:
    return len(part.shape) if isinstance(part, Value) else part.tensor.dim()


def _stack(t: Translation, op: Op) -> None:
    axis = whole(op.arguments["dim"]) % len(first(op).shape)
    shape = (*first(op).shape[:axis], 1, *first(op).shape[axis + 1 :])
    parts = []
    for part in op.arguments["tensors"]:
        if isinstance(part, Constant):
            parts.append(t.constant(part.tensor.unsqueeze(axis)))
            continue
        parts.append(t.between(op, part, shape))
        t.node(op, "Unsqueeze", [t.read(part), t.array([axis])], output=parts[-1])
    t.node(op, "Concat", parts, {"axis": axis})


PARTS: dict[str, Row] = {
    **dict.fromkeys(("aten.cat", "aten.concat", "aten.concatenate"), _cat),
    **dict.fromkeys(("aten.chunk", "aten.split", "aten.split_with_sizes", "aten.tensor_split"), _split),
    "aten.flip": _flip,
    "aten.index": _index,
    "aten.index_select": _index_select,
    "aten.narrow": _narrow,
    "aten.roll": _roll,
    "aten.select": _select,
    "aten.slice": _slice,
    "aten.stack": _stack,
    "aten.unbind": _unbind,
}
"""Operators that take parts along an axis, or put them together."""
