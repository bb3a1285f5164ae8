"""Pure operators on constants, evaluated in float64: how exporters and hand-written layers prepare numbers.

Sizes are whole numbers, and exact. Where some of a tensor are not known, what is known of the others is kept.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from bn_deploy.folding.graph.arithmetic import ARITHMETIC, FLOATS, Inputs, Numbers, Pure
from bn_deploy.folding.graph.arranging import ARRANGING
from bn_deploy.folding.graph.attributes import integer
from bn_deploy.folding.graph.layout import Dims
from bn_deploy.folding.graph.reducing import REDUCING

PURE: dict[str, Pure] = {**ARITHMETIC, **ARRANGING, **REDUCING}
"""What is known of operators on constants."""

_WHOLE = frozenset({ir.DataType.INT32, ir.DataType.INT64})

_BLIND = {("CastLike", 1), ("Shape", 0), ("Size", 0)}
"""Inputs, by operator and place, of which only the size or the type matters."""


def reads_numbers(node: ir.Node, index: int) -> bool:
    """Whether the numbers in input `index` of one of ONNX's own operators matter at all."""
    return (node.op_type, index) not in _BLIND


def operands(node: ir.Node, inputs: Sequence[ir.Value | None]) -> list[ir.Value]:
    """Those of its inputs whose numbers matter."""
    given = enumerate(inputs)
    return [value for index, value in given if value is not None and reads_numbers(node, index)]


def is_pure(node: ir.Node) -> bool:
    """Whether the first output, the only one that is used, follows from the inputs by a row of `PURE`."""
    known = node.domain in ("", "ai.onnx") and node.op_type in PURE and not node.overload
    return known and not any(value.uses() or value.is_graph_output() for value in node.outputs[1:])


def evaluate(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:
    """What a pure function makes of constant inputs, or None if it is called in an unknown way."""
    try:
        with np.errstate(all="ignore"):  # what is not finite is found where it is used
            return PURE[node.op_type](node, inputs, dtype)
    except (ArithmeticError, IndexError, TypeError, ValueError):  # sizes that do not fit, or are not known
        return None


def rounded(array: Numbers, dtype: ir.DataType) -> Numbers:
    """Real numbers as a runtime that computes in `dtype` has them."""
    if dtype not in FLOATS or dtype is ir.DataType.DOUBLE or array.dtype != np.float64:
        return array
    with np.errstate(all="ignore"):
        return array.astype(dtype.numpy()).astype(np.float64)


def shape_of(node: ir.Node, dims: Dims) -> Numbers | None:
    """What Shape or Size gives for a tensor of sizes `dims`; a name or None where a size is not known."""
    if node.op_type == "Shape" and not set(node.attributes) - {"start", "end"}:
        part = slice(integer(node, "start", 0), integer(node, "end", len(dims)))
        return _sizes(dims[part])
    if node.op_type == "Size" and not node.attributes:
        known = [size for size in dims if isinstance(size, int)]
        return np.array(np.prod(known, dtype=np.int64)) if len(known) == len(dims) else None
    return None


def _sizes(dims: Sequence[int | str | None]) -> Numbers:
    array = np.empty(len(dims), dtype=object)
    array[:] = dims
    return settled(array)


def settled(array: Numbers) -> Numbers:
    """Sizes as whole numbers, if all of them are."""
    known = all(isinstance(size, int | np.integer) for size in array.reshape(-1))
    return array.astype(np.int64) if known else array


def rearranged(node: ir.Node, inputs: Inputs, dtype: ir.DataType | None) -> Numbers | None:
    """What an operator that only moves elements makes of sizes that are known in part."""
    if dtype not in _WHOLE or any(array is None for array in inputs):
        return None
    if node.op_type == "Cast":
        return inputs[0]
    if node.op_type not in ARRANGING:
        return None
    found = evaluate(node, inputs, dtype)
    return None if found is None else settled(found)
