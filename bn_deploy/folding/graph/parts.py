"""Operators that take parts of a tensor, or put parts together, and what a map becomes of it."""

from __future__ import annotations

from collections.abc import Callable, Collection
from itertools import accumulate

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bn_deploy.folding.graph.arranging import taken
from bn_deploy.folding.graph.attributes import integer, ints
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.passing import Fields, Passing, moves, onwards, same_both_ways, uniform
from bn_deploy.folding.outcome import Refusal

Part = tuple[int, NDArray[np.int64]]
"""An axis, and what is taken of it."""


def _slices(network: Network, node: ir.Node, rank: int, wanted: Collection[int]) -> list[Part]:
    """What a Slice takes of those axes that are `wanted`; the others need not be known."""
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
    if not wanted:
        return []
    if absent and starts is not None:
        axes = list(range(len(starts)))
    if axes is None:
        raise Refusal(f"the axes of {label(node)} are not known")
    found: list[Part] = []
    for position, axis in enumerate(axis % rank for axis in axes):
        if axis not in wanted:
            continue
        size = network.dims(node.inputs[0])[axis]
        step = 1 if stepless else (steps[position] if steps is not None else 0)
        if starts is None or ends is None or step == 0 or not isinstance(size, int):
            raise Refusal(f"what {label(node)} takes is not known")
        found.append((axis, taken(starts[position], ends[position], step, size)))
    return found


def _slice_pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
    """All of the input gets the map, if that is the same along the axis; or only what is taken."""
    dims, field = network.dims(node.inputs[0]), fields[0]

    def back(wanted: Collection[int]) -> dict[int, Field]:
        whole = field
        for axis, index in _slices(network, node, len(dims), wanted):
            size = dims[axis]
            assert isinstance(size, int)  # noqa: S101 - `_slices` has read it
            whole = whole.put(axis, size, index)
        return {0: whole}

    return answers(network, node, back(field.varying), lambda: back(range(len(dims))))


def answers(
    network: Network, node: ir.Node, first: dict[int, Field], second: Callable[[], dict[int, Field]]
) -> list[dict[int, Field]]:
    """The answers of an operator that takes parts: all of its input gets the map, or only what is taken.

    The second is asked for if its input has other readers.
    """
    value = node.inputs[0]
    if value is None or len(network.uses(value)) == 1:
        return [first]
    try:
        return [first, second()]
    except Refusal:
        return [first]


def _slice_forth(network: Network, node: ir.Node, field: Field) -> Field:
    for axis, index in _slices(network, node, field.rank, field.varying):
        if index.size == 0:
            raise Refusal(f"{label(node)} takes nothing")
        field = field.take(axis, index)
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


def _gather_pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
    """As for a Slice."""
    field = fields[0]
    axis, axes = _gathered(network, node)

    def taken_only() -> dict[int, Field]:
        _, index, size = _gather_index(network, node, network.rank(node.inputs[0]))
        part = field.expanded([axis]) if index.ndim == 0 else field
        return {0: part.put(axis, size, index.reshape(-1))}

    if field.varying & set(axes):
        return [taken_only()]
    return answers(network, node, {0: field.reduced(axes).expanded([axis])}, taken_only)


def _gather_forth(network: Network, node: ir.Node, field: Field) -> Field:
    axis, axes = _gathered(network, node)
    if axis not in field.varying:
        return field.reduced([axis]).expanded(axes)
    axis, index, _ = _gather_index(network, node, field.rank)
    field = field.take(axis, index.reshape(-1))
    return field.reduced([axis]) if index.ndim == 0 else field


def _aligned(network: Network, node: ir.Node, field: Field) -> None:
    """GatherElements picks along one axis, and along the others stays where it is."""
    uniform(field, {integer(node, "axis", 0) % field.rank}, node)
    before, after = network.dims(node.inputs[0]), network.dims(node.outputs[0])
    if any(before[axis] != after[axis] or before[axis] is None for axis in field.varying):
        raise Refusal(f"what {label(node)} takes is not known")


def _picked(network: Network, node: ir.Node) -> tuple[list[int], list[int], NDArray[np.int64] | None]:
    """The axes that a GatherND picks from, those in their place, and what it picks of a single one."""
    rank, shape = network.rank(node.inputs[0]), network.dims(node.inputs[1])
    first, depth = integer(node, "batch_dims", 0), shape[-1]
    if not isinstance(depth, int):
        raise Refusal(f"what {label(node)} takes is not known")
    axes, new = list(range(first, first + depth)), list(range(first, len(shape) - 1))
    indices = network.constants.integers(node.inputs[1]) if depth == 1 and first == 0 else None
    size = network.dims(node.inputs[0])[first] if rank else None
    one_by_one = indices is not None and len(new) == 1 and isinstance(size, int)
    return axes, new, np.array(indices, dtype=np.int64) % size if one_by_one else None  # type: ignore[operator]


def _picked_back(network: Network, node: ir.Node, field: Field) -> Field:
    axes, new, index = _picked(network, node)
    if not field.varying & set(new):
        return field.reduced(new).expanded(axes)
    size = network.dims(node.inputs[0])[0]
    if index is None or not isinstance(size, int):
        raise Refusal(f"what {label(node)} takes is not known")
    return field.put(0, size, index)


def _picked_forth(network: Network, node: ir.Node, field: Field) -> Field:
    axes, new, index = _picked(network, node)
    if not field.varying & set(axes):
        return field.reduced(axes).expanded(new)
    if index is None:
        raise Refusal(f"what {label(node)} takes is not known")
    return field.take(0, index)


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
    "Gather": Passing(frozenset({"axis"}), _gather_pull, onwards(_gather_forth)),
    "GatherElements": same_both_ways(_aligned, "axis"),
    "GatherND": moves(_picked_back, _picked_forth, "batch_dims"),
    "Slice": Passing(frozenset({"axes", "ends", "starts"}), _slice_pull, onwards(_slice_forth)),
    "Split": Passing(frozenset({"axis", "split", "num_outputs"}), _split_pull, _split_push),
}
"""Operators that take and join parts."""
