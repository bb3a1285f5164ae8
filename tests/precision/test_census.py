"""What a graph computes in, counted."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest

from bn_deploy.precision.census import DtypeCensus, census
from bn_deploy.spec import Precision
from tests.precision.zoo import ZOO, Net, plain

# By hand: results times what each sums; for a transposed convolution inputs times what each spreads to.
MACS = {
    "plain": 6 * 36 * 27 + 216 * 5,
    "grouped": 8 * 64 * 27 + 8 * 36 * 18 + 288 * 5,
    "depthwise": 8 * 64 * 3 + 8 * 36 * 9 + 4 * 36 * 8 + 4 * 5,
    "transposed": 4 * 9 * 27 + 4 * 9 * 3 * 4 + 27 * 5,
    "residual": 4 * 64 * 27 + 4 * 64 * 36 + 16 * 5,
    "one_dimensional": 4 * 14 * 6 + 28 * 5,
    "mlp": 12 * 16 + 16 * 16 + 16 * 5,
}


@pytest.mark.parametrize("make", ZOO.values(), ids=ZOO)
def test_multiply_accumulates_are_those_counted_by_hand(make: Callable[[], Net]) -> None:
    found = census(make().model())
    assert found.macs == {"fp32": MACS[make.__name__]}
    assert found.operators == {"fp32": len(make().nodes)}
    assert found.conversions == {}
    assert census(make().model(3)).macs == {"fp32": 3 * MACS[make.__name__]}


@pytest.mark.parametrize(
    ("operators", "precision", "lacks"),
    [
        ({"fp32": 3}, Precision.FP32, {Precision.FP16: "fp16", Precision.INT8: "int8"}),
        ({"fp16": 1, "fp32": 9}, Precision.FP16, {Precision.FP16: None, Precision.BF16: "bf16"}),
        ({"bf16": 1}, Precision.BF16, {Precision.FP32: "fp32", Precision.INT8_FP16: "int8"}),
        ({"int8": 1, "fp32": 1}, Precision.INT8, {Precision.INT8: None, Precision.INT8_FP16: "fp16"}),
        ({"int8": 1, "fp16": 1}, Precision.INT8_FP16, {Precision.INT8_FP16: None}),
        ({}, Precision.FP32, {Precision.FP32: "fp32"}),
    ],
)
def test_what_a_file_lacks_for_a_precision(
    operators: dict[str, int], precision: Precision, lacks: dict[Precision, str | None]
) -> None:
    found = DtypeCensus(operators, {}, {})
    assert found.precision is precision
    assert {one: found.lacks(one) for one in lacks} == lacks
    assert DtypeCensus.from_json(found.to_json()) == found


def test_shares_add_up_to_one() -> None:
    found = DtypeCensus({"fp16": 1, "fp32": 3}, {"fp16": 100}, {})
    assert found.rows() == [("fp16", 1, 0.25, 100, 1.0), ("fp32", 3, 0.75, 0, 0.0)]


def test_shapes_and_indices_are_no_operators_of_a_precision() -> None:
    net = Net((12,)).add("Shape").add("Cast", to=onnx.TensorProto.INT64)
    net.last = "image"
    found = census(net.dense(12).model())
    assert (found.operators, found.conversions) == ({"fp32": 1}, {"Cast": 1})


def test_products_of_unknown_shapes_are_operators_without_a_count() -> None:
    model = plain().model()
    model.graph.input[0].type.tensor_type.ClearField("shape")
    found = census(model)
    assert found.operators["fp32"] == 4
    assert found.macs == {}
