"""Graphs of which some nodes have to stay, foreign ones among them, and how their folding is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import helper
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from bn_deploy.folding.graph.driver import FoldedNodes, fold_nodes
from bn_deploy.folding.graph.linear import LINEAR_DOMAIN
from tests.fold_onnx.graphs import Array, Net, Size

WHY = "it is part of something else"


class Linear(OpRun):
    """x W^T + b, for the reference evaluator."""

    op_domain = LINEAR_DOMAIN

    def _run(self, x: Array, w: Array, b: Array | None = None) -> tuple[Array]:
        return (x @ w.T + (0 if b is None else b),)


class Opaque(OpRun):
    """An operator of which nothing is known."""

    op_domain = LINEAR_DOMAIN

    def _run(self, x: Array) -> tuple[Array]:
        return (np.tanh(x),)


def own(net: Net, op_type: str, *inputs: str) -> str:
    """A node of a foreign domain."""
    return str(net.op(op_type, *inputs, domain=LINEAR_DOMAIN))


def typed(net: Net, shapes: Mapping[str, Sequence[Size]], *outputs: str) -> ir.Model:
    """The model, every value of which carries its type and shape as `shapes` or ONNX says."""
    element = helper.np_dtype_to_tensor_dtype(net.dtype)
    inputs = [helper.make_tensor_value_info(n, element, shape) for n, shape in net.shapes.items()]
    infos = [helper.make_tensor_value_info(n, element, shape) for n, shape in shapes.items()]
    constants = [onnx.numpy_helper.from_array(array, name) for name, array in net.constants.items()]
    graph = helper.make_graph(net.nodes, "g", inputs, [], constants, value_info=infos)
    opsets = [helper.make_opsetid("", net.opset), helper.make_opsetid(LINEAR_DOMAIN, 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto))
    values = {value.name: value for node in model.graph for value in node.outputs}
    model.graph.outputs.extend(values[name] for name in outputs)
    return model


def run(model: ir.Model, feeds: dict[str, Array], outputs: tuple[str, ...] = ()) -> list[Array]:
    proto = ir.to_proto(model)
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs if name not in known)
    return [
        np.asarray(array) for array in ReferenceEvaluator(proto, new_ops=[Linear, Opaque]).run(None, feeds)
    ]


def judged(net: Net, model: ir.Model, *fixed: str) -> FoldedNodes:
    """Folds all but `fixed`, which are found untouched; the outputs are the same in float64."""
    nodes = {node: WHY for node in model.graph if node.name in fixed}
    assert len(nodes) == len(fixed)
    outputs = tuple(str(value.name) for value in model.graph.outputs)
    before = run(model, net.feeds(), outputs)
    kept = {node.name: seen(node) for node in nodes}
    result = fold_nodes(model, nodes)
    after = run(model, net.feeds(), outputs)
    for one, other in zip(before, after, strict=True):
        assert np.abs(one - other).max() <= 1e-8 * max(1e-3, np.abs(one).max())
    left = {node.name: node for node in model.graph}
    assert {name: seen(left[name]) for name in kept} == kept
    return result


def seen(node: ir.Node) -> Any:
    """What a node is: its operator, attributes and constants."""
    constants = [v for v in node.inputs if v is not None and v.const_value is not None]
    return node.op_type, dict(node.attributes), [(v.name, v.const_value.numpy().tobytes()) for v in constants]  # type: ignore[union-attr]
