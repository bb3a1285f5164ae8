"""float32 -> Q/DQ: int8 around convolutions and matrix products.

The ranges come from ONNX Runtime's calibrators. The insertion is our own: one calibration then serves every
trial of a sensitivity measurement, names stay, and the form is the one that TensorRT 8.5 to 11 all take:
three inputs, a zero point of int8 zeros, one scale for an activation, one for each output channel of a
weight, weights in float with their own QuantizeLinear, biases in float.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from bn_deploy.errors import ModelError
from bn_deploy.precision.graph import FLOAT, closed, fresh, labels, opened

QUANTIZED = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""The operators that are computed in int8: where the multiply-accumulates are."""

_STEPS = 127
_OLDEST = 13
"""Scales for each channel are ONNX since this operator set."""


def channel_axis(node: ir.Node) -> int:
    """The axis of a node's weight that its output channels lie on."""
    if node.op_type == "Gemm":
        return 0 if "transB" in node.attributes and node.attributes["transB"].as_int() else 1
    return {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, -1 + _rank(node))


def _rank(node: ir.Node) -> int:
    weight = node.inputs[1]
    return 2 if weight is None or weight.shape is None else len(weight.shape)


def candidates(proto: onnx.ModelProto) -> dict[str, str]:
    """The nodes that can be quantised, by name, each with the activation that it reads."""
    model = opened(proto)
    return {
        name: str(node.inputs[0].name) for node, name in _able(model).items() if node.inputs[0] is not None
    }


def _able(model: ir.Model) -> dict[ir.Node, str]:
    able = {}
    for node, name in labels(model.graph).items():
        if node.op_type not in QUANTIZED or node.domain not in {"", "ai.onnx"}:
            continue
        source, weight = node.inputs[:2]
        if source is None or weight is None or source.const_value is not None or weight.const_value is None:
            continue  # a product of two activations is left as it is
        if source.dtype == FLOAT and weight.dtype == FLOAT:
            able[node] = name
    return able


def quantized(proto: onnx.ModelProto, ranges: Mapping[str, float], only: Collection[str]) -> onnx.ModelProto:
    """Puts QuantizeLinear and DequantizeLinear around what the nodes in `only` read.

    Args:
        proto: a float32 model.
        ranges: the largest magnitude of each activation, by name.
        only: the nodes to quantise, by name, of `candidates`.

    Raises:
        ModelError: the model's operator set is too old, or a range is missing or no number.
    """
    model = opened(proto)
    if model.opset_imports[""] < _OLDEST:
        raise ModelError(
            f"int8 asks for operator set {_OLDEST}, and the model is in {model.opset_imports['']}; "
            "export it anew"
        )
    graph = model.graph
    done: dict[tuple[ir.Value, int | None], ir.Value] = {}
    for node, name in _able(model).items():
        if name not in only:
            continue
        source, weight = node.inputs[:2]
        assert source is not None and weight is not None  # noqa: S101, PT018 - asked before
        axis = channel_axis(node)
        if (source, None) not in done:
            done[source, None] = _around(graph, node, source, _step(ranges, source), None)
        if (weight, axis) not in done:
            done[weight, axis] = _around(graph, node, weight, _steps(weight, axis), axis)
        node.replace_input_with(0, done[source, None])
        node.replace_input_with(1, done[weight, axis])
    return closed(model)


def _step(ranges: Mapping[str, float], value: ir.Value) -> NDArray[np.float32]:
    """The scale of an activation ()."""
    largest = ranges.get(str(value.name))
    if largest is None or not np.isfinite(largest):
        raise ModelError(f"calibration gives no range for {value.name}")
    return np.asarray((largest or 1.0) / _STEPS, np.float32)  # zeros alone: any scale does, and 0 is none


def _steps(weight: ir.Value, axis: int) -> NDArray[np.float32]:
    """The scales of a weight (channels,)."""
    assert weight.const_value is not None  # noqa: S101 - asked before
    numbers = np.moveaxis(np.abs(weight.const_value.numpy().astype(np.float64)), axis, 0)
    largest = numbers.reshape(len(numbers), -1).max(axis=1)
    return np.asarray(np.where(largest > 0, largest, 1.0) / _STEPS, np.float32)


def _around(
    graph: ir.Graph, reader: ir.Node, value: ir.Value, steps: NDArray[np.float32], axis: int | None
) -> ir.Value:
    """`value` after QuantizeLinear and DequantizeLinear, which are put before `reader`."""
    scale = _weight(graph, f"{value.name}.scale", steps)
    zero = _weight(graph, f"{value.name}.zero", np.zeros(steps.shape, np.int8))
    attributes = [] if axis is None else [ir.AttrInt64("axis", axis)]
    names = [fresh(graph, f"{value.name}.{suffix}") for suffix in ("int8", "dequantized")]
    whole = ir.Value(name=names[0], type=ir.TensorType(ir.DataType.INT8), shape=value.shape)
    back = ir.Value(name=names[1], type=ir.TensorType(FLOAT), shape=value.shape)
    pair = [
        ir.Node(
            "",
            "QuantizeLinear",
            [value, scale, zero],
            attributes,
            outputs=[whole],
            name=f"{names[0]}.quantize",
        ),
        ir.Node(
            "",
            "DequantizeLinear",
            [whole, scale, zero],
            attributes,
            outputs=[back],
            name=f"{names[1]}.dequantize",
        ),
    ]
    graph.insert_before(reader, pair)
    return back


def _weight(graph: ir.Graph, wanted: str, array: NDArray[np.generic]) -> ir.Value:
    name = fresh(graph, wanted)
    tensor = ir.Tensor(array, name=name)
    value = ir.Value(name=name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
    graph.register_initializer(value)
    return value
