"""A typed model as a float32 one that rounds as the typed one would: what a CPU without half kernels can run.

Each result in half is computed in float32 from half operands, rounded to the format and widened again: sums
are kept in float32 and rounded once, as tensor cores do. Nothing else is changed. ONNX Runtime does the same
with fp16 on most CPUs but leaves out some of the roundings, and has no bfloat16 convolutions at all.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

from bn_deploy.precision.formats import HALVES
from bn_deploy.precision.graph import FLOAT, closed, opened

METHOD = "float32 sums, each result rounded once"
"""What reports say of it."""

_NARROW = {half.dtype for half in HALVES}


def emulated(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The float32 model. Names stay; a value in half holds the numbers that it would hold.

    Raises:
        ModelError: the model holds what cannot be rewritten.
    """
    model = opened(proto)
    graph = model.graph
    for value in graph.initializers.values():
        given = value.const_value
        if given is not None and given.dtype in _NARROW:
            value.const_value = ir.Tensor(np.asarray(given.numpy(), np.float32), FLOAT, name=value.name)
            value.type = ir.TensorType(FLOAT)
    for node in list(graph):
        if node.op_type == "Cast" and ir.DataType(node.attributes["to"].as_int()) in _NARROW:
            _widen_behind(graph, node, node.outputs[0])
            continue
        for value in node.outputs:
            if value.dtype in _NARROW:
                _round_behind(graph, node, value)
    return closed(model)


def _round_behind(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Lets a node give out float32, and rounds that."""
    kind, name = value.dtype, value.name
    assert kind is not None  # noqa: S101 - asked before
    value.name, value.type = f"{name}.exact", ir.TensorType(FLOAT)
    rounded = ir.Value(name=f"{name}.rounded", type=ir.TensorType(kind), shape=value.shape)
    widened = ir.Value(name=name, type=ir.TensorType(FLOAT), shape=value.shape)
    value.replace_all_uses_with(widened, replace_graph_outputs=True)
    graph.insert_after(node, [_cast(value, rounded), _cast(rounded, widened)])


def _widen_behind(graph: ir.Graph, node: ir.Node, value: ir.Value) -> None:
    """Lets what a Cast to half has rounded be read as float32."""
    name = value.name
    value.name = f"{name}.rounded"
    widened = ir.Value(name=name, type=ir.TensorType(FLOAT), shape=value.shape)
    value.replace_all_uses_with(widened, replace_graph_outputs=True)
    graph.insert_after(node, [_cast(value, widened)])


def _cast(value: ir.Value, to: ir.Value) -> ir.Node:
    assert to.dtype is not None  # noqa: S101 - made with a type
    return ir.Node("", "Cast", [value], [ir.AttrInt64("to", to.dtype.value)], outputs=[to])
