"""Which nodes of a graph are affine maps with constant numbers: batch norms, whole or written out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from bn_deploy.batchnorm.affine import Affine
from bn_deploy.batchnorm.params import BatchNormParams
from bn_deploy.folding.graph.arithmetic import FLOATS
from bn_deploy.folding.graph.attributes import integer, real_number
from bn_deploy.folding.graph.field import Array, Field
from bn_deploy.folding.graph.network import Network
from bn_deploy.folding.outcome import Refusal


@dataclass(frozen=True, eq=False)
class Link:
    """A node whose output is an affine map of one of its inputs, element by element.

    Attributes:
        node: the node.
        index: which input it is a map of.
        field: the map.
        per_channel: whether it scales by numbers that may differ between channels.
    """

    node: ir.Node
    index: int
    field: Field
    per_channel: bool = False

    @property
    def is_batchnorm(self) -> bool:
        """Whether it is ONNX's own operator."""
        return self.node.op_type == "BatchNormalization"


def link(network: Network, node: ir.Node) -> Link | None:
    """The map that `node` is, or None if it is none.

    Raises:
        Refusal: it is a batch norm, but not one with constant and usable numbers.
    """
    read = _READERS.get(node.op_type)
    if read is None or not network.standard(node):
        return None
    if node.op_type == "BatchNormalization":
        return _batchnorm(network, node)
    if node.outputs[0].dtype not in FLOATS or node.outputs[0].name in network.taken_by_name:
        return None
    try:
        return read(network, node)
    except Refusal:
        return None


def _batchnorm(network: Network, node: ir.Node) -> Link:
    """BatchNormalization: (N, C, ...) with a scale, a shift, a mean and a variance of (C,) each."""
    if node.outputs[0].dtype not in FLOATS:
        raise Refusal("the type of its output is not known")
    if node.outputs[0].name in network.taken_by_name:
        raise Refusal("its output is also the output of a subgraph")
    unknown = set(node.attributes) - {"epsilon", "momentum", "training_mode", "spatial"}
    if unknown:
        raise Refusal(f"its attribute {min(unknown)} is not known")
    if integer(node, "spatial", 1) != 1:
        raise Refusal("it normalizes each position by itself (spatial=0)")
    used = [value for value in node.outputs[1:] if value.name]
    if integer(node, "training_mode", 0) or used:
        raise Refusal("it is in training mode, where its output depends on the batch; export in eval mode")
    rank = network.rank(node.inputs[0])
    if rank < 2:
        raise Refusal(f"its input has rank {rank} and so no channels")
    affine = _affine(network, node)
    channels = network.dims(node.inputs[0])[1]
    if isinstance(channels, int) and channels != affine.channels:
        raise Refusal(f"it has {affine.channels} channels, its input {channels}")
    return Link(node, 0, Field.of(affine, 1, rank), per_channel=True)


def _affine(network: Network, node: ir.Node) -> Affine:
    """The map of a batch norm, which is looked at in every round; what its constants hold never changes."""
    eps = real_number(node, "epsilon", float(np.float32(1e-5)))  # attributes are in single precision
    if (known := network.norms.get((node.inputs[1:5], eps))) is not None:
        return known
    names = ("weight", "bias", "running_mean", "running_var")
    vectors = [network.constants.real(value) for value in node.inputs[1:5]]
    for name, vector in zip(names, vectors, strict=True):
        if vector is None:
            raise Refusal(f"its {name} is not constant")
    given = {name: vector for name, vector in zip(names, vectors, strict=True) if vector is not None}
    try:
        affine = BatchNormParams(**given, eps=eps).affine()
    except ValueError as error:
        raise Refusal(str(error)) from error
    network.norms[node.inputs[1:5], eps] = affine
    return affine


def _operands(network: Network, node: ir.Node) -> tuple[int, ir.Value, Array]:
    """Of two operands the one that varies, by index and value, and the constant one."""
    constant = [network.constants.holds(value) for value in node.inputs]
    if len(constant) != 2 or sum(constant) != 1 or node.attributes:
        raise Refusal("not one constant operand")
    index = constant.index(False)
    value, array = node.inputs[index], network.constants.real(node.inputs[1 - index])
    if value is None or array is None:
        raise Refusal("no real numbers")
    dims = network.dims(value)
    if array.ndim > len(dims):
        raise Refusal("the constant enlarges the other operand")
    array = array.reshape([1] * (len(dims) - array.ndim) + list(array.shape))
    if any(array.shape[axis] not in (1, dim) for axis, dim in enumerate(dims)):
        raise Refusal("the constant enlarges the other operand")
    return index, value, array


def _scaling(node: ir.Node, index: int, network: Network, scale: Array) -> Link:
    """A multiplication: per channel if its operand has several numbers, or one for the only channel."""
    dims = network.dims(node.inputs[index])
    operand = node.inputs[1 - index]
    single = len(dims) > 1 and dims[1] == 1 and operand is not None and network.rank(operand) > 0
    return Link(node, index, Field(scale, np.zeros([1] * scale.ndim)), scale.size > 1 or single)


def _add(network: Network, node: ir.Node) -> Link:
    index, _, array = _operands(network, node)
    return Link(node, index, Field(np.ones([1] * array.ndim), array))


def _subtract(network: Network, node: ir.Node) -> Link:
    index, _, array = _operands(network, node)
    one = np.ones([1] * array.ndim)
    return Link(node, index, Field(one, -array) if index == 0 else Field(-one, array))


def _multiply(network: Network, node: ir.Node) -> Link:
    index, _, array = _operands(network, node)
    return _scaling(node, index, network, array)


def _divide(network: Network, node: ir.Node) -> Link:
    index, _, array = _operands(network, node)
    if index != 0 or not array.all():
        raise Refusal("it divides by what varies, or by zero")
    return _scaling(node, index, network, 1 / array)


def _negate(network: Network, node: ir.Node) -> Link:
    rank = _unary(network, node, set())
    return Link(node, 0, Field(-np.ones([1] * rank), np.zeros([1] * rank)))


def _unchanged(network: Network, node: ir.Node) -> Link:
    return Link(node, 0, Field.identity(_unary(network, node, set())))


def _cast(network: Network, node: ir.Node) -> Link:
    rank = _unary(network, node, {"to", "saturate", "round_mode"})
    if node.inputs[0] is None or node.inputs[0].dtype != node.outputs[0].dtype:
        raise Refusal("it changes the type")
    return Link(node, 0, Field.identity(rank))


def _cast_like(network: Network, node: ir.Node) -> Link:
    """Where both operands vary and have one type; else one of them is constant, or it changes the type."""
    value, like = node.inputs
    if node.attributes or value is None or like is None or value.dtype != node.outputs[0].dtype:
        raise Refusal("it changes the type")
    if network.constants.holds(value):
        raise Refusal("it is constant")
    return Link(node, 0, Field.identity(network.rank(value)))


def _dropout(network: Network, node: ir.Node) -> Link:
    if any(value.uses() or value.is_graph_output() for value in node.outputs[1:]):
        raise Refusal("its mask is used")
    if not drops_nothing(network, node):
        raise Refusal("it may be in training mode")
    if set(node.attributes) - {"ratio", "seed"}:
        raise Refusal("an attribute is not known")
    return Link(node, 0, Field.identity(network.rank(node.inputs[0])))


def drops_nothing(network: Network, node: ir.Node) -> bool:
    """Whether a Dropout is one of inference: since opset 12 an input says so; before, it always is."""
    mode = node.inputs[2] if len(node.inputs) > 2 else None
    if mode is None:
        return True
    flag = network.constants.array(mode) if network.constants.holds(mode) else None
    return flag is not None and not flag.any()


def _unary(network: Network, node: ir.Node, attributes: set[str]) -> int:
    if set(node.attributes) - attributes or len(node.inputs) != 1:
        raise Refusal("an attribute is not known")
    return network.rank(node.inputs[0])


_READERS: dict[str, Callable[[Network, ir.Node], Link]] = {
    "Add": _add,
    "BatchNormalization": _batchnorm,
    "Cast": _cast,
    "CastLike": _cast_like,
    "Div": _divide,
    "Dropout": _dropout,
    "Identity": _unchanged,
    "Mul": _multiply,
    "Neg": _negate,
    "Sub": _subtract,
}
