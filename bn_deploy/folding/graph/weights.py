"""New weights for linear operators: what there is to go by, and what must hold of the new numbers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from bn_deploy.batchnorm.affine import Affine, Vector
from bn_deploy.folding.absorb import absorb_before
from bn_deploy.folding.graph.constants import check_cast, overflows, range_of
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
        warning: what the type of the weights does to the new numbers, if a person should know.
    """

    node: ir.Node
    index: int
    base: ir.Value
    factor: Array
    bias: Array | None = None
    added: Field | None = None
    warning: str | None = None


def weight_of(network: Network, node: ir.Node, index: int) -> tuple[ir.Value, Array, tuple[int, ...]]:
    """The weight of `node`: as given, its factor, and its shape."""
    value = node.inputs[index]
    if value is None or not network.constants.holds(value):
        raise Refusal(f"the weights of {label(node)} are not constant")
    base, factor = network.constants.factor(value)
    dims = network.dims(base)
    sizes = tuple(size for size in dims if isinstance(size, int))
    if len(sizes) != len(dims) or not network.constants.is_real(base):
        raise Refusal(f"the weights of {label(node)} are not known")
    return base, factor.reshape([1] * (len(sizes) - factor.ndim) + list(factor.shape)), sizes


def bias_of(network: Network, node: ir.Node, index: int, channels: int) -> Vector:
    """The bias of a convolution or linear layer; zeros if it has none."""
    value = node.inputs[index] if len(node.inputs) > index else None
    if value is None:
        return np.zeros(channels)
    array = network.constants.real(value)
    if array is None:
        raise Refusal(f"the bias of {label(node)} is not constant")
    return array


def by_law(law: Callable[[], tuple[Array, Vector]]) -> tuple[Array, Vector]:
    """What a law gives; that channel counts differ is a reason."""
    try:
        return law()
    except ValueError as error:
        raise Refusal(str(error)) from error


def seen(
    network: Network, base: ir.Value, factor: Array, affine: Affine, *, in_axis: int = 1, groups: int = 1
) -> Vector:
    """What the outputs of a linear operator see of a shift of its inputs: W t, of law 3, for (out,) outputs.

    The weight (out, in / groups, ...), or (in, out / groups, ...) for `in_axis` 0, is read part by part.
    """
    parts = []
    for rows, weight in network.constants.blocks(base, factor, whole=groups > 1):
        whole = groups > 1 or in_axis == 1
        part = affine if whole else Affine(affine.scale[rows], affine.shift[rows])
        outputs = weight.shape[0] if in_axis == 1 else weight.shape[1] * groups
        law = partial(absorb_before, weight, np.zeros(outputs), part, in_axis=in_axis, groups=groups)
        parts.append(by_law(law)[1])
    return np.concatenate(parts) if in_axis == 1 else np.sum(parts, axis=0)


def edited(network: Network, edit: Edit, bias_before: Array) -> Edit:
    """`edit` if it can be written in the weights' type, without what it leaves as it is.

    Raises:
        Refusal: a number overflows, all are too small, or the weights as given are not finite.
    """
    dtype = edit.base.dtype
    assert dtype is not None  # noqa: S101 - `weight_of` has read it
    before = network.constants.peaks(edit.base, edit.factor.shape)
    after = before * np.abs(edit.factor)
    check_cast(after, dtype, "weights")
    bias = edit.bias
    if bias is not None and (bias_before == bias).all():
        bias = None
    if bias is not None and overflows(bias, dtype):
        raise Refusal(f"the folded bias overflows {dtype.numpy().name}")
    warning = _warning(before, after, bias, dtype)
    return replace(edit, bias=bias, warning=warning)


def _warning(before: Array, after: Array, bias: Array | None, dtype: ir.DataType) -> str | None:
    """What a person should know of the largest weights of each scale, and of the bias.

    Below `tiny`, the smallest normal number, a type has fewer digits. A bias beyond half of `max` overflows
    when as much is added to it.
    """
    tiny, most = range_of(dtype)
    if (after < tiny).any() and (faint := int(((after > 0) & (after < tiny) & (before >= tiny)).sum())):
        what = f"{faint} of {after.size} scales make weights below {tiny:.2g}"
        return f"{what}, where {_name(dtype)} has fewer digits"
    largest = max(
        float(after.max(initial=0.0)), 0.0 if bias is None else float(np.abs(bias).max(initial=0.0))
    )
    if largest > most / 2:
        return f"numbers up to {largest:.3g} take up more than half the range of {_name(dtype)}"
    return None


def _name(dtype: ir.DataType) -> str:
    return str(dtype.numpy().name)
