from __future__ import annotations

import json
from typing import Any

import pytest

from bn_deploy.engine import precision
from bn_deploy.errors import ModelError
from bn_deploy.spec import Precision
from tests.engine.fake_trt import World, make


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        (["FLOAT", "INT64", "BOOL"], Precision.FP32),
        (["FLOAT", "HALF"], Precision.FP16),
        (["FLOAT", "BF16"], Precision.BF16),
        (["FLOAT", "HALF", "INT8"], Precision.INT8),
    ],
)
def test_a_network_has_the_precision_of_its_narrowest_layer(layers: list[str], found: Precision) -> None:
    trt = make("11.4.0.106", World(layers=layers))
    network = trt.module.INetworkDefinition()
    network._fill()
    assert precision.of_network(network) is found


def test_a_network_of_integers_has_none() -> None:
    network = make("11.4.0.106", World(layers=["INT64"])).module.INetworkDefinition()
    network._fill()
    with pytest.raises(ModelError, match="computes in none of int8, fp16, bf16, fp32"):
        precision.of_network(network)


def layer(**tensor: str) -> dict[str, Any]:
    return {"Name": "conv fp16", "Inputs": [{"Name": "half", **tensor}], "Outputs": []}


@pytest.mark.parametrize(
    ("layers", "found"),
    [
        ([layer(**{"Format/Datatype": "Row major linear FP32"})], Precision.FP32),
        ([layer(**{"Format/Datatype": "Row major linear FP16 format"})], Precision.FP16),
        ([layer(**{"Format/Datatype": "Half"}), layer(**{"Format/Datatype": "Float"})], Precision.FP16),
        (
            [layer(**{"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."})],
            Precision.INT8,
        ),
        ([layer(Format="Row major linear format (kLINEAR)", DataType="BFloat16")], Precision.BF16),
        ([layer(DataType="Int32")], None),
        (["only a name, half"], None),
        ([], None),
    ],
)
def test_an_inspection_tells_the_precision_by_types_and_not_by_names(
    layers: list[Any], found: Precision | None
) -> None:
    assert precision.of_inspection(json.dumps({"Layers": layers, "Bindings": ["half"]})) is found


@pytest.mark.parametrize("text", ["", "not json", "[]"])
def test_an_inspection_that_cannot_be_read_tells_nothing(text: str) -> None:
    assert precision.of_inspection(text) is None
