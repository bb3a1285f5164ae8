"""Operators that move elements without computing, and what a map becomes on the other side of them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from bn_deploy.folding.graph.evaluate import integer, ints, real_number, text
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.layout import Dims
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.passing import Passing, moves, same_both_ways, uniform
from bn_deploy.folding.outcome import Refusal


def _reshape_dims(network: Network, node: ir.Node) -> tuple[Dims, Dims]:
    """The sizes before and after. An unknown size that a Reshape copies gets the same name on both sides."""
    before, after = list(network.dims(node.inputs[0])), list(network.dims(node.outputs[0]))
    copied: list[int] = []
    if node.op_type == "Reshape" and not integer(node, "allowzero", 0):
        shape = network.constants.integers(node.inputs[1]) or []
        copied = [axis for axis, size in enumerate(shape) if size == 0]
    if node.op_type == "Flatten" and integer(node, "axis", 1) == 1:
        copied = [0]
    for axis in copied:
        size = before[axis] if before[axis] is not None else f"the size of axis {axis}"
        before[axis] = after[axis] = size
    return tuple(before), tuple(after)


def _reshape_back(network: Network, node: ir.Node, field: Field) -> Field:
    before, after = _reshape_dims(network, node)
    return field.reshaped(after, before)


def _reshape_forth(network: Network, node: ir.Node, field: Field) -> Field:
    return field.reshaped(*_reshape_dims(network, node))


def _permutation(node: ir.Node, rank: int) -> list[int]:
    return ints(node, "perm") or list(reversed(range(rank)))


def _transpose_back(network: Network, node: ir.Node, field: Field) -> Field:  # noqa: ARG001
    return field.on_axes([int(axis) for axis in np.argsort(_permutation(node, field.rank))])


def _transpose_forth(network: Network, node: ir.Node, field: Field) -> Field:  # noqa: ARG001
    return field.on_axes(_permutation(node, field.rank))


def _expand_back(network: Network, node: ir.Node, field: Field) -> Field:
    return field.restricted(network.dims(node.inputs[0]))


def _expand_forth(network: Network, node: ir.Node, field: Field) -> Field:
    return field.lifted(network.rank(node.outputs[0]))


def _blocks(node: ir.Node, field: Field) -> tuple[int, bool]:
    """The elements of a block, and whether the block is the slowest part of the channel axis."""
    uniform(field, frozenset(range(field.rank)) - {1}, node)
    return integer(node, "blocksize", 1) ** 2, text(node, "mode", "DCR") == "DCR"


def _spread(field: Field, count: int, slowest: bool, channels: int | str | None) -> Field:
    """Every channel `count` times."""
    if not field.varying:
        return field
    if not isinstance(channels, int):
        raise Refusal("the number of channels before a rearrangement is not known")
    index = np.arange(channels)
    return field.take(1, np.tile(index, count) if slowest else np.repeat(index, count))


def _agreed(field: Field, count: int, slowest: bool, channels: int | str | None) -> Field:
    """One channel for every `count` of them; a Refusal if those differ."""
    if not field.varying:
        return field
    if not isinstance(channels, int):
        raise Refusal("the number of channels before a rearrangement is not known")
    index = np.arange(channels)
    return field.put(1, channels, np.tile(index, count) if slowest else np.repeat(index, count))


def _depth_back(network: Network, node: ir.Node, field: Field) -> Field:
    return _spread(field, *_blocks(node, field), network.dims(node.outputs[0])[1])


def _depth_forth(network: Network, node: ir.Node, field: Field) -> Field:
    return _agreed(field, *_blocks(node, field), network.dims(node.outputs[0])[1])


def _space_back(network: Network, node: ir.Node, field: Field) -> Field:
    return _agreed(field, *_blocks(node, field), network.dims(node.inputs[0])[1])


def _space_forth(network: Network, node: ir.Node, field: Field) -> Field:
    return _spread(field, *_blocks(node, field), network.dims(node.inputs[0])[1])


def _padded(network: Network, node: ir.Node, field: Field) -> None:
    """Pad: copies of the input's edge get its map; zeros stay zeros if there is no shift."""
    mode = text(node, "mode", "constant")
    pads = network.constants.integers(node.inputs[1]) if len(node.inputs) > 1 else ints(node, "pads")
    axes = network.constants.integers(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else None
    if pads is None or (len(node.inputs) > 3 and node.inputs[3] is not None and axes is None):
        raise Refusal(f"how {label(node)} pads is not known")
    axes = list(range(field.rank)) if axes is None else [axis % field.rank for axis in axes]
    touched = {axis for i, axis in enumerate(axes) if pads[i] or pads[i + len(axes)]}
    uniform(field, touched, node)
    if mode in ("reflect", "edge", "wrap") or not touched:
        return
    value = node.inputs[2] if len(node.inputs) > 2 else None
    number = network.constants.real(value) if value is not None else np.array(real_number(node, "value", 0.0))
    if mode != "constant" or number is None or number.any() or field.shifts:
        raise Refusal(f"{label(node)} pads with a constant, which is not scaled and shifted")


_SHAPED = moves(_reshape_back, _reshape_forth, "allowzero", "axes", "axis")

MOVING: dict[str, Passing] = {
    "DepthToSpace": moves(_depth_back, _depth_forth, "blocksize", "mode"),
    "Expand": moves(_expand_back, _expand_forth),
    "Flatten": _SHAPED,
    "Pad": same_both_ways(_padded, "mode", "pads", "value"),
    "Reshape": _SHAPED,
    "SpaceToDepth": moves(_space_back, _space_forth, "blocksize"),
    "Squeeze": _SHAPED,
    "Transpose": moves(_transpose_back, _transpose_forth, "perm"),
    "Unsqueeze": _SHAPED,
}
"""Operators that only move elements."""
