"""Pure operators on constants, evaluated in float64: how a hand-written batch norm prepares its numbers.

Each takes the node, the arrays of its inputs (None where one is left out) and its result's type, and returns
None where it is called in a way that is not understood.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

Numbers = NDArray[Any]
Inputs = Sequence["Numbers | None"]
Pure = Callable[[ir.Node, Inputs, ir.DataType], "Numbers | None"]

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})
"""The types in which networks compute."""


def _real(function: Callable[..., Any]) -> Pure:
    """An elementwise operator on real numbers. On whole numbers some of them wrap or truncate."""

    def evaluate(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
        if node.attributes or any(a is None or a.dtype != np.float64 for a in inputs):
            return None
        return np.asarray(function(*inputs), dtype=np.float64)

    return evaluate


def _power(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """Its exponent may be a whole number."""
    base, exponent = inputs
    if node.attributes or base is None or exponent is None or base.dtype != np.float64:
        return None
    return np.asarray(np.power(base, exponent.astype(np.float64)))


def _cast(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:
    """To another type, with its rounding: that is what the operator is for."""
    (array,) = inputs
    if set(node.attributes) - {"to", "saturate"} or array is None:
        return None
    if dtype in FLOATS:
        return array.astype(dtype.numpy()).astype(np.float64)
    return array.astype(np.int64) if dtype is ir.DataType.INT64 else None


def _constant(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """One of the forms in which a constant is written down."""
    ((name, attribute),) = node.attributes.items() if len(node.attributes) == 1 else ((None, None),)
    if attribute is None or attribute.is_ref():
        return None
    if name == "value":
        tensor = attribute.as_tensor()
        return tensor.numpy().astype(np.float64) if tensor.dtype in FLOATS else tensor.numpy()
    kinds = {
        "value_float": np.float32,
        "value_floats": np.float32,
        "value_int": np.int64,
        "value_ints": np.int64,
    }
    if name not in kinds:
        return None
    array = np.asarray(attribute.value, dtype=kinds[name])
    return array.astype(np.float64) if array.dtype == np.float32 else array


def _identity(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    return None if node.attributes else inputs[0]


def _transpose(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    (array,) = inputs
    if array is None or set(node.attributes) - {"perm"}:
        return None
    return np.transpose(array, ints(node, "perm"))


def _reshape(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    array, shape = inputs
    if array is None or shape is None or set(node.attributes) - {"allowzero"}:
        return None
    sizes = [int(size) for size in shape]
    if integer(node, "allowzero", 0) == 0:
        sizes = [array.shape[axis] if size == 0 else size for axis, size in enumerate(sizes)]
    return array.reshape(sizes)


def _axes(node: ir.Node, inputs: Inputs) -> list[int] | None:
    """The axes of Squeeze and Unsqueeze: an attribute up to opset 12, an input since 13."""
    if len(inputs) > 1:
        return None if node.attributes or inputs[1] is None else [int(axis) for axis in inputs[1].reshape(-1)]
    return None if set(node.attributes) != {"axes"} else ints(node, "axes")


def _unsqueeze(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    axes = _axes(node, inputs)
    return None if axes is None or inputs[0] is None else np.expand_dims(inputs[0], tuple(axes))


def _squeeze(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    axes = _axes(node, inputs)
    return None if axes is None or inputs[0] is None else inputs[0].squeeze(tuple(axes))


def _expand(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    array, shape = inputs
    if array is None or shape is None or node.attributes:
        return None
    return np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(int(size) for size in shape)))


def _concat(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    if set(node.attributes) != {"axis"} or any(array is None for array in inputs):
        return None
    return np.concatenate([array for array in inputs if array is not None], axis=integer(node, "axis", 0))


def ints(node: ir.Node, name: str) -> list[int] | None:
    """An attribute of whole numbers, or None if it is not there."""
    attribute = node.attributes.get(name)
    return None if attribute is None else [int(number) for number in attribute.as_ints()]


def integer(node: ir.Node, name: str, default: int) -> int:
    """An attribute that is a whole number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else int(attribute.as_int())


def real_number(node: ir.Node, name: str, default: float) -> float:
    """An attribute that is a real number."""
    attribute = node.attributes.get(name)
    return default if attribute is None else float(attribute.as_float())


def text(node: ir.Node, name: str, default: str) -> str:
    """An attribute that is a word."""
    attribute = node.attributes.get(name)
    return default if attribute is None else str(attribute.as_string())


PURE: dict[str, Pure] = {
    "Abs": _real(np.abs),
    "Add": _real(np.add),
    "Cast": _cast,
    "Concat": _concat,
    "Constant": _constant,
    "Div": _real(np.divide),
    "Exp": _real(np.exp),
    "Expand": _expand,
    "Identity": _identity,
    "Mul": _real(np.multiply),
    "Neg": _real(np.negative),
    "Pow": _power,
    "Reciprocal": _real(np.reciprocal),
    "Reshape": _reshape,
    "Sqrt": _real(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _real(np.subtract),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""What is known of operators on constants."""
