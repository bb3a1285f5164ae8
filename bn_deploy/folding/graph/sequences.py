"""A tensor that is split to a sequence, of which parts are taken: how some exporters write a chunk.

The map of a sequence is that of the tensor that was split.
"""

from __future__ import annotations

from itertools import accumulate

import onnx_ir as ir

from bn_deploy.folding.graph.attributes import integer
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.parts import answers
from bn_deploy.folding.graph.passing import Fields, Passing, moves, onwards
from bn_deploy.folding.outcome import Refusal


def _split(network: Network, node: ir.Node) -> tuple[ir.Node, int]:
    """What made the sequence of which a SequenceAt takes a part, and along which axis."""
    made = node.inputs[0]
    split = None if made is None else made.producer()
    # Without sizes the parts may lack the axis.
    known = split is not None and split.op_type == "SplitToSequence" and network.standard(split)
    if split is None or not known or len(split.inputs) < 2:
        raise Refusal(f"what {label(node)} takes a part of is not known")
    return split, integer(split, "axis", 0) % network.rank(split.inputs[0])


def _taken(network: Network, node: ir.Node) -> tuple[int, int, slice]:
    """Of the tensor that was split: the axis, its size, and which part of it a SequenceAt takes."""
    split, axis = _split(network, node)
    size, given = network.dims(split.inputs[0])[axis], split.inputs[1]
    sizes, place = network.constants.integers(given), network.constants.integers(node.inputs[1])
    if not isinstance(size, int) or not sizes or place is None or min(sizes) < 1:
        raise Refusal(f"what {label(node)} takes is not known")
    even = network.rank(given) == 0  # parts of one size, but for the last
    ends = [*range(sizes[0], size, sizes[0]), size] if even else list(accumulate(sizes))
    index = place[0] % len(ends)
    return axis, size, slice(ends[index - 1] if index else 0, ends[index])


def _part_pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
    """All of the sequence gets the map, if that is the same along the axis; or only what is taken."""
    field = fields[0]

    def taken_only() -> dict[int, Field]:
        axis, size, part = _taken(network, node)
        return {0: field.put(axis, size, part)}

    if _split(network, node)[1] in field.varying:
        return [taken_only()]
    return answers(network, node, {0: field}, taken_only)


def _part_forth(network: Network, node: ir.Node, field: Field) -> Field:
    if _split(network, node)[1] not in field.varying:
        return field
    axis, _, part = _taken(network, node)
    return field.take(axis, part)


def _unchanged(network: Network, node: ir.Node, field: Field) -> Field:  # noqa: ARG001
    return field


SEQUENCES: dict[str, Passing] = {
    "SequenceAt": Passing(frozenset(), _part_pull, onwards(_part_forth)),
    "SplitToSequence": moves(_unchanged, _unchanged, "axis", "keepdims"),
}
"""Operators that split a tensor to a sequence and take parts of that."""
