"""The linear operators of ONNX that absorb a map after them (law 2) or before them (law 3).

A row names the attributes that are understood; an operator with any other is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bn_deploy.batchnorm.affine import Affine, Vector
from bn_deploy.folding.absorb import absorb_after, absorb_before
from bn_deploy.folding.graph.constants import check_cast
from bn_deploy.folding.graph.evaluate import integer, ints, real_number, text
from bn_deploy.folding.graph.field import Array, Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.outcome import Refusal


@dataclass(frozen=True)
class Edit:
    """New weights for a node.

    Attributes:
        node: the node.
        index: which input its weight is.
        base: the weight as given.
        factor: what it is multiplied with from now on.
        bias: its new bias, at input `index` + 1; None if that stays.
        added: a shift to be added to its output, for want of a bias; None if there is none.
    """

    node: ir.Node
    index: int
    base: ir.Value
    factor: Array
    bias: Array | None = None
    added: Field | None = None


Absorb = Callable[[Network, ir.Node, Field], Edit]


@dataclass(frozen=True)
class Operator:
    """A linear operator.

    Attributes:
        rule: its name in reports.
        attributes: those that are understood.
        after, before: how it absorbs a map of its output, and of its input.
    """

    rule: str
    attributes: frozenset[str]
    after: Absorb
    before: Absorb


def operator_of(network: Network, node: ir.Node) -> Operator | None:
    """The row for `node`, or None if it is no linear operator that is known.

    Raises:
        Refusal: it is one, but has an attribute that is not understood.
    """
    row = OPERATORS.get(node.op_type) if network.standard(node) else None
    if row is not None and (unknown := set(node.attributes) - row.attributes):
        raise Refusal(f"attribute {min(unknown)} of {label(node)} is not known")
    return row


def _weight(network: Network, node: ir.Node, index: int) -> tuple[ir.Value, Array, tuple[int, ...]]:
    """The weight of `node`: as given, its factor, and its shape."""
    value = node.inputs[index]
    if value is None or not network.constants.holds(value):
        raise Refusal(f"the weights of {label(node)} are not constant")
    base, factor = network.constants.factor(value)
    dims = network.dims(base)
    sizes = tuple(size for size in dims if isinstance(size, int))
    if len(sizes) != len(dims) or network.constants.real(base) is None:
        raise Refusal(f"the weights of {label(node)} are not known")
    return base, factor.reshape([1] * (len(sizes) - factor.ndim) + list(factor.shape)), sizes


def _bias(network: Network, node: ir.Node, index: int, channels: int) -> Vector:
    """The bias of a convolution; zeros if it has none."""
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        return np.zeros(channels)
    array = network.constants.real(value)
    if array is None:
        raise Refusal(f"the bias of {label(node)} is not constant")
    return array


def _edit(network: Network, edit: Edit, bias_before: Array) -> Edit:
    """`edit` if it can be written in the weights' type, without what it leaves as it is."""
    dtype = edit.base.dtype
    assert dtype is not None  # noqa: S101 - `_weight` has read it
    check_cast(network.constants.product(edit.base, edit.factor), dtype, "weights")
    bias = edit.bias
    if bias is not None and np.array_equal(np.broadcast_to(bias_before, bias.shape), bias):
        bias = None
    if bias is not None and not np.isfinite(bias.astype(dtype.numpy()).astype(np.float64)).all():
        raise Refusal(f"the folded bias overflows {dtype.name.lower()}")
    return Edit(edit.node, edit.index, edit.base, edit.factor, bias, edit.added)


def _check(law: Callable[[], tuple[Array, Vector]]) -> tuple[Array, Vector]:
    """What a law gives; that channel counts differ is a reason."""
    try:
        return law()
    except ValueError as error:
        raise Refusal(str(error)) from error


def _conv_after(network: Network, node: ir.Node, field: Field, *, out_axis: int) -> Edit:
    """(N, C, ...): the weight has its output channels at `out_axis`."""
    base, factor, shape = _weight(network, node, 1)
    groups = integer(node, "group", 1)
    channels = shape[0] if out_axis == 0 else shape[1] * groups
    affine, bias = field.along(1, channels), _bias(network, node, 2, channels)
    # The laws are linear in the weight, so its factor stands for it: (out, 1, ...) is enough for law 2.
    part = np.broadcast_to(factor, (*shape[: 1 + out_axis], *factor.shape[1 + out_axis :]))
    scaled, shifted = _check(lambda: absorb_after(part, bias, affine, out_axis=out_axis, groups=groups))
    return _edit(network, Edit(node, 1, base, scaled, shifted), bias)


def _conv_before(network: Network, node: ir.Node, field: Field, *, in_axis: int) -> Edit:
    """(N, C, ...): the weight has its input channels at `in_axis`."""
    base, factor, shape = _weight(network, node, 1)
    groups = integer(node, "group", 1)
    inputs = shape[0] if in_axis == 0 else shape[1] * groups
    affine = field.along(1, inputs)
    if field.shifts and in_axis == 0:
        raise Refusal(f"the outputs of {label(node)} see parts of its kernel, which a shift does not allow")
    if field.shifts and _padded(node, shape):
        raise Refusal(f"{label(node)} pads its input with zeros, which are not shifted")
    bias = _bias(network, node, 2, shape[0] if in_axis == 1 else shape[1] * groups)
    part = np.broadcast_to(factor, (*shape[:2], *factor.shape[2:]))
    scaled, _ = _check(
        lambda: absorb_before(part, np.zeros(bias.size), affine, in_axis=in_axis, groups=groups)
    )
    shifted = bias
    if field.shifts:
        weight = network.constants.product(base, factor)
        _, shifted = _check(lambda: absorb_before(weight, bias, affine, in_axis=in_axis, groups=groups))
    return _edit(network, Edit(node, 1, base, scaled, shifted), bias)


def _padded(node: ir.Node, shape: tuple[int, ...]) -> bool:
    """Whether a convolution may see padded zeros."""
    if any(ints(node, "pads") or ()):
        return True
    mode = text(node, "auto_pad", "NOTSET")
    return mode not in ("NOTSET", "VALID") and any(size != 1 for size in shape[2:])


def _gemm_after(network: Network, node: ir.Node, field: Field) -> Edit:
    """(M, N) = alpha A B + beta C: the channels are N."""
    base, factor, shape = _weight(network, node, 1)
    axis = 0 if integer(node, "transB", 0) else 1
    given = _gemm_bias(network, node)
    affine = field.along(1, shape[axis])
    part = np.broadcast_to(factor, shape)
    scaled, shift = _check(lambda: absorb_after(part, np.zeros(shape[axis]), affine, out_axis=axis))
    return _edit(network, Edit(node, 1, base, scaled, given * affine.scale + shift), given)


def _gemm_before(network: Network, node: ir.Node, field: Field) -> Edit:
    """(M, N) = alpha A B + beta C: the channels of A are its columns."""
    if integer(node, "transA", 0):
        raise Refusal(f"{label(node)} transposes its input")
    base, factor, shape = _weight(network, node, 1)
    axis = 1 if integer(node, "transB", 0) else 0
    given = _gemm_bias(network, node)
    affine = field.along(1, shape[axis])
    zeros = np.zeros(shape[1 - axis])
    part = np.broadcast_to(factor, shape)
    scaled, _ = _check(lambda: absorb_before(part, zeros, affine, in_axis=axis))
    bias = given
    if field.shifts:
        weight = network.constants.product(base, factor)
        _, seen = _check(lambda: absorb_before(weight, zeros, affine, in_axis=axis))
        bias = given + real_number(node, "alpha", 1.0) * seen
    return _edit(network, Edit(node, 1, base, scaled, bias), given)


def _gemm_bias(network: Network, node: ir.Node) -> Array:
    """The bias beta C, of a shape that broadcasts to (M, N); zero if it is missing."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(1)
    array = network.constants.real(value)
    if array is None:
        raise Refusal(f"the bias of {label(node)} is not constant")
    return real_number(node, "beta", 1.0) * array


def _matmul_side(network: Network, node: ir.Node) -> tuple[int, int, tuple[int, ...]]:
    """Which operand is the weight, the axis from the end that it makes of the result, and its shape."""
    constant = [network.constants.holds(value) for value in node.inputs]
    if sum(constant) != 1:
        raise Refusal(f"the weights of {label(node)} are not constant")
    index = constant.index(True)
    _, _, shape = _weight(network, node, index)
    if len(shape) != 2 or network.rank(node.inputs[1 - index]) < 2:
        raise Refusal(f"{label(node)} multiplies with other than a matrix")
    return index, index - 2, shape


def _matmul_after(network: Network, node: ir.Node, field: Field) -> Edit:
    """Of x W, W's columns are last; of W x, its rows are last but one."""
    index, end, shape = _matmul_side(network, node)
    base, factor, _ = _weight(network, node, index)
    affine = field.along(field.rank + end, shape[index])
    part = np.broadcast_to(factor, shape)
    scaled, shift = _check(lambda: absorb_after(part, np.zeros(shape[index]), affine, out_axis=index))
    return _edit(network, Edit(node, index, base, scaled, added=_shift(shift, end, field.rank)), np.zeros(0))


def _matmul_before(network: Network, node: ir.Node, field: Field) -> Edit:
    """A product x W adds up the last axis of x, W x the last but one."""
    index, end, shape = _matmul_side(network, node)
    base, factor, _ = _weight(network, node, index)
    inputs = 1 - index
    affine = field.along(field.rank + (-1 if index == 1 else -2), shape[inputs])
    zeros = np.zeros(shape[index])
    part = np.broadcast_to(factor, shape)
    scaled, _ = _check(lambda: absorb_before(part, zeros, affine, in_axis=inputs))
    seen = zeros
    if field.shifts:
        weight = network.constants.product(base, factor)
        _, seen = _check(lambda: absorb_before(weight, zeros, affine, in_axis=inputs))
    return _edit(network, Edit(node, index, base, scaled, added=_shift(seen, end, field.rank)), np.zeros(0))


def _shift(shift: Vector, end: int, rank: int) -> Field | None:
    """A map that adds `shift` along the axis `end`, counted from behind; None if it is zero."""
    if not shift.any():
        return None
    return Field.of(Affine(np.ones(shift.size), shift), rank + end, rank)


_CONV = frozenset({"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"})

OPERATORS: dict[str, Operator] = {
    "Conv": Operator(
        "conv",
        _CONV,
        lambda network, node, field: _conv_after(network, node, field, out_axis=0),
        lambda network, node, field: _conv_before(network, node, field, in_axis=1),
    ),
    "ConvTranspose": Operator(
        "conv-transpose",
        _CONV | {"output_padding", "output_shape"},
        lambda network, node, field: _conv_after(network, node, field, out_axis=1),
        lambda network, node, field: _conv_before(network, node, field, in_axis=0),
    ),
    "Gemm": Operator("gemm", frozenset({"alpha", "beta", "transA", "transB"}), _gemm_after, _gemm_before),
    "MatMul": Operator("matmul", frozenset(), _matmul_after, _matmul_before),
}
"""The linear operators that are known."""
