"""A tensor that is split to a sequence, of which parts are taken: how some exporters write a chunk.

The map of a sequence is that of the tensor that was split.
"""

from __future__ import annotations

from itertools import accumulate

import onnx_ir as ir

from bn_deploy.folding.graph.attributes import integer
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.passing import Passing, moves
from bn_deploy.folding.outcome import Refusal


def _taken(network: Network, node: ir.Node) -> tuple[int, int, slice]:
    """Of the tensor that was split: the axis, its size, and which part of it a SequenceAt takes."""
    made = node.inputs[0]
    split = None if made is None else made.producer()
    if split is None or split.op_type != "SplitToSequence" or not network.standard(split):
        raise Refusal(f"what {label(node)} takes a part of is not known")
    dims = network.dims(split.inputs[0])
    axis = integer(split, "axis", 0) % len(dims)
    size, given = dims[axis], split.inputs[1] if len(split.inputs) > 1 else None
    sizes, place = network.constants.integers(given), network.constants.integers(node.inputs[1])
    if not isinstance(size, int) or not sizes or place is None or min(sizes) < 1:
        raise Refusal(f"what {label(node)} takes is not known")
    even = network.rank(given) == 0  # parts of one size, but for the last
    ends = [*range(sizes[0], size, sizes[0]), size] if even else list(accumulate(sizes))
    index = place[0] % len(ends)
    return axis, size, slice(ends[index - 1] if index else 0, ends[index])


def _part_back(network: Network, node: ir.Node, field: Field) -> Field:
    axis, size, part = _taken(network, node)
    return field.put(axis, size, part)


def _part_forth(network: Network, node: ir.Node, field: Field) -> Field:
    axis, _, part = _taken(network, node)
    return field.take(axis, part)


def _unchanged(network: Network, node: ir.Node, field: Field) -> Field:  # noqa: ARG001
    return field


SEQUENCES: dict[str, Passing] = {
    "SequenceAt": moves(_part_back, _part_forth),
    "SplitToSequence": moves(_unchanged, _unchanged, "axis", "keepdims"),
}
"""Operators that split a tensor to a sequence and take parts of that."""
