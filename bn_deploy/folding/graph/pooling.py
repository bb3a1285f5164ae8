"""Operators that join several elements of a channel to one: pooling and reductions."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bn_deploy.folding.graph.attributes import integer, ints, text
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.passing import Fields, Passing, only_scale, same_both_ways, uniform, unsigned
from bn_deploy.folding.graph.reducing import reduced_axes
from bn_deploy.folding.outcome import Refusal


def _spatial(field: Field, node: ir.Node) -> None:
    uniform(field, frozenset(range(2, field.rank)), node)


def _average(network: Network, node: ir.Node, field: Field) -> None:
    """A mean keeps shifts unless it counts padded zeros, or positions beyond the padding (ceil_mode)."""
    _spatial(field, node)
    if not field.shifts:
        return
    windows = _windows(network, node)
    padded = any(ints(node, "pads") or ()) or text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    counted = (padded or integer(node, "ceil_mode", 0)) if windows is None else windows[1]
    if (integer(node, "count_include_pad", 0) and counted) or not _sees_input(network, node):
        raise Refusal(f"{label(node)} averages over padded zeros, which are not shifted")


def _maximum(network: Network, node: ir.Node, field: Field) -> None:
    """A maximum keeps every order-preserving map; a zero scale makes all equal before and after."""
    _spatial(field, node)
    unsigned(field, node)
    if not _sees_input(network, node):
        raise Refusal(f"a window of {label(node)} may lie in its padding")
    if any(value.name for value in node.outputs[1:]):
        raise Refusal(f"the indices of {label(node)} are used")


def _windows(network: Network, node: ir.Node) -> tuple[bool, bool] | None:
    """Whether some window of a pooling operator sees nothing of its input, and whether some sees more.

    None if the sizes are not known.
    """
    kernel = ints(node, "kernel_shape") or []
    axes = len(kernel)
    strides, dilations = (ints(node, name) or [1] * axes for name in ("strides", "dilations"))
    before, after = network.dims(node.inputs[0])[2:], network.dims(node.outputs[0])[2:]
    blind = more = False
    for axis, (size, count) in enumerate(zip(before, after, strict=True)):
        if not isinstance(size, int) or not isinstance(count, int):
            return None
        taps = np.arange(kernel[axis]) * dilations[axis]
        mode = text(node, "auto_pad", "NOTSET")
        begin = (ints(node, "pads") or [0] * axes)[axis] if mode == "NOTSET" else 0
        if mode.startswith("SAME"):
            total = max((count - 1) * strides[axis] + int(taps[-1]) + 1 - size, 0)
            begin = total // 2 if mode == "SAME_UPPER" else total - total // 2
        starts = np.arange(count) * strides[axis] - begin
        at_edges = starts[(starts < 0) | (starts + taps[-1] >= size)]
        seen = at_edges[:, None] + taps
        inside = (seen >= 0) & (seen < size)
        blind |= not bool(inside.any(axis=1).all())
        more |= not bool(inside.all())
    return blind, more


def _sees_input(network: Network, node: ir.Node) -> bool:
    """Whether every window of a pooling operator holds an element of its input."""
    if _sees_any_input(node):
        return True
    windows = _windows(network, node)
    return windows is not None and not windows[0]


def _sees_any_input(node: ir.Node) -> bool:
    """Whether that holds for inputs of any size."""
    kernel = ints(node, "kernel_shape") or []
    pads, dilations = ints(node, "pads") or [0] * 2 * len(kernel), ints(node, "dilations") or []
    automatic = text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if integer(node, "ceil_mode", 0):  # rounding up may start a window behind the input
        return False
    if any(step != 1 for step in dilations):
        return not any(pads) and not automatic
    return all(pads[axis] < size and pads[axis + len(kernel)] < size for axis, size in enumerate(kernel))


def _global_average(network: Network, node: ir.Node, field: Field) -> None:  # noqa: ARG001
    _spatial(field, node)


def _global_maximum(network: Network, node: ir.Node, field: Field) -> None:  # noqa: ARG001
    _spatial(field, node)
    unsigned(field, node)


def _norm(network: Network, node: ir.Node, field: Field) -> None:  # noqa: ARG001
    """The norm of s x is s times that of x, for s >= 0; padded zeros add nothing."""
    _spatial(field, node)
    only_scale(field, node)
    unsigned(field, node)


def _running_sum(network: Network, node: ir.Node, field: Field) -> None:
    """A sum of s x is s times that of x; a shift would add up from place to place."""
    only_scale(field, node)
    axis = network.constants.integers(node.inputs[1])
    if axis is None or len(axis) != 1:
        raise Refusal(f"the axis of {label(node)} is not known")
    uniform(field, {axis[0] % field.rank}, node)


def _reduced_axes(network: Network, node: ir.Node, rank: int) -> list[int]:
    """The axes that a reduction removes."""
    given = node.inputs[1] if len(node.inputs) > 1 else None
    axes = None if given is None else network.constants.integers(given)
    if given is not None and (axes is None or "axes" in node.attributes):
        raise Refusal(f"the axes of {label(node)} are not known")
    return reduced_axes(node, axes, rank)


def _reduction(*checks: Callable[[Field, ir.Node], None], adds_up: bool = False) -> Passing:
    """What becomes of axes along which the map is the same: a mean, an extreme value, a norm, or a sum.

    Of n elements, a sum has n times the shift.
    """

    def count(network: Network, node: ir.Node, axes: list[int], field: Field) -> float:
        if not (adds_up and field.shifts):
            return 1.0
        sizes = [network.dims(node.inputs[0])[axis] for axis in axes]
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) != len(sizes) or 0 in known:
            raise Refusal(f"how many elements {label(node)} adds up is not known")
        return float(math.prod(known))

    def pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
        axes = _reduced_axes(network, node, network.rank(node.inputs[0]))
        field = fields[0] if integer(node, "keepdims", 1) else fields[0].expanded(axes)
        for check in checks:
            check(field, node)
        return [{0: Field(field.scale, field.shift / count(network, node, axes, field))}]

    def push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:
        if set(fields) != {0}:
            raise Refusal(f"{label(node)} is used in an unusual way")
        axes = _reduced_axes(network, node, fields[0].rank)
        uniform(fields[0], set(axes), node)
        for check in checks:
            check(fields[0], node)
        field = Field(fields[0].scale, fields[0].shift * count(network, node, axes, fields[0]))
        return {0: field if integer(node, "keepdims", 1) else field.reduced(axes)}

    return Passing(frozenset({"axes", "keepdims", "noop_with_empty_axes"}), pull, push)


_POOL = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")

POOLING: dict[str, Passing] = {
    "AveragePool": same_both_ways(_average, *_POOL, "count_include_pad"),
    "CumSum": same_both_ways(_running_sum, "exclusive", "reverse"),
    "GlobalAveragePool": same_both_ways(_global_average),
    "GlobalLpPool": same_both_ways(_norm, "p"),
    "GlobalMaxPool": same_both_ways(_global_maximum),
    "LpPool": same_both_ways(_norm, *_POOL, "p"),
    "MaxPool": same_both_ways(_maximum, *_POOL, "storage_order"),
    "ReduceL1": _reduction(only_scale, unsigned),
    "ReduceL2": _reduction(only_scale, unsigned),
    "ReduceMax": _reduction(unsigned),
    "ReduceMean": _reduction(),
    "ReduceMin": _reduction(unsigned),
    "ReduceSum": _reduction(adds_up=True),
}
"""Operators that join elements of a channel."""
