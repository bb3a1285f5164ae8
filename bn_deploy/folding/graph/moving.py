"""Operators that move elements without computing, and what a map becomes on the other side of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bn_deploy.folding.graph.attributes import integer, ints, real_number, text
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.layout import Dims
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.passing import Passing, moves, uniform
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


def _tiled(network: Network, node: ir.Node, rank: int) -> list[tuple[int, NDArray[np.int64]]]:
    """Which element of each axis that is repeated each element of the result is."""
    repeats = network.constants.integers(node.inputs[1])
    if repeats is None or len(repeats) != rank:
        raise Refusal(f"how {label(node)} repeats is not known")
    found = []
    for axis, count in enumerate(repeats):
        size = network.dims(node.inputs[0])[axis]
        if count != 1 and isinstance(size, int):
            found.append((axis, np.tile(np.arange(size), count)))
        elif count != 1:
            found.append((axis, np.zeros(0, dtype=np.int64)))
    return found


def _tile_back(network: Network, node: ir.Node, field: Field) -> Field:
    """All copies of an element get its map, so that has to be one."""
    for axis, index in _tiled(network, node, field.rank):
        if axis in field.varying:
            _require_known(index, node)
            field = field.put(axis, int(index[-1]) + 1, index)
    return field


def _tile_forth(network: Network, node: ir.Node, field: Field) -> Field:
    for axis, index in _tiled(network, node, field.rank):
        if axis in field.varying:
            _require_known(index, node)
            field = field.take(axis, index)
    return field


def _require_known(index: NDArray[np.int64], node: ir.Node) -> None:
    if index.size == 0:
        raise Refusal(f"the size that {label(node)} repeats is not known")


@dataclass(frozen=True)
class _Border:
    """What a Pad does along one axis.

    Attributes:
        axis: the axis.
        before: how many elements it puts before the first one; fewer than none if it takes some away.
        fills: whether it puts any, before or behind.
        size: how many elements the axis has before it, or None if that is not known.
    """

    axis: int
    before: int
    fills: bool
    size: int | None


def _borders(network: Network, node: ir.Node, rank: int) -> list[_Border]:
    """The axes that a Pad changes."""
    pads = network.constants.integers(node.inputs[1]) if len(node.inputs) > 1 else ints(node, "pads")
    axes = network.constants.integers(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] else None
    if pads is None or (len(node.inputs) > 3 and node.inputs[3] is not None and axes is None):
        raise Refusal(f"how {label(node)} pads is not known")
    axes = list(range(rank)) if axes is None else [axis % rank for axis in axes]
    sizes = network.dims(node.inputs[0])
    known = [size if isinstance(size, int) else None for size in sizes]
    pairs = [(axis, pads[i], pads[i + len(axes)]) for i, axis in enumerate(axes)]
    return [
        _Border(axis, begin, max(begin, end) > 0, known[axis]) for axis, begin, end in pairs if begin or end
    ]


def _fill(network: Network, node: ir.Node) -> float:
    """The number that a Pad pads with."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    number = network.constants.real(value) if value is not None else np.array(real_number(node, "value", 0.0))
    if number is None or number.size != 1:
        raise Refusal(f"what {label(node)} pads with is not known")
    return float(number.reshape(()))


def _pad_back(network: Network, node: ir.Node, field: Field) -> Field:
    """Copies of the input's edge get its map; a constant has to be what its own map makes of it."""
    borders = _borders(network, node, field.rank)
    constant = _pads_with_constant(node, field, borders)
    for border in borders:
        if border.axis not in field.varying:
            if constant and border.fills:
                _require_fixed(field, _fill(network, node), node)
            continue
        if border.size is None:
            raise Refusal(f"the size that {label(node)} pads is not known")
        place = np.arange(np.broadcast(field.scale, field.shift).shape[border.axis]) - border.before
        inside = (place >= 0) & (place < border.size)
        _require_some(inside, node)
        if not inside.all():
            _require_fixed(field.take(border.axis, np.flatnonzero(~inside)), _fill(network, node), node)
        field = field.take(border.axis, np.flatnonzero(inside)).put(border.axis, border.size, place[inside])
    return field


def _pad_forth(network: Network, node: ir.Node, field: Field) -> Field:
    """A constant lacks nothing; where the axis has one map, that has to leave the constant as it is."""
    borders = _borders(network, node, field.rank)
    constant = _pads_with_constant(node, field, borders)
    for border in borders:
        if border.axis not in field.varying:
            if constant and border.fills:
                _require_fixed(field, _fill(network, node), node)
            continue
        size = network.dims(node.outputs[0])[border.axis]
        if border.size is None or not isinstance(size, int):
            raise Refusal(f"the size that {label(node)} pads is not known")
        place = np.arange(border.size) + border.before
        inside = (place >= 0) & (place < size)
        _require_some(inside, node)
        field = field.take(border.axis, np.flatnonzero(inside)).put(border.axis, size, place[inside])
    return field


def _pads_with_constant(node: ir.Node, field: Field, borders: list[_Border]) -> bool:
    """Whether a Pad pads with a number, not with copies, which must be of elements of one map."""
    mode = text(node, "mode", "constant")
    if mode in ("reflect", "edge", "wrap"):
        uniform(field, {border.axis for border in borders}, node)
        return False
    if mode != "constant":
        raise Refusal(f"how {label(node)} pads is not known")
    return True


def _require_some(inside: NDArray[np.bool_], node: ir.Node) -> None:
    if not inside.any():
        raise Refusal(f"{label(node)} leaves nothing of its input")


def _require_fixed(field: Field, number: float, node: ir.Node) -> None:
    """Refuses a map that makes another number of `number`, but for the rounding of its own numbers."""
    scaled = field.scale * number
    size = np.abs(scaled) + np.abs(field.shift) + abs(number)
    if (np.abs(scaled + field.shift - number) > 4 * np.finfo(np.float64).eps * size).any():
        raise Refusal(f"{label(node)} pads with a constant, which is not scaled and shifted")


_SHAPED = moves(_reshape_back, _reshape_forth, "allowzero", "axes", "axis")

MOVING: dict[str, Passing] = {
    "DepthToSpace": moves(_depth_back, _depth_forth, "blocksize", "mode"),
    "Expand": moves(_expand_back, _expand_forth),
    "Flatten": _SHAPED,
    "Pad": moves(_pad_back, _pad_forth, "mode", "pads", "value"),
    "Reshape": _SHAPED,
    "SpaceToDepth": moves(_space_back, _space_forth, "blocksize"),
    "Squeeze": _SHAPED,
    "Tile": moves(_tile_back, _tile_forth),
    "Transpose": moves(_transpose_back, _transpose_forth, "perm"),
    "Unsqueeze": _SHAPED,
}
"""Operators that only move elements."""
