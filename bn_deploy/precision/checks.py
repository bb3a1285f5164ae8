"""What a typed model must be, whoever made it: no mixed types, and Q/DQ in the one form that parsers take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir

from bn_deploy.errors import CheckFailed, first_line
from bn_deploy.precision.graph import labels, opened
from bn_deploy.precision.opset import kinds, schema
from bn_deploy.precision.quantize import channel_axis


def check(proto: onnx.ModelProto, *, scales: ir.DataType = ir.DataType.FLOAT) -> None:
    """Refuses a typed model that a TensorRT parser would refuse or misread.

    Args:
        proto: the model.
        scales: the type that the scales of Q/DQ may have besides float32.

    Raises:
        CheckFailed: it is not valid ONNX, mixes types, or has Q/DQ in another form.
    """
    for fault in faults(proto, scales=scales):
        raise CheckFailed(f"the typed model is not what it must be: {fault}")


def faults(proto: onnx.ModelProto, *, scales: ir.DataType = ir.DataType.FLOAT) -> Iterator[str]:
    """Everything that is wrong with a typed model, in words."""
    model = opened(_untyped(proto), strict=False)
    names = labels(model.graph)
    for node, name in names.items():
        yield from (f"{name} ({node.op_type}) {what}" for what in _mixed(node, model.opset_imports[""]))
        if node.op_type in {"QuantizeLinear", "DequantizeLinear"}:
            yield from (f"{name} ({node.op_type}) {what}" for what in _form(node, scales))
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.dtype in {ir.DataType.FLOAT16, ir.DataType.BFLOAT16}:
            yield f"{value.name} goes in or out in {value.dtype.name.lower()}, not in float32"
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        yield f"it is not valid ONNX: {first_line(error)}"


def _untyped(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what it says of its own values."""
    bare = onnx.ModelProto()
    bare.CopyFrom(proto)
    del bare.graph.value_info[:]
    return bare


def _mixed(node: ir.Node, opset: int) -> Iterator[str]:
    """Type variables of a node that are bound to two types."""
    known = schema(node, opset)
    if known is None:
        return
    bound: dict[str, ir.DataType] = {}
    taken, given = kinds(node, known)
    variables = {one.type_param_str for one in known.type_constraints}
    for kind, value in zip((*taken, *given), (*node.inputs, *node.outputs), strict=True):
        if value is None or value.dtype is None or kind not in variables:
            continue
        if bound.setdefault(kind, value.dtype) != value.dtype:
            yield f"mixes {bound[kind].name.lower()} and {value.dtype.name.lower()}"
            return


def _form(node: ir.Node, scales: ir.DataType) -> Iterator[str]:
    """What is wrong with a QuantizeLinear or DequantizeLinear: docs of TensorRT 8.5 to 11, all together."""
    if len(node.inputs) != 3 or any(value is None for value in node.inputs):
        yield f"has {len(node.inputs)} inputs; TensorRT 8.5 demands three"
        return
    source, scale, zero = (value for value in node.inputs if value is not None)
    if scale.const_value is None or zero.const_value is None:
        yield "computes its scale or zero point; they must be weights"
        return
    steps, offsets = scale.const_value.numpy(), zero.const_value.numpy()
    if zero.const_value.dtype != ir.DataType.INT8 or offsets.any():
        yield "has a zero point other than an int8 zero, which TensorRT refuses"
    if scale.const_value.dtype not in {ir.DataType.FLOAT, scales}:
        yield f"has scales in {scale.const_value.dtype.name.lower()}"
    if not (np.isfinite(steps) & (steps > 0)).all():
        yield "has a scale that is not a positive number"
    if steps.shape != offsets.shape:
        yield f"has scales of shape {steps.shape} and zero points of shape {offsets.shape}"
    if node.op_type == "QuantizeLinear":
        yield from _placed(node, source, steps.shape)
    elif (maker := source.producer()) is None or maker.op_type != "QuantizeLinear":
        yield "reads something else than a QuantizeLinear"
    elif list(maker.inputs)[1:] != list(node.inputs)[1:] or _axis(maker) != _axis(node):
        yield "has other scales than the QuantizeLinear that it reads"


def _placed(node: ir.Node, source: ir.Value, shape: tuple[int, ...]) -> Iterator[str]:
    """Scales: one for what is computed, one for each output channel of a weight."""
    if source.const_value is None:
        if shape:
            yield f"has {shape[0]} scales for a computed value; TensorRT takes one"
        return
    readers = [r for back in node.outputs[0].consumers() for r in _beyond(back)]
    for reader in readers:
        axis = channel_axis(reader)
        channels = source.const_value.shape.numpy()[axis]
        if shape != (channels,) or _axis(node) != axis:
            yield (
                f"has scales of shape {shape} along axis {_axis(node)} for the weight {source.name}; one for "
                f"each of {channels} output channels, along axis {axis}, is what TensorRT takes"
            )


def _beyond(node: ir.Node) -> Iterator[ir.Node]:
    """What computes with a dequantised value."""
    for reader in node.outputs[0].consumers():
        yield from (_beyond(reader) if reader.op_type == "Cast" else (reader,))


def _axis(node: ir.Node) -> int:
    attributes: Mapping[str, ir.Attr] = node.attributes
    return attributes["axis"].as_int() if "axis" in attributes else 1
