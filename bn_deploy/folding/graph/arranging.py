"""Operators that make constants or move their elements. For the arguments see `arithmetic`.

They compute nothing, so arrays of sizes that are known only in part go through them as well.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from bn_deploy.folding.graph.arithmetic import FLOATS, Inputs, Numbers, Pure
from bn_deploy.folding.graph.attributes import integer, ints

_MOST = 1 << 24
"""How many numbers a constant may be enlarged to: layers of more weights are not made by enlarging."""


def taken(start: int, end: int, step: int, size: int) -> NDArray[np.int64]:
    """The positions that ONNX's Slice takes of an axis: ends are clamped as its specification says."""
    start, end = (number + size if number < 0 else number for number in (start, end))
    low, high = (0, size) if step > 0 else (0, size - 1)
    start = min(max(start, low), high)
    end = min(max(end, 0 if step > 0 else -1), size)
    return np.arange(start, end, step)


def _constant(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """One of the forms in which a constant is written down."""
    ((name, attribute),) = node.attributes.items() if len(node.attributes) == 1 else ((None, None),)
    if attribute is None or attribute.is_ref():
        return None
    if name == "value":
        return _numbers(attribute.as_tensor())
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


def _numbers(tensor: ir.TensorProtocol) -> Numbers:
    return tensor.numpy().astype(np.float64) if tensor.dtype in FLOATS else tensor.numpy()


def _filled(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """ConstantOfShape: zeros of single precision unless told otherwise."""
    (shape,) = inputs
    if shape is None or set(node.attributes) - {"value"}:
        return None
    value = node.attributes.get("value")
    number = np.zeros(1) if value is None else _numbers(value.as_tensor())
    return _enlarged(number.reshape(()), shape)


def _enlarged(array: Numbers, shape: Numbers) -> Numbers | None:
    """`array` broadcast to at least `shape`, without a copy."""
    sizes = np.broadcast_shapes(array.shape, tuple(int(size) for size in shape))
    return np.broadcast_to(array, sizes) if np.prod(sizes) <= max(_MOST, array.size) else None


def _range(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    start, limit, step = inputs
    if node.attributes or start is None or limit is None or step is None:
        return None
    if start.dtype != np.int64 or not step.any():
        return None
    numbers = range(int(start), int(limit), int(step))
    return np.array(numbers, dtype=np.int64) if len(numbers) <= _MOST else None


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


def _flatten(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    (array,) = inputs
    if array is None or set(node.attributes) - {"axis"}:
        return None
    axis = integer(node, "axis", 1)
    rows = int(np.prod(array.shape[: axis + array.ndim if axis < 0 else axis]))
    return array.reshape(rows, array.size // max(1, rows))


def _axes(node: ir.Node, inputs: Inputs) -> list[int] | None:
    """The axes of Squeeze and Unsqueeze: an attribute up to opset 12, an input since 13."""
    if len(inputs) > 1:
        return None if node.attributes or inputs[1] is None else [int(axis) for axis in inputs[1].reshape(-1)]
    return None if set(node.attributes) != {"axes"} else ints(node, "axes")


def _unsqueeze(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    axes = _axes(node, inputs)
    return None if axes is None or inputs[0] is None else np.expand_dims(inputs[0], tuple(axes))


def _squeeze(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """Without axes, all of size 1."""
    if inputs[0] is None:
        return None
    if len(inputs) == 1 and not node.attributes:
        return inputs[0].squeeze()
    axes = _axes(node, inputs)
    return None if axes is None else inputs[0].squeeze(tuple(axes))


def _expand(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    array, shape = inputs
    return None if array is None or shape is None or node.attributes else _enlarged(array, shape)


def _tile(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    array, repeats = inputs
    if array is None or repeats is None or node.attributes or repeats.size != array.ndim:
        return None
    return np.tile(array, repeats) if array.size * np.prod(repeats) <= _MOST else None


def _concat(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    arrays = [array for array in inputs if array is not None]
    if set(node.attributes) != {"axis"} or len(arrays) != len(inputs):
        return None
    return np.concatenate(arrays, axis=integer(node, "axis", 0))


def _gather(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    array, positions = inputs
    if array is None or positions is None or set(node.attributes) - {"axis"}:
        return None
    axis = integer(node, "axis", 0) % array.ndim
    index = np.where(positions < 0, positions + array.shape[axis], positions)
    return array[(slice(None),) * axis + (index, ...)]


def _slice(node: ir.Node, inputs: Inputs, dtype: ir.DataType) -> Numbers | None:  # noqa: ARG001
    """What it takes are attributes up to opset 9, inputs since 10."""
    array = inputs[0]
    if len(inputs) > 1 and (node.attributes or inputs[1] is None or inputs[2] is None):
        return None
    given = (*inputs[1:], None, None)[:4] if len(inputs) > 1 else ()
    starts, ends, axes, steps = (
        [None if part is None else [int(number) for number in part] for part in given]
        if given
        else [ints(node, "starts"), ints(node, "ends"), ints(node, "axes"), None]
    )
    if array is None or starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        array = np.take(array, taken(start, end, step, array.shape[axis]), axis=axis)
    return array


ARRANGING: dict[str, Pure] = {
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _filled,
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Identity": _identity,
    "Range": _range,
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
"""What is known of operators that move the elements of constants."""
