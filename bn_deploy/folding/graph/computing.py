"""Operators that compute and yet let some maps through: pooling, interpolation, sums, rectifiers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from bn_deploy.folding.graph.evaluate import integer, ints, text
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.passing import Fields, Passing, Pull, Push, same_both_ways, uniform
from bn_deploy.folding.outcome import Refusal


def _spatial(field: Field, node: ir.Node) -> None:
    uniform(field, frozenset(range(2, field.rank)), node)


def _unsigned(field: Field, node: ir.Node) -> None:
    if (field.scale < 0).any():
        raise Refusal(f"a negative scale does not pass {label(node)}, a {node.op_type}")


def _only_scale(field: Field, node: ir.Node) -> None:
    if field.shifts:
        raise Refusal(f"a shift does not pass {label(node)}, a {node.op_type}")


def _average(network: Network, node: ir.Node, field: Field) -> None:
    """A mean keeps shifts unless it counts padded zeros, or positions beyond the padding (ceil_mode)."""
    _spatial(field, node)
    padded = any(ints(node, "pads") or ()) or text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    counted = integer(node, "count_include_pad", 0) and (padded or integer(node, "ceil_mode", 0))
    if field.shifts and (counted or not _sees_input(network, node)):
        raise Refusal(f"{label(node)} averages over padded zeros, which are not shifted")


def _maximum(network: Network, node: ir.Node, field: Field) -> None:
    """A maximum keeps every order-preserving map; a zero scale makes all equal before and after."""
    _spatial(field, node)
    _unsigned(field, node)
    if not _sees_input(network, node):
        raise Refusal(f"a window of {label(node)} may lie in its padding")
    if any(value.name for value in node.outputs[1:]):
        raise Refusal(f"the indices of {label(node)} are used")


def _sees_input(network: Network, node: ir.Node) -> bool:
    """Whether every window of a pooling operator holds an element of its input."""
    kernel = ints(node, "kernel_shape") or []
    axes = len(kernel)
    pads, dilations = ints(node, "pads") or [0] * 2 * axes, ints(node, "dilations") or [1] * axes
    automatic = text(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    if any(step != 1 for step in dilations) and (any(pads) or automatic):
        return False
    if not integer(node, "ceil_mode", 0):
        return all(pads[axis] < size and pads[axis + axes] < size for axis, size in enumerate(kernel))
    # Rounding up may start a window behind the input: known sizes show it.
    strides = ints(node, "strides") or [1] * axes
    before, after = network.dims(node.inputs[0])[2:], network.dims(node.outputs[0])[2:]
    for axis, (size, count) in enumerate(zip(before, after, strict=True)):
        if not isinstance(size, int) or not isinstance(count, int) or pads[axis] >= kernel[axis]:
            return False
        if (count - 1) * strides[axis] - pads[axis] >= size:
            return False
    return not automatic


def _interpolated(network: Network, node: ir.Node, field: Field) -> None:
    """Resize and Upsample: each output is a weighted mean of inputs, or one of them."""
    mode = text(node, "mode", "nearest")
    place = text(node, "coordinate_transformation_mode", "half_pixel")
    if mode not in ("nearest", "linear") or place not in _PLACES or integer(node, "antialias", 0):
        raise Refusal(f"{label(node)} resizes in mode {mode}, {place}")
    resized = ints(node, "axes")
    rank = field.rank
    axes = set(range(rank)) if resized is None else {axis % rank for axis in resized}
    for axis in field.varying & axes:
        if not _keeps(
            network, node, axis if resized is None else [a % rank for a in resized].index(axis), axis
        ):
            raise Refusal(f"{label(node)} mixes elements that get different scales")


_PLACES = frozenset(
    {"half_pixel", "half_pixel_symmetric", "pytorch_half_pixel", "align_corners", "asymmetric"}
    | {"tf_half_pixel_for_nn"}
)


def _keeps(network: Network, node: ir.Node, position: int, axis: int) -> bool:
    """Whether a resize leaves `axis` alone: `position` is its place in the sizes or scales."""
    before, after = network.dims(node.inputs[0])[axis], network.dims(node.outputs[0])[axis]
    policy = text(node, "keep_aspect_ratio_policy", "stretch")
    if before != after or not isinstance(before, int) or policy != "stretch":
        return False
    attribute = node.attributes.get("scales")
    if attribute is not None:
        return attribute.as_floats()[position] == 1
    scales = node.inputs[1 if node.op_type == "Upsample" or network.opset < 11 else 2]
    if scales is None or not scales.name:
        return len(node.inputs) == 4  # by sizes, which are equal
    array = network.constants.real(scales)
    if array is not None and array.size == 0:
        return len(node.inputs) == 4
    return array is not None and array.reshape(-1)[position] == 1


def _reduced_axes(network: Network, node: ir.Node, rank: int) -> list[int]:
    """The axes that a reduction removes: an attribute, or since opset 13 or 18 an input."""
    axes: list[int] | None
    if len(node.inputs) > 1 and node.inputs[1] is not None:
        axes = network.constants.integers(node.inputs[1])
        if axes is None or "axes" in node.attributes:
            raise Refusal(f"the axes of {label(node)} are not known")
    else:
        axes = ints(node, "axes")
    if not axes:
        axes = [] if integer(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes)


def _reduction(*checks: Callable[[Field, ir.Node], None]) -> Passing:
    """A mean or an extreme value over axes along which the map is the same."""

    def pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
        axes = _reduced_axes(network, node, network.rank(node.inputs[0]))
        field = fields[0] if integer(node, "keepdims", 1) else fields[0].expanded(axes)
        for check in checks:
            check(field, node)
        return [{0: field}]

    def push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:
        if set(fields) != {0}:
            raise Refusal(f"{label(node)} is used in an unusual way")
        axes = _reduced_axes(network, node, fields[0].rank)
        uniform(fields[0], set(axes), node)
        for check in checks:
            check(fields[0], node)
        return {0: fields[0] if integer(node, "keepdims", 1) else fields[0].reduced(axes)}

    return Passing(frozenset({"axes", "keepdims", "noop_with_empty_axes"}), pull, push)


def _rectified(network: Network, node: ir.Node, field: Field) -> None:  # noqa: ARG001
    """max(s x, 0) = s max(x, 0) for s >= 0, and likewise with a slope for negative x."""
    _only_scale(field, node)
    _unsigned(field, node)


def _sum_pull(sign: float) -> Pull:
    """Of a + b, both get the scale, one of them the shift; a - b: likewise, with its sign."""

    def pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
        field = fields[0]
        answers, reason = [], Refusal("")
        signs = [1.0] + [sign] * (len(node.inputs) - 1)
        for bearer in range(len(node.inputs)):
            try:
                answers.append(
                    {
                        index: Field(
                            field.scale,
                            field.shift * signs[index] if index == bearer else np.zeros([1] * field.rank),
                        ).restricted(network.dims(value))
                        for index, value in enumerate(node.inputs)
                    }
                )
            except Refusal as refusal:
                reason = refusal
            if not field.shifts:
                break
        if not answers:
            raise reason
        return answers

    return pull


def _sum_push(sign: float) -> Push:
    def push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:
        rank = network.rank(node.outputs[0])
        lifted = {index: field.lifted(rank) for index, field in fields.items()}
        scale = next(iter(lifted.values())).scale if len(fields) == len(node.inputs) else np.ones([1] * rank)
        if any(not np.array_equal(field.scale, scale) for field in lifted.values()):
            raise Refusal(f"only one operand of {label(node)} is scaled")
        shifts = [field.shift * (sign if index else 1.0) for index, field in lifted.items()]
        return {0: Field(scale, sum(shifts[1:], start=shifts[0]))}

    return push


def _product_pull(network: Network, node: ir.Node, fields: Fields) -> list[dict[int, Field]]:
    """(s a) * b = s (a * b), and the same for a quotient."""
    _only_scale(fields[0], node)
    answers, reason = [], Refusal("")
    for index, value in enumerate(node.inputs[: 1 if node.op_type == "Div" else 2]):
        try:
            answers.append({index: fields[0].restricted(network.dims(value))})
        except Refusal as refusal:
            reason = refusal
    if not answers:
        raise reason
    return answers


def _product_push(network: Network, node: ir.Node, fields: Fields) -> dict[int, Field]:
    if set(fields) == {0, 1} or (1 in fields and node.op_type == "Div"):
        raise Refusal(f"both operands of {label(node)} are scaled")
    (field,) = fields.values()
    _only_scale(field, node)
    return {0: field.lifted(network.rank(node.outputs[0]))}


def _global_average(network: Network, node: ir.Node, field: Field) -> None:  # noqa: ARG001
    _spatial(field, node)


def _global_maximum(network: Network, node: ir.Node, field: Field) -> None:  # noqa: ARG001
    _spatial(field, node)
    _unsigned(field, node)


def _sloped(network: Network, node: ir.Node, field: Field) -> None:
    """PRelu: its slope broadcasts to the input, never the other way."""
    if field.rank != network.rank(node.inputs[0]):
        raise Refusal(f"{label(node)} is used in an unusual way")
    _rectified(network, node, field)


_POOL = ("auto_pad", "ceil_mode", "dilations", "kernel_shape", "pads", "strides")
_RESIZE = (
    *("antialias", "axes", "coordinate_transformation_mode", "cubic_coeff_a", "exclude_outside"),
    *("extrapolation_value", "keep_aspect_ratio_policy", "mode", "nearest_mode"),
)

COMPUTING: dict[str, Passing] = {
    "Add": Passing(frozenset(), _sum_pull(1.0), _sum_push(1.0)),
    "AveragePool": same_both_ways(_average, *_POOL, "count_include_pad"),
    "Div": Passing(frozenset(), _product_pull, _product_push),
    "GlobalAveragePool": same_both_ways(_global_average),
    "GlobalMaxPool": same_both_ways(_global_maximum),
    "LeakyRelu": same_both_ways(_rectified, "alpha"),
    "MaxPool": same_both_ways(_maximum, *_POOL, "storage_order"),
    "Mul": Passing(frozenset(), _product_pull, _product_push),
    "PRelu": same_both_ways(_sloped),
    "ReduceMax": _reduction(_unsigned),
    "ReduceMean": _reduction(),
    "ReduceMin": _reduction(_unsigned),
    "Relu": same_both_ways(_rectified),
    "Resize": same_both_ways(_interpolated, *_RESIZE),
    "Sub": Passing(frozenset(), _sum_pull(-1.0), _sum_push(-1.0)),
    "Sum": Passing(frozenset(), _sum_pull(1.0), _sum_push(1.0)),
    "Upsample": same_both_ways(_interpolated, "mode", "scales"),
}
"""Operators that compute and let some maps through."""
