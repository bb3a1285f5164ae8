"""Casts between real types beside a batch norm: no number may be rounded more than before."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest

from tests.fold_onnx.graphs import BATCH, Net, folded

IMAGE = (BATCH, 4, 6, 6)
DOUBLE, FLOAT, HALF = onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16


def cast_before(net: Net, wide: int, narrow: int) -> str:
    """A batch norm in one type, and a convolution in the other."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(narrow)
    numbers = [net.const(array, kind) for array in (*net.numbers(4)[:3], np.ones(4))]
    y = net.op("BatchNormalization", net.op("Cast", "x", to=narrow), *numbers)
    weight = net.const(net.random.standard_normal((3, 4, 1, 1)), onnx.helper.tensor_dtype_to_np_dtype(wide))
    return str(net.op("Cast", net.op("Conv", net.op("Cast", y, to=wide), weight), to=DOUBLE))


def cast_after(net: Net, first: int, second: int) -> str:
    """A convolution in one type, and a batch norm in the other."""
    kinds = [onnx.helper.tensor_dtype_to_np_dtype(kind) for kind in (first, second)]
    weight = net.const(net.random.standard_normal((4, 4, 1, 1)), kinds[0])
    y = net.op("Cast", net.op("Conv", net.op("Cast", "x", to=first), weight), to=second)
    numbers = [net.const(array, kinds[1]) for array in (*net.numbers(4)[:3], np.ones(4))]
    return str(net.op("Cast", net.op("BatchNormalization", y, *numbers), to=DOUBLE))


@pytest.mark.parametrize(("wide", "narrow"), [(FLOAT, HALF), (DOUBLE, HALF), (DOUBLE, FLOAT)])
def test_more_digits_are_better_for_a_map(wide: int, narrow: int) -> None:
    net = Net(IMAGE)
    report = folded(net.model(cast_before(net, wide, narrow)))[1]
    assert report.folded[0].rule.startswith("bn-conv through Cast")


@pytest.mark.parametrize(
    ("build", "one", "other", "reason"),
    [
        (cast_before, HALF, FLOAT, "casts float to float16, which would round what the map is applied to"),
        (cast_after, HALF, FLOAT, "casts float16 to float, which would round the result of the map"),
        (cast_after, FLOAT, HALF, "casts float to float16, which would round the result of the map"),
    ],
)
def test_a_map_is_not_rounded_more_than_before(
    build: Callable[[Net, int, int], str], one: int, other: int, reason: str
) -> None:
    net = Net(IMAGE)
    report = folded(net.model(build(net, one, other)))[1]
    assert not report.folded
    assert reason in report.kept[0].reason
