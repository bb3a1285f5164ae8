"""Sequences of tensors, of which parts are taken or joined: how some exporters write a chunk or a stack.

The map of a sequence that was split from a tensor is that of the tensor. The map of one that was made of
tensors has an axis more, in front: which of them it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

import onnx_ir as ir

from bn_deploy.folding.graph.attributes import integer
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.parts import answers
from bn_deploy.folding.graph.passing import Fields, Passing, moves, onwards, uniform
from bn_deploy.folding.outcome import Refusal


def _maker(network: Network, node: ir.Node) -> ir.Node:
    """What made the sequence that `node` reads."""
    made = node.inputs[0]
    maker = None if made is None else made.producer()
    if maker is not None and network.standard(maker):
        # Without sizes the parts of a split may lack the axis.
        split = maker.op_type == "SplitToSequence" and len(maker.inputs) > 1
        if split or maker.op_type == "SequenceConstruct":
            return maker
    raise Refusal(f"what {label(node)} takes a part of is not known")


def _is_split(maker: ir.Node) -> bool:
    return maker.op_type == "SplitToSequence"


def _axis(network: Network, split: ir.Node) -> int:
    return integer(split, "axis", 0) % network.rank(split.inputs[0])


def _taken(network: Network, node: ir.Node, split: ir.Node) -> tuple[int, int, slice]:
    """Of the tensor that was split: the axis, its size, and which part of it a SequenceAt takes."""
    axis = _axis(network, split)
    size, given = network.dims(split.inputs[0])[axis], split.inputs[1]
    sizes, place = network.constants.integers(given), network.constants.integers(node.inputs[1])
    if not isinstance(size, int) or not sizes or place is None or min(sizes) < 1:
        raise Refusal(f"what {label(node)} takes is not known")
    even = network.rank(given) == 0  # parts of one size, but for the last
    ends = [*range(sizes[0], size, sizes[0]), size] if even else list(accumulate(sizes))
    index = place[0] % len(ends)
    return axis, size, slice(ends[index - 1] if index else 0, ends[index])


def _place(network: Network, node: ir.Node, maker: ir.Node) -> int:
    """Which of the tensors that a sequence was made of a SequenceAt takes."""
    place = network.constants.integers(node.inputs[1])
    if place is None:
        raise Refusal(f"what {label(node)} takes is not known")
    return place[0] % len(maker.inputs)


def _part_pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
    """All of the sequence gets the map, if that is the same along the axis; or only what is taken."""
    field, maker = fields[0], _maker(network, node)
    if not _is_split(maker):
        return [{0: _stacked({_place(network, node, maker): field}, len(maker.inputs), node)}]

    def taken_only() -> dict[int, Field]:
        axis, size, part = _taken(network, node, maker)
        return {0: field.put(axis, size, part)}

    if _axis(network, maker) in field.varying:
        return [taken_only()]
    return answers(network, node, {0: field}, taken_only)


def _part_forth(network: Network, node: ir.Node, field: Field) -> Field:
    maker = _maker(network, node)
    if not _is_split(maker):
        return _one(field, _place(network, node, maker))
    if _axis(network, maker) not in field.varying:
        return field
    axis, _, part = _taken(network, node, maker)
    return field.take(axis, part)


def _one(field: Field, place: int) -> Field:
    """The map of one of the tensors that a sequence was made of."""
    return field.take(0, slice(place, place + 1)).reduced([0])


def _stacked(fields: Mapping[int, Field], count: int, node: ir.Node) -> Field:
    """The map of a sequence made of `count` tensors, given those of some; the others are not changed."""
    rank = next(iter(fields.values())).rank
    sizes = [
        {part.shape[axis] for field in fields.values() for part in (field.scale, field.shift)} - {1}
        for axis in range(rank)
    ]
    if any(len(found) > 1 for found in sizes):
        raise Refusal(f"the parts of {label(node)} differ in size")
    whole = Field.identity(rank + 1)
    for place, field in fields.items():
        whole = whole.then(field.expanded([0]).put(0, count, slice(place, place + 1)))
    return whole


def _made_pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:  # noqa: ARG001
    return [{place: _one(fields[0], place) for place in range(len(node.inputs))}]


def _made_push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:  # noqa: ARG001
    return {0: _stacked(fields, len(node.inputs), node)}


def _lanes(network: Network, node: ir.Node, maker: ir.Node, axis: int) -> list[slice]:
    """Where each of the tensors that a sequence was made of lies on `axis` when they are joined there."""
    sizes = [network.dims(value)[axis] for value in maker.inputs]
    known = [size for size in sizes if isinstance(size, int)]
    if len(known) != len(sizes):
        raise Refusal(f"the sizes of the parts of {label(node)} are not known")
    ends = list(accumulate(known))
    return [slice(end - size, end) for end, size in zip(ends, known, strict=True)]


def _joined_back(network: Network, node: ir.Node, field: Field) -> Field:
    """ConcatFromSequence: along an axis that is there, or along a new one."""
    maker, new = _maker(network, node), bool(integer(node, "new_axis", 0))
    axis = integer(node, "axis", 0) % field.rank
    if _is_split(maker):
        if not new and axis == _axis(network, maker):
            return field  # the tensor that was split
        uniform(field, {axis}, node)
        field = field.reduced([axis]) if new else field
        uniform(field, {_axis(network, maker)}, node)
        return field
    if new:
        return field.on_axes([axis, *(other for other in range(field.rank) if other != axis)])
    if axis not in field.varying:
        return field.expanded([0])
    lanes = _lanes(network, node, maker, axis)
    return _stacked({place: field.take(axis, lane) for place, lane in enumerate(lanes)}, len(lanes), node)


def _joined_forth(network: Network, node: ir.Node, field: Field) -> Field:
    maker, new = _maker(network, node), bool(integer(node, "new_axis", 0))
    rank = network.rank(node.outputs[0])
    axis = integer(node, "axis", 0) % rank
    if _is_split(maker):
        if not new and axis == _axis(network, maker):
            return field
        uniform(field, {_axis(network, maker)} | (set() if new else {axis}), node)
        return field.expanded([axis]) if new else field
    if new:
        order = list(range(1, rank))
        return field.on_axes([*order[:axis], 0, *order[axis:]])
    if 0 not in field.varying and axis + 1 not in field.varying:
        return field.reduced([0])
    lanes = _lanes(network, node, maker, axis)
    whole = Field.identity(rank)
    for place, lane in enumerate(lanes):
        whole = whole.then(_one(field, place).put(axis, lanes[-1].stop, lane))
    return whole


def _unchanged(network: Network, node: ir.Node, field: Field) -> Field:  # noqa: ARG001
    return field


SEQUENCES: dict[str, Passing] = {
    "ConcatFromSequence": moves(_joined_back, _joined_forth, "axis", "new_axis"),
    "SequenceAt": Passing(frozenset(), _part_pull, onwards(_part_forth)),
    "SequenceConstruct": Passing(frozenset(), _made_pull, _made_push),
    "SplitToSequence": moves(_unchanged, _unchanged, "axis", "keepdims"),
}
"""Operators that make sequences, take parts of them and join them."""
