"""float32 -> half: weights, Casts at the edges, and a keep-list of nodes that stay float32.

What goes in and comes out of the network stays float32. Names of nodes stay; so do those of values, but a
network's output that is computed in half: that value gets a suffix, and its Cast to float32 has the name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
import onnx_ir as ir

from bn_deploy.precision.formats import Half
from bn_deploy.precision.graph import FLOAT, closed, computed, fresh, labels, opened
from bn_deploy.precision.opset import halved, kinds, raised, schema
from bn_deploy.spec import Precision

_MOVERS = {"Cast", "CastLike"}
"""What says itself which type it gives out."""

_UNBUILT = {
    (Precision.BF16, "ConvTranspose"): "TensorRT-RTX builds no bf16 ConvTranspose (1.7.1, for any GPU)",
}
"""What ONNX lets be half and a builder does not take."""

_QUANTIZERS = {"QuantizeLinear", "DequantizeLinear"}


@dataclass(frozen=True)
class Converted:
    """A model in half.

    Attributes:
        proto: the model.
        kept: the nodes that stay float32, each with the reason.
    """

    proto: onnx.ModelProto
    kept: dict[str, str]


def convert(proto: onnx.ModelProto, half: Half, keep: Mapping[str, str]) -> Converted:
    """Lets every node compute in `half` that may and that is not to be kept.

    Kept besides `keep`: nodes whose types ONNX does not let be half or that no builder takes in it, nodes
    whose weights do not fit into the format, and nodes that are computed from shapes and weights alone.

    Args:
        proto: a float32 model.
        half: the format.
        keep: nodes that must stay float32, by name, each with the reason.

    Raises:
        ModelError: the model has control flow, or its operator set is too old.
    """
    model = opened(proto)
    names, numeric = labels(model.graph), computed(model.graph)
    chosen: list[ir.Node] = []
    kept: dict[str, str] = {}
    for node in model.graph:
        if node.op_type in _MOVERS or not _is_float(node):
            continue
        if names[node] in keep:
            kept[names[node]] = keep[names[node]]
        elif (half.precision, node.op_type) in _UNBUILT:
            kept[names[node]] = _UNBUILT[half.precision, node.op_type]
        elif node.op_type not in _QUANTIZERS and not numeric & set(node.inputs):
            kept[names[node]] = "is computed from weights and shapes alone"
        else:
            chosen.append(node)
    model.opset_imports[""] = opset = raised(model, half, iter(chosen))
    bound: dict[ir.Node, set[str]] = {}
    for node in chosen:
        kinds_of_node = halved(node, opset, half)
        reason = _unfit(node, opset, half, kinds_of_node)
        if reason is None:
            bound[node] = kinds_of_node
        else:
            kept[names[node]] = reason
    for node in list(bound):  # a pair has one scale
        maker = node.inputs[0].producer() if node.op_type == "DequantizeLinear" and node.inputs[0] else None
        if maker is not None and names[maker] in kept:
            kept[names[node]] = kept[names[maker]]
            del bound[node]
    _rewrite(model, half, bound)
    return Converted(closed(model), {name: kept[name] for name in names.values() if name in kept})


def _is_float(node: ir.Node) -> bool:
    return any(v is not None and v.dtype == FLOAT for v in (*node.inputs, *node.outputs))


def _unfit(node: ir.Node, opset: int, half: Half, bound: set[str]) -> str | None:
    """Why a node cannot be half, or None."""
    if not bound:
        known = schema(node, opset)
        if known is None:
            return f"{node.op_type} is no operator of ONNX, and nothing is known of its types"
        return f"ONNX has no {half.precision.value} {node.op_type} in operator set {opset}"
    for value in node.inputs:
        if value is not None and value.dtype == FLOAT and value.const_value is not None:
            reason = half.unfit(value.const_value.numpy())
            if reason is not None:
                return f"its weight {value.name} {reason}"
    if (
        node.op_type in _QUANTIZERS
        and (scale := node.inputs[1]) is not None
        and scale.const_value is not None
    ):
        steps = scale.const_value.numpy().astype(np.float64)
        if (np.abs(steps.astype(half.numpy).astype(np.float64) - steps) > half.unit * steps).any():
            return f"a scale in {scale.name} is too small for {half.precision.value}"
    return None


@dataclass
class _Versions:
    """One value in both types: the Cast of each is made once, where it is first needed."""

    graph: ir.Graph
    half: Half
    made: dict[tuple[ir.Value, ir.DataType], ir.Value] = field(default_factory=dict)

    def of(self, value: ir.Value, kind: ir.DataType, reader: ir.Node) -> ir.Value:
        """`value` in the type `kind`, for `reader`, before which a Cast may be put."""
        if value.dtype == kind:
            return value
        if (value, kind) not in self.made:
            if value.const_value is not None and not value.is_graph_input():
                self.made[value, kind] = self._constant(value)
            else:
                cast = self.cast(value, kind)
                self.graph.insert_before(reader, cast)
                self.made[value, kind] = cast.outputs[0]
        return self.made[value, kind]

    def _constant(self, value: ir.Value) -> ir.Value:
        given = value.const_value
        assert given is not None  # noqa: S101 - asked before
        name = fresh(self.graph, f"{value.name}.{self.half.precision.value}")
        array = given.numpy().astype(self.half.numpy)
        made = ir.Value(
            name=name,
            type=ir.TensorType(self.half.dtype),
            shape=value.shape,
            const_value=ir.Tensor(array, self.half.dtype, name=name),
        )
        self.graph.register_initializer(made)
        return made

    def cast(self, value: ir.Value, kind: ir.DataType) -> ir.Node:
        """A Cast of `value`, not in the graph yet."""
        suffix = "fp32" if kind == FLOAT else self.half.precision.value
        name = fresh(self.graph, f"{value.name}.{suffix}")
        made = ir.Value(name=name, type=ir.TensorType(kind), shape=value.shape)
        return ir.Node(
            "", "Cast", [value], [ir.AttrInt64("to", kind.value)], outputs=[made], name=f"{name}.cast"
        )


def _rewrite(model: ir.Model, half: Half, bound: Mapping[ir.Node, set[str]]) -> None:
    """Gives every input of every node the type that the node now takes, and every output the one it gives."""
    graph, opset = model.graph, model.opset_imports[""]
    versions = _Versions(graph, half)
    # A value's type changes when its node is reached: what readers took before is noted here.
    was_float = {
        value for node in graph for value in (*node.inputs, *node.outputs) if value and value.dtype == FLOAT
    }
    was_float |= {value for value in graph.inputs if value.dtype == FLOAT}
    for node in list(graph):
        known = schema(node, opset)
        taken, given = (
            kinds(node, known) if known is not None else ([""] * len(node.inputs), [""] * len(node.outputs))
        )
        halves = bound.get(node, set())
        for index, value in enumerate(node.inputs):
            if value is not None and value in was_float and node.op_type != "Cast":
                kind = half.dtype if taken[index] in halves else FLOAT
                node.replace_input_with(index, versions.of(value, kind, node))
        for value, name in zip(node.outputs, given, strict=True):
            if value in was_float and name in halves:
                value.type = ir.TensorType(half.dtype)
    _restore_names(versions)
    _close_outputs(versions, was_float)


def _restore_names(versions: _Versions) -> None:
    """A weight that is only read in half keeps its name."""
    graph = versions.graph
    for (value, _), made in versions.made.items():
        if made.const_value is None or value.uses() or value.is_graph_output() or value.name is None:
            continue
        del graph.initializers[value.name]
        del graph.initializers[made.name]  # type: ignore[arg-type]  # it was given a name
        made.name = made.const_value.name = value.name
        graph.register_initializer(made)


def _close_outputs(versions: _Versions, was_float: set[ir.Value]) -> None:
    """Gives the network its float32 outputs back, under their names."""
    graph = versions.graph
    for index, value in enumerate(graph.outputs):
        if value not in was_float or value.dtype == FLOAT:
            continue
        name = value.name
        value.name = fresh(graph, f"{name}.{versions.half.precision.value}")
        made = versions.made.get((value, FLOAT))
        if made is None:
            cast = versions.cast(value, FLOAT)
            graph.append(cast)
            made = cast.outputs[0]
        made.name = name
        graph.outputs[index] = made
