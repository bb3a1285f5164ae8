"""What rewrites and checks ask of a graph: its nodes by name, the type of every value, what is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

from bn_deploy.errors import ModelError, first_line

FLOAT = ir.DataType.FLOAT

_SHAPES = {"Shape", "Size"}
"""What gives out shapes: numbers computed from them say nothing of what goes into the network."""


def opened(proto: onnx.ModelProto, *, strict: bool = True) -> ir.Model:
    """The graph to rewrite, with the type of every value, and constants as initializers.

    Args:
        proto: the model; it is not changed.
        strict: whether types that contradict each other are an error.

    Raises:
        ModelError: it holds control flow or functions, or a type is not known.
    """
    for node in proto.graph.node:
        if any(attribute.HasField("g") or attribute.graphs for attribute in node.attribute):
            raise ModelError(
                f"{node.op_type} ({node.name or node.output[0]}) holds a graph of its own; precisions can be "
                "given to graphs without control flow only"
            )
    if proto.functions:
        raise ModelError(f"the model calls the function {proto.functions[0].name}; inline functions first")
    try:
        model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=strict, data_prop=True))
    except onnx.shape_inference.InferenceError as error:
        raise ModelError(f"its types cannot be inferred: {first_line(error)}") from error
    passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    for node in model.graph:
        for value in node.outputs:
            if value.name and value.dtype is None:
                raise ModelError(
                    f"nothing says of which type {value.name} is, which {node.op_type} gives out"
                )
    return model


def labels(graph: ir.Graph) -> dict[ir.Node, str]:
    """What messages and keep-lists call each node: its name, or its first output's where that is no name."""
    counts = Counter(node.name for node in graph)
    return {
        node: node.name
        if node.name and counts[node.name] == 1
        else next(value.name for value in node.outputs if value.name)
        for node in graph
    }


def computed(graph: ir.Graph) -> set[ir.Value]:
    """The values that depend on the numbers that go into the network, and not on their shapes alone."""
    found = {value for value in graph.inputs if not value.is_initializer()}
    for node in graph:
        if node.op_type not in _SHAPES and any(value in found for value in node.inputs if value is not None):
            found.update(node.outputs)
    return found


def fresh(graph: ir.Graph, wanted: str) -> str:
    """`wanted`, or with a number behind it if a value is called so."""
    taken = {value.name for value in values(graph)}
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}.{number}"
    return name


def values(graph: ir.Graph) -> Iterator[ir.Value]:
    """Every value of the graph."""
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph:
        yield from (value for value in node.outputs if value.name)


def closed(model: ir.Model) -> onnx.ModelProto:
    """The graph as ONNX, without initializers that nothing reads.

    Raises:
        ModelError: it is more than one message can hold.
    """
    graph = model.graph
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output() and not value.is_graph_input():
            del graph.initializers[name]
    try:
        return ir.to_proto(model)
    except ValueError as error:
        raise ModelError(f"it is too large to be rewritten in memory: {first_line(error)}") from error
