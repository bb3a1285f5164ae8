"""Gemm, MatMul and linear layers: how matrices absorb a map after them (law 2) or before them (law 3)."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import onnx_ir as ir

from bn_deploy.batchnorm.affine import Affine, Vector
from bn_deploy.folding.absorb import absorb_after, absorb_before
from bn_deploy.folding.graph.attributes import integer, real_number
from bn_deploy.folding.graph.field import Array, Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.weights import Edit, bias_of, by_law, edited, seen, weight_of
from bn_deploy.folding.outcome import Refusal


def gemm_after(network: Network, node: ir.Node, field: Field) -> Edit:
    """(M, N) = alpha A B + beta C: the channels are N."""
    base, factor, shape = weight_of(network, node, 1)
    axis = 0 if integer(node, "transB", 0) else 1
    given = _gemm_bias(network, node)
    affine = field.along(1, shape[axis])
    scaled, shift = _scaled_after(factor, shape, affine, axis)
    return edited(network, Edit(node, 1, base, scaled, given * affine.scale + shift), given)


def gemm_before(network: Network, node: ir.Node, field: Field) -> Edit:
    """(M, N) = alpha A B + beta C: the channels of A are its columns."""
    if integer(node, "transA", 0):
        raise Refusal(f"{label(node)} transposes its input")
    base, factor, shape = weight_of(network, node, 1)
    axis = 1 if integer(node, "transB", 0) else 0
    affine = field.along(1, shape[axis])
    given = bias = _gemm_bias(network, node)
    if field.shifts:
        alpha = real_number(node, "alpha", 1.0)
        bias = given + alpha * seen(network, base, factor, affine, in_axis=axis)
    return edited(network, Edit(node, 1, base, _scaled_before(factor, shape, affine, axis), bias), given)


def linear_after(network: Network, node: ir.Node, field: Field) -> Edit:
    """(..., out) = x W^T + B, of a weight (out, in)."""
    base, factor, shape = weight_of(network, node, 1)
    affine, bias = field.along(field.rank - 1, shape[0]), bias_of(network, node, 2, shape[0])
    scaled, shift = _scaled_after(factor, shape, affine, 0)
    return edited(network, Edit(node, 1, base, scaled, affine.scale * bias + shift), bias)


def linear_before(network: Network, node: ir.Node, field: Field) -> Edit:
    """(..., out) = x W^T + B, of x (..., in)."""
    base, factor, shape = weight_of(network, node, 1)
    affine = field.along(field.rank - 1, shape[1])
    given = bias = bias_of(network, node, 2, shape[0])
    if field.shifts:
        bias = given + seen(network, base, factor, affine)
    return edited(network, Edit(node, 1, base, _scaled_before(factor, shape, affine, 1), bias), given)


def matmul_after(network: Network, node: ir.Node, field: Field) -> Edit:
    """Of x W, W's columns are last; of W x, its rows are last but one."""
    index, base, factor, shape = _matmul_weight(network, node)
    channels, batch = shape[index - 2], math.prod(shape[:-2])
    affine = _along(field, index - 2, shape, channels)
    part = _stacked(factor, shape, index - 2)
    # A batch of matrices is one operator in groups.
    law = partial(absorb_after, out_axis=index, groups=batch if index == 1 else 1)
    scaled, shift = by_law(lambda: law(part, np.zeros(affine.channels), affine))
    added = _shift(shift.reshape(*shape[:-2], channels), index - 2, field.rank)
    scaled = scaled.reshape(*shape[:-2], -1, scaled.shape[-1])
    return edited(network, Edit(node, index, base, scaled, added=added), np.zeros(0))


def matmul_before(network: Network, node: ir.Node, field: Field) -> Edit:
    """A product x W adds up the last axis of x, W x the last but one."""
    index, base, factor, shape = _matmul_weight(network, node)
    field = field.lifted(network.rank(node.outputs[0]))
    channels, batch = shape[index - 2], math.prod(shape[:-2])
    affine = _along(field, index - 2, shape, shape[-1 - index])
    law = partial(absorb_before, in_axis=1 - index, groups=batch)
    part = _stacked(factor, shape, -1 - index)
    scaled, _ = by_law(lambda: law(part, np.zeros(batch * factor.shape[index - 2]), affine))
    added = None
    if field.shifts:
        weight = network.constants.product(base, factor).reshape(batch * shape[-2], shape[-1])
        _, shift = by_law(lambda: law(weight, np.zeros(batch * channels), affine))
        added = _shift(shift.reshape(*shape[:-2], channels), index - 2, field.rank)
    scaled = scaled.reshape(*shape[:-2], -1, scaled.shape[-1])
    return edited(network, Edit(node, index, base, scaled, added=added), np.zeros(0))


def _stacked(factor: Array, shape: tuple[int, ...], axis: int) -> Array:
    """The factor of a batch of matrices, in full along `axis`, as one matrix with one below the other.

    The laws are linear in the weight, so its factor stands for it.
    """
    sizes = list(factor.shape)
    sizes[:-2], sizes[axis] = shape[:-2], shape[axis]
    return np.broadcast_to(factor, sizes).reshape(-1, sizes[-1])


def _scaled_after(factor: Array, shape: tuple[int, ...], affine: Affine, axis: int) -> tuple[Array, Vector]:
    """The factor of a matrix with its outputs along `axis` after law 2, and the shift it leaves.

    The laws are linear in the weight, so its factor stands for it.
    """
    sizes = [shape[i] if i == axis else factor.shape[i] for i in range(2)]
    part, zeros = np.broadcast_to(factor, sizes), np.zeros(shape[axis])
    return by_law(lambda: absorb_after(part, zeros, affine, out_axis=axis))


def _scaled_before(factor: Array, shape: tuple[int, ...], affine: Affine, axis: int) -> Array:
    """The factor of a matrix with its inputs along `axis` after law 3."""
    sizes = [shape[i] if i == axis else factor.shape[i] for i in range(2)]
    part, zeros = np.broadcast_to(factor, sizes), np.zeros(sizes[1 - axis])
    return by_law(lambda: absorb_before(part, zeros, affine, in_axis=axis))[0]


def _gemm_bias(network: Network, node: ir.Node) -> Array:
    """The bias beta C, of a shape that broadcasts to (M, N); zero if it is missing."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(1)
    array = network.constants.real(value)
    if array is None:
        raise Refusal(f"the bias of {label(node)} is not constant")
    return real_number(node, "beta", 1.0) * array


def _matmul_weight(network: Network, node: ir.Node) -> tuple[int, ir.Value, Array, tuple[int, ...]]:
    """Which operand is the weight, that as given, its factor, and its shape (..., rows, columns)."""
    constant = [network.constants.holds(value) for value in node.inputs]
    if sum(constant) != 1:
        raise Refusal(f"the weights of {label(node)} are not constant")
    index = constant.index(True)
    base, factor, shape = weight_of(network, node, index)
    if len(shape) < 2 or network.rank(node.inputs[1 - index]) < 2:
        raise Refusal(f"{label(node)} multiplies with other than a matrix")
    return index, base, factor, shape


def _along(field: Field, end: int, shape: tuple[int, ...], channels: int) -> Affine:
    """The map as one over the channels of every matrix of a batch, one matrix after the other.

    Args:
        field: a map of the data or of the result, of as many axes as the result.
        end: the axis of the channels, counted from behind.
        shape: of the weight.
        channels: how many each matrix has.
    """
    if len(shape) == 2:
        return field.along(field.rank + end, channels)
    if field.rank - 3 - end in field.varying:
        axes = sorted(field.varying)
        raise Refusal(f"the map varies along axes {axes}, not along axis {field.rank + end} of a batch")
    dims = [*shape[:-2], 1, 1]
    dims[end] = channels
    part = field.restricted(tuple(dims))
    return Affine(*(np.broadcast_to(array, dims).reshape(-1) for array in (part.scale, part.shift)))


def _shift(shift: Array, end: int, rank: int) -> Field | None:
    """A map that adds `shift` (..., channels) along the axis `end`, counted from behind; None if zero."""
    if not shift.any():
        return None
    shift = np.expand_dims(shift, -1 if end == -2 else -2)
    return Field(np.ones([1] * rank), shift.reshape([1] * (rank - shift.ndim) + list(shift.shape)))
