"""Each check of a typed model catches the one thing that was made wrong, and nothing in what we write."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bn_deploy.errors import CheckFailed
from bn_deploy.precision.checks import check, faults
from bn_deploy.precision.formats import FP16
from bn_deploy.precision.half import convert
from bn_deploy.precision.quantize import candidates, quantized
from bn_deploy.precision.runtime import Array, ranges
from tests.precision.zoo import ZOO, Net, images, residual

Change = Callable[[onnx.ModelProto], None]


def int8(net: Net) -> onnx.ModelProto:
    model = net.model()
    return quantized(model, ranges(model, images(net), "minmax"), list(candidates(model)))


def fp16() -> onnx.ModelProto:
    return convert(residual().model(), FP16, {"n_conv_2": "asked for"}).proto


def node(model: onnx.ModelProto, name: str) -> onnx.NodeProto:
    (found,) = (one for one in model.graph.node if one.name == name)
    assert isinstance(found, onnx.NodeProto)
    return found


def put(model: onnx.ModelProto, name: str, array: Array) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(array, name))


def weight_not_converted(model: onnx.ModelProto) -> None:
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == "w0")
    put(model, "w0", numpy_helper.to_array(tensor).astype(np.float32))


def cast_missing(model: onnx.ModelProto) -> None:
    cast = node(model, "image.fp16.cast")
    node(model, "n_conv_0").input[0] = cast.input[0]
    model.graph.node.remove(cast)


def output_left_in_half(model: onnx.ModelProto) -> None:
    cast = model.graph.node.pop()
    model.graph.node[-1].output[0] = cast.output[0]
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.FLOAT16


def newer_type_than_the_operator_set(model: onnx.ModelProto) -> None:
    del model.graph.value_info[:]
    for one in model.graph.node:
        if one.op_type == "Cast" and one.attribute[0].i == TensorProto.FLOAT16:
            one.attribute[0].i = TensorProto.BFLOAT16
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, array.shape, array.ravel()))


def two_inputs(model: onnx.ModelProto) -> None:
    for name in ("image.int8.quantize", "image.dequantized.dequantize"):
        del node(model, name).input[2]


def asymmetric(model: onnx.ModelProto) -> None:
    put(model, "image.zero", np.array(3, np.int8))


def unsigned(model: onnx.ModelProto) -> None:
    put(model, "image.zero", np.array(0, np.uint8))


def one_scale_for_a_weight(model: onnx.ModelProto) -> None:
    put(model, "w0.scale", np.array(0.1, np.float32))
    put(model, "w0.zero", np.array(0, np.int8))


def along_the_wrong_axis(model: onnx.ModelProto) -> None:
    for name in ("w0.int8.quantize", "w0.dequantized.dequantize"):
        node(model, name).attribute[0].i = 1
    put(model, "w0.scale", np.full(3, 0.1, np.float32))
    put(model, "w0.zero", np.zeros(3, np.int8))


def a_scale_for_each_input_channel(model: onnx.ModelProto) -> None:
    for name in ("image.int8.quantize", "image.dequantized.dequantize"):
        node(model, name).attribute.append(helper.make_attribute("axis", 1))
    put(model, "image.scale", np.full(3, 0.1, np.float32))
    put(model, "image.zero", np.zeros(3, np.int8))


def scale_of_zero(model: onnx.ModelProto) -> None:
    put(model, "image.scale", np.array(0, np.float32))


def read_back_with_another_scale(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(0.5, np.float32), "other"))
    node(model, "image.dequantized.dequantize").input[1] = "other"


def scale_computed(model: onnx.ModelProto) -> None:
    model.graph.node.insert(0, helper.make_node("Abs", ["image.scale"], ["computed"], name="abs"))
    for name in ("image.int8.quantize", "image.dequantized.dequantize"):
        node(model, name).input[1] = "computed"


HALF_FAULTS: dict[Change, str] = {
    weight_not_converted: r"n_conv_0 \(Conv\) mixes float16 and float",
    cast_missing: r"n_conv_0 \(Conv\) mixes float and float16",
    output_left_in_half: "logits goes in or out in float16",
    newer_type_than_the_operator_set: "is not valid ONNX.*unsupported type",
}

INT8_FAULTS: dict[Change, str] = {
    two_inputs: "has 2 inputs; TensorRT 8.5 demands three",
    asymmetric: "a zero point other than an int8 zero",
    unsigned: "a zero point other than an int8 zero",
    one_scale_for_a_weight: r"scales of shape \(\) .* for the weight w0; one for each of 4",
    along_the_wrong_axis: r"scales of shape \(3,\) along axis 1 for the weight w0",
    a_scale_for_each_input_channel: "has 3 scales for a computed value",
    scale_of_zero: "a scale that is not a positive number",
    read_back_with_another_scale: "has other scales than the QuantizeLinear",
    scale_computed: "computes its scale",
}


@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_what_we_write_passes(make: Callable[[], Net]) -> None:
    check(int8(make()))
    check(convert(int8(make()), FP16, {}).proto, scales=FP16.dtype)


def test_half_scales_are_for_those_who_ask_for_them() -> None:
    """TensorRT 8 reads scales as float32 whatever their type."""
    both = convert(int8(residual()), FP16, {}).proto
    with pytest.raises(CheckFailed, match="has scales in float16"):
        check(both)


@pytest.mark.parametrize("change", HALF_FAULTS, ids=lambda change: change.__name__)
def test_a_half_model_with_one_thing_wrong_is_caught(change: Change) -> None:
    model = fp16()
    assert list(faults(model)) == []
    change(model)
    with pytest.raises(CheckFailed, match=HALF_FAULTS[change]):
        check(model)


@pytest.mark.parametrize("change", INT8_FAULTS, ids=lambda change: change.__name__)
def test_an_int8_model_with_one_thing_wrong_is_caught(change: Change) -> None:
    model = int8(residual())
    assert list(faults(model)) == []
    change(model)
    with pytest.raises(CheckFailed, match=INT8_FAULTS[change]):
        check(model)
