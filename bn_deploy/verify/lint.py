"""Batch statistics in an ONNX graph, found by reading it: what an export in training mode leaves behind."""

from __future__ import annotations

from collections.abc import Iterator

import onnx
from onnx import numpy_helper, shape_inference

_REDUCTIONS = (
    *("ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceMax", "ReduceMin"),
    *("ReduceProd", "ReduceLogSum", "ReduceLogSumExp"),
)


def batch_statistics(model: onnx.ModelProto) -> list[str]:
    """Operators of `model` that mix the images of a batch, in words; empty if there are none.

    A batch norm in training mode does, and so does a reduction over the first axis of what depends on the
    input and still has the batch there.
    """
    return [*_training_norms(model), *_reductions(model)]


def _training_norms(model: onnx.ModelProto) -> Iterator[str]:
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        training = any(a.name == "training_mode" and a.i for a in node.attribute)
        # Before opset 14 further outputs meant training.
        if training or len([name for name in node.output if name]) > 1:
            yield f"{node.name or node.output[0]}: BatchNormalization in training mode"


def _reductions(model: onnx.ModelProto) -> Iterator[str]:
    graph = _inferred(model).graph
    constants = {t.name: t for t in graph.initializer}
    inputs = [v for v in graph.input if v.name not in constants]
    sizes = {v.name: _sizes(v) for v in (*graph.input, *graph.value_info, *graph.output)}
    batches = {sizes[v.name][0] for v in inputs if sizes[v.name]}
    follows = {v.name for v in inputs}
    for node in graph.node:
        if not follows & set(node.input):
            continue
        follows |= set(node.output)
        if node.op_type not in _REDUCTIONS:
            continue
        shape = sizes.get(node.input[0])
        if shape and shape[0] in batches and 0 in _axes(node, constants, len(shape)):
            yield f"{node.name or node.output[0]}: {node.op_type} over the images of the batch"


def _inferred(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        return shape_inference.infer_shapes(model)
    except (onnx.shape_inference.InferenceError, ValueError):
        return model


def _sizes(value: onnx.ValueInfoProto) -> list[int | str]:
    return [d.dim_value if d.HasField("dim_value") else d.dim_param for d in value.type.tensor_type.shape.dim]


def _axes(node: onnx.NodeProto, constants: dict[str, onnx.TensorProto], rank: int) -> set[int]:
    """Over which axes a reduction goes; all of them if it does not say."""
    given: list[int] = []
    for attribute in node.attribute:
        if attribute.name == "axes":
            given = list(attribute.ints)
        if attribute.name == "noop_with_empty_axes" and attribute.i and len(node.input) < 2:
            return set()
    if len(node.input) > 1 and node.input[1] in constants:
        given = [int(axis) for axis in numpy_helper.to_array(constants[node.input[1]]).ravel()]
    return {axis % rank for axis in given} if given else set(range(rank))
