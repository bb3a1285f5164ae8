from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from bn_deploy.engine import onnx_input, precision
from bn_deploy.errors import ModelError
from bn_deploy.spec import Precision
from tests.engine.fake_trt import World, make
from tests.engine.models import cnn, half_scales, quantized, save

DEQUANTIZED = ("DEQUANTIZE", "FLOAT", ("q",), "d")
CONV_FLOAT = ("CONVOLUTION", "FLOAT", ("x",), "c")
CONV_HALF = ("CONVOLUTION", "HALF", ("x",), "h")
CONV_INT8 = ("CONVOLUTION", "FLOAT", ("d", "d"), "i")
CAST = ("IDENTITY", "HALF", ("d",), "dh")


def parsed(layers: list[Any]) -> Any:
    network = make("8.5.3.1", World(layers=layers)).module.INetworkDefinition()
    network._fill()
    return network


@pytest.mark.parametrize(
    ("layers", "found", "census"),
    [
        (["FLOAT", "INT32", "BOOL"], Precision.FP32, {"fp32": 1}),
        (["FLOAT", "HALF"], Precision.FP16, {"fp32": 1, "fp16": 1}),  # no products: all layers count
        ([CONV_FLOAT, "HALF"], Precision.FP32, {"fp32": 1, "fp16": 1}),  # a lone Relu in half
        ([CONV_FLOAT, CONV_HALF], Precision.FP16, {"fp32": 1, "fp16": 1}),
        ([DEQUANTIZED, CONV_INT8, "FLOAT"], Precision.INT8, {"int8": 1, "fp32": 1}),
        ([DEQUANTIZED, CONV_INT8, CONV_HALF], Precision.INT8_FP16, {"int8": 1, "fp16": 1}),
        ([DEQUANTIZED, CONV_INT8, "HALF"], Precision.INT8_FP16, {"int8": 1, "fp16": 1}),
        ([DEQUANTIZED, CAST, ("CONVOLUTION", "HALF", ("dh",), "c")], Precision.INT8, {"int8": 1}),
        # Dequantised, and then used in another way: what computes after it does not compute in int8.
        ([DEQUANTIZED, ("CONVOLUTION", "FLOAT", ("d", "x"), "c")], Precision.FP32, {"fp32": 1}),
        ([DEQUANTIZED, ("SHUFFLE", "FLOAT", ("q",), "s"), CONV_FLOAT], Precision.FP32, {"fp32": 2}),
    ],
)
def test_a_network_has_the_narrowest_precision_of_its_products(
    layers: list[Any], found: Precision, census: dict[str, int]
) -> None:
    network = parsed(layers)
    assert precision.of_network(network) is found
    assert precision.census_of_network(network) == {Precision(name): count for name, count in census.items()}


def test_types_that_8_5_does_not_know() -> None:
    network = make("11.4.0.106", World(layers=["FLOAT", "BF16"])).module.INetworkDefinition()
    network._fill()
    assert precision.of_network(network) is Precision.BF16


@pytest.mark.parametrize(
    ("model", "wanted", "flags", "found"),
    [
        (cnn(), None, set(), Precision.FP32),
        (cnn(), Precision.FP16, set(), Precision.FP32),  # the graph decides, not the wish
        (cnn(half=True), None, {"FP16"}, Precision.FP16),
        (quantized(), None, {"INT8"}, Precision.INT8),
        (quantized(half=True), None, {"FP16", "INT8"}, Precision.INT8_FP16),
        (quantized(), Precision.INT8_FP16, {"FP16", "INT8"}, Precision.INT8_FP16),
        (cnn(), Precision.INT8_FP16, set(), Precision.FP32),
    ],
)
def test_where_types_are_weak_the_flags_follow_from_the_graph(
    tmp_path: Path, model: onnx.ModelProto, wanted: Precision | None, flags: set[str], found: Precision
) -> None:
    source = onnx_input.read(save(model, tmp_path / "model.onnx"))
    assert precision.weak_flags(source, wanted) == flags
    assert precision.of_flags(flags) is found


def test_where_types_are_weak_scales_in_half_are_refused(tmp_path: Path) -> None:
    """The parser of 8.x would read their bytes as float32."""
    source = onnx_input.read(save(half_scales(), tmp_path / "model.onnx"))
    with pytest.raises(ModelError, match=r"^qx: its scale is in half .* --for-tensorrt 8\.x"):
        precision.weak_flags(source, Precision.INT8_FP16)


def test_a_file_for_another_tensorrt_is_told_as_what_it_is() -> None:
    census = {Precision.INT8: 5}
    with pytest.raises(ModelError, match=r"export it with --precision int8\+fp16 --for-tensorrt 10\+, not 8"):
        precision.check_wanted(Precision.INT8_FP16, Precision.INT8, census, target="8.x")
    with pytest.raises(ModelError, match=r"export it with --precision int8\+fp16$"):
        precision.check_wanted(Precision.INT8_FP16, Precision.INT8, census, target="10+")


def test_a_network_of_integers_has_none() -> None:
    network = make("11.4.0.106", World(layers=["INT64"])).module.INetworkDefinition()
    network._fill()
    with pytest.raises(ModelError, match="computes in none of int8, fp16, bf16, fp32"):
        precision.of_network(network)


def layer(**tensor: str) -> dict[str, Any]:
    return {"Name": "conv fp16", "Inputs": [{"Name": "half", **tensor}], "Outputs": []}


@pytest.mark.parametrize(
    ("layers", "found", "census"),
    [
        ([layer(**{"Format/Datatype": "Row major linear FP32"})], Precision.FP32, {"fp32": 1}),
        ([layer(**{"Format/Datatype": "Row major linear FP16 format"})], Precision.FP16, {"fp16": 1}),
        (
            [layer(**{"Format/Datatype": "Half"}), layer(**{"Format/Datatype": "Float"})],
            Precision.FP16,
            {"fp16": 1, "fp32": 1},
        ),
        (
            [layer(**{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."})],
            Precision.INT8,
            {"int8": 1},
        ),
        (
            [{"Inputs": [{"DataType": "Int8"}], "Outputs": [{"DataType": "Half"}]}],
            Precision.INT8_FP16,
            {"int8+fp16": 1},
        ),
        ([layer(DataType="Int8"), layer(DataType="Half")], Precision.INT8_FP16, {"int8": 1, "fp16": 1}),
        (
            [layer(Format="Row major linear format (kLINEAR)", DataType="BFloat16")],
            Precision.BF16,
            {"bf16": 1},
        ),
        ([layer(DataType="Int32")], None, None),
        (["only a name, half"], None, None),
        ([], None, None),
    ],
)
def test_an_inspection_tells_the_precision_by_types_and_not_by_names(
    layers: list[Any], found: Precision | None, census: dict[str, int] | None
) -> None:
    told = precision.census_of_inspection(json.dumps({"Layers": layers, "Bindings": ["half"]}))
    assert precision.of_census(told) is found
    assert told == (census and {Precision(name): count for name, count in census.items()})


@pytest.mark.parametrize("text", ["", "not json", "[]"])
def test_an_inspection_that_cannot_be_read_tells_nothing(text: str) -> None:
    assert precision.census_of_inspection(text) is None
