"""Operators that take parts of a tensor, or put parts together, and what a map becomes of it."""

from __future__ import annotations

from itertools import accumulate

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bn_deploy.folding.graph.evaluate import integer, ints
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.passing import Fields, Passing, moves, uniform
from bn_deploy.folding.outcome import Refusal

Part = tuple[int, NDArray[np.int64]]
"""An axis, and what is taken of it."""


def _slices(network: Network, node: ir.Node, field: Field) -> list[Part]:
    """What a Slice takes of the axes along which the map differs; the others need not be known."""
    rank = field.rank
    if len(node.inputs) > 1:
        if node.attributes:
            raise Refusal(f"{label(node)} has unknown attributes")
        starts, ends, axes, steps = (
            network.constants.integers(node.inputs[i]) if len(node.inputs) > i else None for i in range(1, 5)
        )
        absent = len(node.inputs) < 4 or node.inputs[3] is None
        stepless = len(node.inputs) < 5 or node.inputs[4] is None
    else:
        starts, ends, axes, steps = ints(node, "starts"), ints(node, "ends"), ints(node, "axes"), None
        absent, stepless = axes is None, True
    if not field.varying:
        return []
    if absent and starts is not None:
        axes = list(range(len(starts)))
    if axes is None:
        raise Refusal(f"the axes of {label(node)} are not known")
    found: list[Part] = []
    for position, axis in enumerate(axis % rank for axis in axes):
        if axis not in field.varying:
            continue
        size = network.dims(node.inputs[0])[axis]
        step = 1 if stepless else (steps[position] if steps is not None else 0)
        if starts is None or ends is None or step == 0 or not isinstance(size, int):
            raise Refusal(f"what {label(node)} takes is not known")
        found.append((axis, _taken(starts[position], ends[position], step, size)))
    return found


def _taken(start: int, end: int, step: int, size: int) -> NDArray[np.int64]:
    """The positions that ONNX's Slice takes of an axis: ends are clamped as its specification says."""
    start, end = (number + size if number < 0 else number for number in (start, end))
    low, high = (0, size) if step > 0 else (0, size - 1)
    start = min(max(start, low), high)
    end = min(max(end, 0 if step > 0 else -1), size)
    return np.arange(start, end, step)


def _slice_back(network: Network, node: ir.Node, field: Field) -> Field:
    dims = network.dims(node.inputs[0])
    for axis, taken in _slices(network, node, field):
        if field.rank != len(dims):
            raise Refusal(f"{label(node)} is used in an unusual way")
        size = dims[axis]
        assert isinstance(size, int)  # noqa: S101 - `_slices` has read it
        field = field.put(axis, size, taken)
    return field


def _slice_forth(network: Network, node: ir.Node, field: Field) -> Field:
    for axis, taken in _slices(network, node, field):
        if taken.size == 0:
            raise Refusal(f"{label(node)} takes nothing")
        field = field.take(axis, taken)
    return field


def _gathered(network: Network, node: ir.Node) -> tuple[int, list[int]]:
    """The axis of which a Gather takes parts, and the axes that stand there afterwards."""
    axis = integer(node, "axis", 0) % network.rank(node.inputs[0])
    return axis, list(range(axis, axis + network.rank(node.inputs[1])))


def _gather_index(network: Network, node: ir.Node, rank: int) -> tuple[int, NDArray[np.int64], int]:
    """The axis of a Gather of constant positions, those positions, and the size of the axis."""
    axis = integer(node, "axis", 0) % rank
    indices = node.inputs[1]
    array = (
        network.constants.array(indices) if indices is not None and network.constants.holds(indices) else None
    )
    size = network.dims(node.inputs[0])[axis]
    if array is None or array.ndim > 1 or not isinstance(size, int):
        raise Refusal(f"what {label(node)} takes is not known")
    return axis, array.astype(np.int64) % size, size


def _gather_back(network: Network, node: ir.Node, field: Field) -> Field:
    axis, axes = _gathered(network, node)
    if not field.varying & set(axes):  # whatever it takes has the same map
        return field.reduced(axes).expanded([axis])
    axis, index, size = _gather_index(network, node, network.rank(node.inputs[0]))
    if index.ndim == 0:
        field = field.expanded([axis])
    return field.put(axis, size, index.reshape(-1))


def _gather_forth(network: Network, node: ir.Node, field: Field) -> Field:
    axis, axes = _gathered(network, node)
    if axis not in field.varying:
        return field.reduced([axis]).expanded(axes)
    axis, index, _ = _gather_index(network, node, field.rank)
    field = field.take(axis, index.reshape(-1))
    return field.reduced([axis]) if index.ndim == 0 else field


def _parts(network: Network, node: ir.Node, values: list[ir.Value], axis: int) -> list[slice]:
    """Where each of `values` lies on `axis` of their concatenation."""
    sizes = [network.dims(value)[axis] for value in values]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) != len(sizes):
        raise Refusal(f"the sizes of the parts of {label(node)} are not known")
    ends = list(accumulate(known))
    return [slice(end - size, end) for end, size in zip(ends, known, strict=True)]


def _split_pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
    """The outputs that get no map keep what they have."""
    rank = network.rank(node.inputs[0])
    axis = integer(node, "axis", 0) % rank
    parts = _parts(network, node, list(node.outputs), axis)
    whole = Field.identity(rank)
    for index, field in fields.items():
        whole = whole.then(field.put(axis, parts[-1].stop, parts[index]))
    return [{0: whole}]


def _split_push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:
    if set(fields) != {0}:
        raise Refusal(f"{label(node)} is used in an unusual way")
    axis = integer(node, "axis", 0) % fields[0].rank
    if axis not in fields[0].varying:
        return dict.fromkeys(range(len(node.outputs)), fields[0])
    parts = _parts(network, node, list(node.outputs), axis)
    return {index: fields[0].take(axis, part) for index, part in enumerate(parts)}


def _concat_pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
    """Each input gets its part."""
    axis = integer(node, "axis", 0) % fields[0].rank
    if axis not in fields[0].varying:
        return [dict.fromkeys(range(len(node.inputs)), fields[0])]
    parts = _parts(network, node, [value for value in node.inputs if value is not None], axis)
    return [{index: fields[0].take(axis, part) for index, part in enumerate(parts)}]


def _concat_push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:
    """The inputs that keep their map count as unchanged."""
    some = next(iter(fields.values()))
    axis = integer(node, "axis", 0) % some.rank
    if len(fields) == len(node.inputs) and all(field.same(some) for field in fields.values()):
        uniform(some, {axis}, node)
        return {0: some}
    parts = _parts(network, node, [value for value in node.inputs if value is not None], axis)
    whole = Field.identity(some.rank)
    for index, field in fields.items():
        whole = whole.then(field.put(axis, parts[-1].stop, parts[index]))
    return {0: whole}


PARTS: dict[str, Passing] = {
    "Concat": Passing(frozenset({"axis"}), _concat_pull, _concat_push),
    "Gather": moves(_gather_back, _gather_forth, "axis"),
    "Slice": moves(_slice_back, _slice_forth, "axes", "ends", "starts"),
    "Split": Passing(frozenset({"axis", "split", "num_outputs"}), _split_pull, _split_push),
}
"""Operators that take and join parts."""
