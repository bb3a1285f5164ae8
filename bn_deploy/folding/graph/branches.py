"""Merging parallel branches, on request: linear operators that read one value and meet in a sum become one.

A sum of linear operators of x is a linear operator of x. It is written as the one of them that sees all
that the others see (`kernels`), so none is ever made larger. A per-channel map of x, or x itself, is a kernel
that sees one position of one channel: so a batch norm goes that nothing else could absorb, since x has other
readers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.folding.absorb import absorb_after
from bn_deploy.folding.graph.attributes import integer, ints, real_number, text
from bn_deploy.folding.graph.chains import Chain, Chains
from bn_deploy.folding.graph.constants import check_cast, overflows
from bn_deploy.folding.graph.field import Array, Field
from bn_deploy.folding.graph.kernels import Kernel
from bn_deploy.folding.graph.linear import operator_of
from bn_deploy.folding.graph.links import Link
from bn_deploy.folding.graph.network import Network, label
from bn_deploy.folding.graph.plan import erase
from bn_deploy.folding.outcome import Refusal


@dataclass(frozen=True, eq=False)
class Branch:
    """A way from one value to a sum: perhaps through a linear operator, then perhaps through a chain.

    Attributes:
        source: where it starts.
        result: what the sum reads.
        node: the linear operator.
        chain: the chain.
    """

    source: ir.Value
    result: ir.Value
    node: ir.Node | None = None
    chain: Chain | None = None


@dataclass(frozen=True, eq=False)
class _Sum:
    """A sum as it stands in a graph.

    Attributes:
        root: the Add that is not read by another Add alone.
        joins: all its Adds, the root among them.
        leaves: what is added up.
    """

    root: ir.Node
    joins: set[ir.Node]
    leaves: list[ir.Value]


@dataclass
class Merged:
    """What became of the branches.

    Attributes:
        gone: chains that are gone, and the operator that took each.
        refused: chains that could not go into an operator beside them, and why.
        count: how many branches are gone.
    """

    gone: list[tuple[Chain, ir.Node]] = field(default_factory=list)
    refused: dict[Chain, str] = field(default_factory=dict)
    count: int = 0


def merge_branches(network: Network, chains: Chains) -> Merged:
    """Merges, in each sum, branches that start from one value. A sum is an Add, or a tree of them."""
    merged = Merged()
    for total in list(_sums(network, chains)):
        groups: dict[ir.Value, list[Branch]] = {}
        for leaf in total.leaves:
            for branch in _branches(network, chains, leaf):
                groups.setdefault(branch.source, []).append(branch)
        for group in groups.values():
            if len(group) < 2 or all(branch.node is None for branch in group):
                continue
            try:
                carrier, others = _merge(network, total, group)
            except Refusal as refusal:
                chained = [branch.chain for branch in group if branch.chain is not None]
                merged.refused.update(dict.fromkeys(chained, str(refusal)))
                continue
            assert carrier.node is not None  # noqa: S101 - it was given new weights
            chained = [branch.chain for branch in (carrier, *others) if branch.chain is not None]
            merged.gone += [(chain, carrier.node) for chain in chained]
            merged.count += len(others)
            break  # of other groups some branches may be gone; there will be another look
    return merged


def _sums(network: Network, chains: Chains) -> Iterator[_Sum]:
    """Every sum; an Add of a constant is none."""
    inner: dict[ir.Node, set[ir.Node]] = {}
    for node in network.graph:
        if not _is_join(network, chains, node):
            continue
        makers = [value.producer() for value in node.inputs if value is not None]
        parts = sorted((inner.pop(maker) for maker in makers if maker in inner), key=len)
        joins = parts.pop() if parts else set()
        joins.update([node], *parts)
        value = node.outputs[0]
        if _alone(network, value) and _is_join(network, chains, network.uses(value)[0][0]):
            inner[node] = joins
            continue
        ordered = sorted(joins, key=network.position.__getitem__)
        read = [value for join in ordered for value in join.inputs if value is not None]
        yield _Sum(node, joins, [value for value in read if value.producer() not in joins])


def _is_join(network: Network, chains: Chains, node: ir.Node) -> bool:
    free = chains.of(node) is None and node not in network.fixed
    return network.standard(node) and node.op_type == "Add" and free


def _branches(network: Network, chains: Chains, leaf: ir.Value) -> Iterator[Branch]:
    """Every way in which `leaf` is a branch: of itself, of what its chain reads, of its operator's input."""
    yield Branch(leaf, leaf)
    value, chain = leaf, chains.of(leaf.producer())
    if chain is not None:
        if chain.result is not leaf or not _alone(network, leaf):
            return
        value = chain.source
        yield Branch(value, leaf, None, chain)
    node = value.producer()
    source = None if node is None or not node.inputs else node.inputs[0]
    if not _alone(network, value) or node is None or source is None:
        return
    try:
        known = operator_of(network, node) is not None and node.op_type in _KERNELS
    except Refusal:
        return
    if known:
        yield Branch(source, leaf, node, chain)


def _alone(network: Network, value: ir.Value) -> bool:
    return len(network.uses(value)) == 1 and network.seen_outside(value) is None


def _merge(network: Network, total: _Sum, group: list[Branch]) -> tuple[Branch, list[Branch]]:
    """Puts as many branches of `group` as possible into one of them.

    Returns:
        That one, and those that are gone.

    Raises:
        Refusal: there are none, with the reason for the first that was tried.
    """
    kernels: dict[Branch, Kernel] = {}
    first: Refusal | None = None
    for branch in group:
        try:
            if branch.node is not None:
                kernels[branch] = _kernel(network, branch)
        except Refusal as refusal:
            first = first or refusal
    for carrier in sorted(kernels, key=lambda branch: -kernels[branch].weight.size):
        whole = kernels[carrier]
        weight, bias = whole.weight, whole.bias
        others = []
        for branch in group:
            if branch is carrier or (branch.node is not None and branch not in kernels):
                continue
            try:
                part = kernels[branch] if branch in kernels else _pointwise(branch, whole)
                weight, bias = weight + part.within(whole), bias + part.bias
                others.append(branch)
            except Refusal as refusal:
                first = first or Refusal(f"beside it is {label(carrier.node)}: {refusal}")
        if others:
            if len(others) + 1 < len(total.leaves):
                _check_sizes(network, total)
            _write(network, carrier, weight, bias)
            for branch in others:
                _remove(network, total, branch)
            return carrier, others
    assert first is not None  # noqa: S101 - a group has two branches, and an operator among them
    raise first


def _check_sizes(network: Network, total: _Sum) -> None:
    """Rules out that what stays of a sum is smaller than the sum, which then lacked its size on the way."""
    dims = network.dims(total.root.outputs[0])
    if None in dims or any(network.dims(leaf) != dims for leaf in total.leaves):
        raise Refusal(f"{label(total.root)} adds up values of different or unknown sizes")


def _remove(network: Network, total: _Sum, branch: Branch) -> None:
    """Takes a branch out of a sum, and an Add with it."""
    join, index = next(use for use in network.uses(branch.result) if use[0] in total.joins)
    unchanged = Field.identity(network.rank(join.outputs[0]))
    erase(network, Chain([Link(join, 1 - index, unchanged)], unchanged))
    total.joins.remove(join)
    nodes = [] if branch.chain is None else [part.node for part in branch.chain.links]
    network.graph.remove(nodes if branch.node is None else [*nodes, branch.node], safe=True)


def _pointwise(branch: Branch, beside: Kernel) -> Kernel:
    """The kernel of a branch that is a per-channel map, or nothing at all."""
    channels, axes = beside.inputs, len(beside.strides)
    affine = Affine.identity(channels) if branch.chain is None else branch.chain.field.along(1, channels)
    return Kernel.pointwise(affine, axes)


def _kernel(network: Network, branch: Branch) -> Kernel:
    """The kernel of a branch with a linear operator, and of the chain behind it (law 2)."""
    node = branch.node
    assert node is not None  # noqa: S101 - the caller has looked
    weight = network.constants.real(node.inputs[1])
    if weight is None or not np.isfinite(weight).all():
        raise Refusal(f"the weights of {label(node)} are not known")
    kernel = _KERNELS[node.op_type](network, node, weight)
    if branch.chain is None:
        return kernel
    affine = branch.chain.field.along(1, kernel.outputs)
    weight, bias = absorb_after(kernel.weight, kernel.bias, affine)
    return Kernel(weight, bias, kernel.groups, kernel.strides, kernel.dilations, kernel.pads)


def _bias(network: Network, node: ir.Node, channels: int) -> Array:
    """One number for each channel; zeros if there is no bias."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    if value is None:
        return np.zeros(channels)
    array = network.constants.real(value)
    if array is None or array.size != max(array.shape[-1:], default=1):
        raise Refusal(f"the bias of {label(node)} is not one number per channel")
    return np.broadcast_to(array.reshape(-1), (channels,))


def _conv(network: Network, node: ir.Node, weight: Array) -> Kernel:
    axes = weight.ndim - 2
    mode = text(node, "auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID"):
        raise Refusal(f"how {label(node)} pads depends on the size of its input ({mode})")
    pads = [0] * 2 * axes if mode == "VALID" else ints(node, "pads") or [0] * 2 * axes
    strides, dilations = (ints(node, name) or [1] * axes for name in ("strides", "dilations"))
    groups, bias = integer(node, "group", 1), _bias(network, node, weight.shape[0])
    return Kernel(weight, bias, groups, tuple(strides), tuple(dilations), tuple(pads))


def _gemm(network: Network, node: ir.Node, weight: Array) -> Kernel:
    """(M, N) = alpha A B + beta C: a linear layer if A is not transposed."""
    if integer(node, "transA", 0):
        raise Refusal(f"{label(node)} transposes its input")
    matrix = real_number(node, "alpha", 1.0) * (weight if integer(node, "transB", 0) else weight.T)
    bias = real_number(node, "beta", 1.0) * _bias(network, node, matrix.shape[0])
    return Kernel(matrix, bias, 1, (), (), ())


_KERNELS = {"Conv": _conv, "Gemm": _gemm}


def _write(network: Network, branch: Branch, weight: Array, bias: Array) -> None:
    """Gives the linear operator of a branch the weight and bias of a kernel, and takes its chain out.

    Raises:
        Refusal: a number does not fit its type; then nothing is changed.
    """
    node = branch.node
    assert node is not None  # noqa: S101 - it has a kernel
    old = node.inputs[1]
    assert old is not None and old.dtype is not None  # noqa: S101, PT018 - its kernel has been read
    check_cast(weight, old.dtype, "weights")
    if overflows(bias, old.dtype):
        raise Refusal(f"the folded bias overflows {old.dtype.name.lower()}")
    if node.op_type == "Gemm":
        weight = weight if integer(node, "transB", 0) else weight.T
        for name in ("alpha", "beta"):  # the new numbers hold them
            node.attributes.pop(name, None)
    had = node.inputs[2] if len(node.inputs) > 2 else None
    node.replace_input_with(1, network.constants.exact(weight, old.dtype, old.name))
    if had is not None or bias.any():
        node.resize_inputs(3)
        like = f"{old.name}.bias" if had is None else had.name
        node.replace_input_with(2, network.constants.exact(bias, old.dtype, like))
    if branch.chain is not None:
        erase(network, branch.chain)
