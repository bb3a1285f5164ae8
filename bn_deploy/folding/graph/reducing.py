"""Operators that add up elements of constants, as in standardised and low-rank weights. See `arithmetic`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from bn_deploy.folding.graph.arithmetic import Inputs, Numbers, Pure
from bn_deploy.folding.graph.attributes import integer, ints, real_number


def reduced_axes(node: ir.Node, given: Sequence[int] | None, rank: int) -> list[int]:
    """The axes that a reduction removes: an attribute, or since opset 13 or 18 an input, the second.

    If there are none it removes all, unless it is told not to.
    """
    axes = ints(node, "axes") if given is None else given
    if not axes:
        axes = [] if integer(node, "noop_with_empty_axes", 0) else list(range(rank))
    return sorted(axis % rank for axis in axes)


def _reduction(function: Callable[..., Any]) -> Pure:
    """`function` along some axes of real numbers."""

    def evaluate(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
        array, axes = (*inputs, None)[:2]
        known = set(node.attributes) <= {"axes", "keepdims", "noop_with_empty_axes"}
        if array is None or array.dtype != np.float64 or not known:
            return None
        given = None if axes is None else [int(axis) for axis in axes.reshape(-1)]
        along = tuple(reduced_axes(node, given, array.ndim))
        if not along:
            return None
        return np.asarray(function(array, axis=along, keepdims=bool(integer(node, "keepdims", 1))))

    return evaluate


def _whole_product(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:
    """ReduceProd, of sizes too."""
    array = inputs[0]
    if array is None or array.dtype != np.int64:
        return _reduction(np.prod)(node, inputs, dtype)
    real = _reduction(np.prod)(node, [array.astype(np.float64), *inputs[1:]], dtype)
    exact = real is not None and bool((np.abs(real) < 2.0**53).all())
    return real.astype(np.int64) if real is not None and exact else None


def _matmul(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    one, other = inputs
    real = one is not None and other is not None and one.dtype == other.dtype == np.float64
    return np.asarray(np.matmul(one, other)) if real and not node.attributes else None  # type: ignore[arg-type]


def _gemm(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """A product of matrices with factors: alpha A B + beta C."""
    one, other, added = (*inputs, None)[:3]
    if one is None or other is None or one.dtype != np.float64:
        return None
    if set(node.attributes) - {"alpha", "beta", "transA", "transB"}:
        return None
    product = (one.T if integer(node, "transA", 0) else one) @ (
        other.T if integer(node, "transB", 0) else other
    )
    shift = 0.0 if added is None else real_number(node, "beta", 1.0) * added
    return np.asarray(real_number(node, "alpha", 1.0) * product + shift)


def _softmax(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """Along the last axis, where those before opset 13 and since mean the same if they say which it is."""
    (array,) = inputs
    if array is None or array.dtype != np.float64 or set(node.attributes) != {"axis"}:
        return None
    if integer(node, "axis", 0) % array.ndim != array.ndim - 1:
        return None
    powers = np.exp(array - array.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def _normalised(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """BatchNormalization, (N, C, ...): in training mode it standardises the weights of some layers."""
    array, *vectors = inputs
    if array is None or array.ndim < 2 or set(node.attributes) - {"epsilon", "momentum", "training_mode"}:
        return None
    column = (-1, *[1] * (array.ndim - 2))
    scale, shift, mean, variance = (vector.reshape(column) for vector in vectors if vector is not None)
    if integer(node, "training_mode", 0):
        axes = (0, *range(2, array.ndim))
        mean, variance = array.mean(axis=axes, keepdims=True), array.var(axis=axes, keepdims=True)
    root = np.sqrt(variance + real_number(node, "epsilon", float(np.float32(1e-5))))
    return np.asarray((array - mean) / root * scale + shift)


def _instances(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """InstanceNormalization, (N, C, ...)."""
    array, scale, shift = inputs
    if array is None or scale is None or shift is None or set(node.attributes) - {"epsilon"}:
        return None
    axes = tuple(range(2, array.ndim))
    variance = array.var(axis=axes, keepdims=True) + real_number(node, "epsilon", float(np.float32(1e-5)))
    column = (-1, *[1] * (array.ndim - 2))
    normal = (array - array.mean(axis=axes, keepdims=True)) / np.sqrt(variance)
    return np.asarray(normal * scale.reshape(column) + shift.reshape(column))


REDUCING: dict[str, Pure] = {
    "BatchNormalization": _normalised,
    "Gemm": _gemm,
    "InstanceNormalization": _instances,
    "MatMul": _matmul,
    "ReduceL1": _reduction(lambda array, **axes: np.abs(array).sum(**axes)),
    "ReduceL2": _reduction(lambda array, **axes: np.sqrt(np.square(array).sum(**axes))),
    "ReduceMax": _reduction(np.max),
    "ReduceMean": _reduction(np.mean),
    "ReduceMin": _reduction(np.min),
    "ReduceProd": _whole_product,
    "ReduceSum": _reduction(np.sum),
    "ReduceSumSquare": _reduction(lambda array, **axes: np.square(array).sum(**axes)),
    "Softmax": _softmax,
}
"""What is known of operators that add up elements of constants."""
