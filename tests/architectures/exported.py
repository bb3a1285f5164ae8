"""Architectures as ONNX files, by this package's own exporter, which folds nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from bn_deploy.exporting.onnx_file import export
from bn_deploy.spec import TensorSpec
from tests.architectures.numbers import inputs
from tests.architectures.row import Architecture


def write(network: nn.Module, row: Architecture, path: Path) -> None:
    """Writes `network`, from x (N, *row.shape) to y, both float32."""
    with torch.no_grad():
        _, *sizes = network(inputs(row, 2)).shape
    x, y = TensorSpec("x", (None, *row.shape), "float32"), TensorSpec("y", (None, *sizes), "float32")
    export(network, path, inputs=[x], outputs=[y])


def in_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same numbers, computed with in float64."""
    double = onnx.ModelProto()
    double.CopyFrom(model)
    graph = double.graph
    # ONNX wants the factors of a Resize in float32, whatever is resized.
    factors = {name for node in graph.node if node.op_type == "Resize" for name in node.input[1:3]}
    for initializer in graph.initializer:
        if initializer.data_type == TensorProto.FLOAT and initializer.name not in factors:
            array = numpy_helper.to_array(initializer).astype(np.float64)
            initializer.CopyFrom(numpy_helper.from_array(array, initializer.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT and value.name not in factors:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    # Nothing else in these graphs says a type.
    assert not [a for node in graph.node for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
    casts = [helper.get_node_attr_value(node, "to") for node in graph.node if node.op_type == "Cast"]
    assert TensorProto.FLOAT not in casts
    return double
