"""Elementwise operators on constants: real numbers in float64, whole numbers and truth values as they are.

Each takes the node, the arrays of its inputs (None where one is left out) and its result's type, and returns
None where it is called in a way that is not understood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bn_deploy.folding.graph.attributes import integer, text

Numbers = NDArray[Any]
Inputs = Sequence["Numbers | None"]
Pure = Callable[[ir.Node, Inputs, ir.DataType], "Numbers | None"]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
"""The types in which networks compute."""

_WHOLE = (np.dtype(np.int64), np.dtype(np.int32))
"""The types of sizes and positions. Others wrap at sizes that numpy's rules need not share."""

_REAL = (np.dtype(np.float64),)
_NUMBERS = (*_REAL, *_WHOLE)
_TRUTH = (np.dtype(bool),)


def _each(function: Callable[..., Any], types: tuple[Any, ...] = _REAL) -> Pure:
    """An elementwise function of operands that all have one of `types`."""

    def evaluate(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
        arrays = _alike(inputs, types)
        return None if arrays is None or node.attributes else np.asarray(function(*arrays))

    return evaluate


def _alike(inputs: Inputs, types: tuple[Any, ...]) -> list[Numbers] | None:
    """The operands, if none is missing and all have the same one of `types`."""
    arrays = [array for array in inputs if array is not None]
    kinds = {array.dtype for array in arrays}
    return arrays if len(arrays) == len(inputs) and len(kinds) == 1 and kinds <= set(types) else None


def _joined(function: Callable[..., Any], types: tuple[Any, ...] = _REAL) -> Pure:
    """An elementwise function of two, applied to any number of operands one after the other."""
    return _each(lambda *arrays: reduce(function, arrays), types)


def _divide(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """Whole numbers are rounded towards zero."""
    arrays = _alike(inputs, _NUMBERS)
    if arrays is None or node.attributes:
        return None
    one, other = arrays
    if one.dtype in _REAL:
        return np.asarray(one / other)
    if not other.all():
        return None
    return np.asarray((one - np.fmod(one, other)) // other)


def _modulo(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """The remainder has the sign of the divisor, or with `fmod` that of the dividend."""
    arrays = _alike(inputs, _WHOLE)
    if arrays is None or set(node.attributes) - {"fmod"} or not arrays[1].all():
        return None
    return np.asarray((np.fmod if integer(node, "fmod", 0) else np.mod)(*arrays))


def _power(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """Its exponent may be a whole number."""
    base, exponent = inputs
    if node.attributes or base is None or exponent is None or base.dtype != np.float64:
        return None
    return np.asarray(np.power(base, exponent.astype(np.float64)))


def _clip(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """Bounds are attributes up to opset 10, inputs since 11."""
    array, low, high = (*inputs, None, None)[:3]
    if array is None or array.dtype not in _NUMBERS or set(node.attributes) - {"min", "max"}:
        return None
    for name, bound, function in (("min", low, np.maximum), ("max", high, np.minimum)):
        attribute = node.attributes.get(name)
        limit = np.float64(attribute.as_float()) if attribute is not None else bound
        if limit is not None and limit.dtype != array.dtype:
            return None
        array = array if limit is None else np.asarray(function(array, limit))
    return array


def _where(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    condition, one, other = inputs
    if node.attributes or condition is None or one is None or other is None or one.dtype != other.dtype:
        return None
    return np.where(condition, one, other)


def cast(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:
    """Cast and CastLike: to another type, with its rounding; that is what they are for."""
    array = inputs[0]
    if set(node.attributes) - {"to", "saturate", "round_mode"} or array is None:
        return None
    if text(node, "round_mode", "up") != "up":
        return None
    if dtype in FLOATS:
        return array.astype(dtype.numpy()).astype(np.float64)
    if dtype is ir.DataType.BOOL:
        return array.astype(bool)
    if dtype not in (ir.DataType.INT64, ir.DataType.INT32):
        return None
    result = array.astype(dtype.numpy())
    fits = array.dtype == bool or np.array_equal(result, np.trunc(array))
    return result if fits else None  # what does not fit is left to the platform


ARITHMETIC: dict[str, Pure] = {
    "Abs": _each(np.abs, _NUMBERS),
    "Add": _each(np.add, _NUMBERS),
    "And": _each(np.logical_and, _TRUTH),
    "Cast": cast,
    "CastLike": cast,
    "Ceil": _each(np.ceil),
    "Clip": _clip,
    "Div": _divide,
    "Equal": _each(np.equal, (*_NUMBERS, *_TRUTH)),
    "Exp": _each(np.exp),
    "Floor": _each(np.floor),
    "Greater": _each(np.greater, _NUMBERS),
    "GreaterOrEqual": _each(np.greater_equal, _NUMBERS),
    "Less": _each(np.less, _NUMBERS),
    "LessOrEqual": _each(np.less_equal, _NUMBERS),
    "Log": _each(np.log),
    "Max": _joined(np.maximum, _NUMBERS),
    "Mean": _each(lambda *arrays: reduce(np.add, arrays) / len(arrays)),
    "Min": _joined(np.minimum, _NUMBERS),
    "Mod": _modulo,
    "Mul": _each(np.multiply, _NUMBERS),
    "Neg": _each(np.negative, _NUMBERS),
    "Not": _each(np.logical_not, _TRUTH),
    "Or": _each(np.logical_or, _TRUTH),
    "Pow": _power,
    "Reciprocal": _each(np.reciprocal),
    "Relu": _each(lambda array: np.maximum(array, 0), _NUMBERS),
    "Round": _each(np.round),
    "Sigmoid": _each(lambda array: 0.5 * (1 + np.tanh(0.5 * array))),
    "Sign": _each(np.sign, _NUMBERS),
    "Sqrt": _each(np.sqrt),
    "Sub": _each(np.subtract, _NUMBERS),
    "Sum": _joined(np.add),
    "Tanh": _each(np.tanh),
    "Where": _where,
}
"""What is known of elementwise operators on constants."""

_JUMPING = frozenset(
    {"Ceil", "Equal", "Floor", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Round", "Sign"}
)
"""Operators of which the least change of a real number may make another result."""

ROUNDED_ONCE = frozenset(
    {"Abs", "Add", "And", "Cast", "CastLike", "Clip", "Div", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or"}
    | {"Reciprocal", "Relu", "Sqrt", "Sub", "Where"}
    | _JUMPING
)
"""Operators of which the float64 result, rounded to a shorter type, is what that type's arithmetic gives.

For +, -, *, / and the root see S. Figueroa, When is double rounding innocuous?, SIGNUM Newsletter 30 (1995):
float64 has more than twice the digits of float32, and two more.
"""


def jumps(node: ir.Node, dtype: ir.DataType) -> bool:
    """Whether the rounding of its inputs decides about the result of `node`, which is of type `dtype`."""
    return node.op_type in _JUMPING or (node.op_type in ("Cast", "CastLike") and dtype not in FLOATS)
