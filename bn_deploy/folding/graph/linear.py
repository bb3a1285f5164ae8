"""The linear operators that absorb a map after them (law 2) or before them (law 3).

A row names the attributes that are understood; an operator with any other is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bn_deploy.folding.absorb import absorb_after, absorb_before
from bn_deploy.folding.graph.attributes import integer, ints, text
from bn_deploy.folding.graph.dense import (
    gemm_after,
    gemm_before,
    linear_after,
    linear_before,
    matmul_after,
    matmul_before,
)
from bn_deploy.folding.graph.einsum import einsum_after, einsum_before
from bn_deploy.folding.graph.field import Field
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.weights import Edit, bias_of, by_law, edited, seen, weight_of
from bn_deploy.folding.outcome import Refusal

Absorb = Callable[[Network, ir.Node, Field], Edit]


@dataclass(frozen=True)
class Operator:
    """A linear operator.

    Attributes:
        rule: its name in reports.
        attributes: those that are understood.
        after, before: how it absorbs a map of its output, and of its input.
        has_bias: whether it takes a shift by itself; else that is left to be added.
    """

    rule: str
    attributes: frozenset[str]
    after: Absorb
    before: Absorb
    has_bias: bool = True


def operator_of(network: Network, node: ir.Node) -> Operator | None:
    """The row for `node`, or None if it is no linear operator that is known.

    Raises:
        Refusal: it is one, but has to stay as it is, or has an attribute that is not understood.
    """
    domain = "" if network.standard(node) else node.domain
    row = None if node.overload else OPERATORS.get((domain, node.op_type))
    if row is not None and node in network.fixed:
        raise Refusal(network.fixed[node])
    if row is not None and (unknown := set(node.attributes) - row.attributes):
        raise Refusal(f"attribute {min(unknown)} of {label(node)} is not known")
    return row


def _conv_after(network: Network, node: ir.Node, field: Field, *, out_axis: int) -> Edit:
    """(N, C, ...): the weight has its output channels at `out_axis`."""
    base, factor, shape = weight_of(network, node, 1)
    groups = integer(node, "group", 1)
    channels = shape[0] if out_axis == 0 else shape[1] * groups
    affine, bias = field.along(1, channels), bias_of(network, node, 2, channels)
    # The laws are linear in the weight, so its factor stands for it: (out, 1, ...) is enough for law 2.
    part = np.broadcast_to(factor, (*shape[: 1 + out_axis], *factor.shape[1 + out_axis :]))
    scaled, shifted = by_law(lambda: absorb_after(part, bias, affine, out_axis=out_axis, groups=groups))
    return edited(network, Edit(node, 1, base, scaled, shifted), bias)


def _conv_before(network: Network, node: ir.Node, field: Field, *, in_axis: int) -> Edit:
    """(N, C, ...): the weight has its input channels at `in_axis`."""
    base, factor, shape = weight_of(network, node, 1)
    groups = integer(node, "group", 1)
    inputs = shape[0] if in_axis == 0 else shape[1] * groups
    affine = field.along(1, inputs)
    if field.shifts and in_axis == 0 and not _is_pointwise(node, shape):
        raise Refusal(f"the outputs of {label(node)} see parts of its kernel, which a shift does not allow")
    if field.shifts and _padded(node, shape):
        raise Refusal(f"{label(node)} pads its input with zeros, which are not shifted")
    given = bias = bias_of(network, node, 2, shape[0] if in_axis == 1 else shape[1] * groups)
    part = np.broadcast_to(factor, (*shape[:2], *factor.shape[2:]))
    scaled, _ = by_law(
        lambda: absorb_before(part, np.zeros(given.size), affine, in_axis=in_axis, groups=groups)
    )
    if field.shifts:
        bias = given + seen(network, base, factor, affine, in_axis=in_axis, groups=groups)
    return edited(network, Edit(node, 1, base, scaled, bias), given)


def _padded(node: ir.Node, shape: tuple[int, ...]) -> bool:
    """Whether a convolution may see padded zeros."""
    if any(ints(node, "pads") or ()):
        return True
    mode = text(node, "auto_pad", "NOTSET")
    return mode not in ("NOTSET", "VALID") and any(size != 1 for size in shape[2:])


def _is_pointwise(node: ir.Node, shape: tuple[int, ...]) -> bool:
    """Whether every output of a transposed convolution sees all of a kernel of one tap."""
    steps, extra = ints(node, "strides") or (), (ints(node, "output_padding") or ())
    plain = "output_shape" not in node.attributes and text(node, "auto_pad", "NOTSET") in ("NOTSET", "VALID")
    return plain and all(size == 1 for size in (*shape[2:], *steps)) and not any(extra)


_CONV = frozenset({"auto_pad", "dilations", "group", "kernel_shape", "pads", "strides"})

LINEAR_DOMAIN = "bn_deploy"
"""Where the operator Linear lives that graphs of modules use: x (..., in), W (out, in), B (out,) or none."""

OPERATORS: dict[tuple[str, str], Operator] = {
    ("", "Conv"): Operator(
        "conv",
        _CONV,
        lambda network, node, field: _conv_after(network, node, field, out_axis=0),
        lambda network, node, field: _conv_before(network, node, field, in_axis=1),
    ),
    ("", "ConvTranspose"): Operator(
        "conv-transpose",
        _CONV | {"output_padding", "output_shape"},
        lambda network, node, field: _conv_after(network, node, field, out_axis=1),
        lambda network, node, field: _conv_before(network, node, field, in_axis=0),
    ),
    ("", "Einsum"): Operator("einsum", frozenset({"equation"}), einsum_after, einsum_before, has_bias=False),
    ("", "Gemm"): Operator("gemm", frozenset({"alpha", "beta", "transA", "transB"}), gemm_after, gemm_before),
    ("", "MatMul"): Operator("matmul", frozenset(), matmul_after, matmul_before, has_bias=False),
    (LINEAR_DOMAIN, "Linear"): Operator("linear", frozenset(), linear_after, linear_before),
}
"""The linear operators that are known, by domain and name."""
