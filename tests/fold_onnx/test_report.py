"""What a report says besides the outcome: own copies of shared weights, and what a type does to numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from bn_deploy.folding.graph.driver import fold_model
from bn_deploy.folding.outcome import Folded, Site
from tests.fold_onnx.graphs import Net, assert_faithful, folded

IMAGE = ("N", 4, 6, 6)
COPY = "with an own copy of c0, which others share"


def apart(net: Net, weight: str) -> list[str]:
    """Two convolutions of one weight, each with a batch norm of its own."""
    y = net.op("Tanh", net.bn(net.op("Conv", "x", weight), 4))
    return [net.op("Tanh", net.bn(net.op("Conv", y, weight), 4))]


def together(net: Net, weight: str) -> list[str]:
    """Two convolutions of one weight with the same batch norm."""
    numbers = [net.const(array) for array in net.numbers(4)]
    inputs = ("x", net.op("Tanh", "x"))
    return [net.op("BatchNormalization", net.op("Conv", x, weight), *numbers) for x in inputs]


def one_of_two(net: Net, weight: str) -> list[str]:
    """Two convolutions of one weight, of which one has no batch norm."""
    return [net.bn(net.op("Conv", "x", weight), 4), net.op("Tanh", net.op("Conv", "x", weight))]


def one_cannot(net: Net, weight: str) -> list[str]:
    """Two convolutions of one weight, of which one has a batch norm that stays."""
    y = net.op("Conv", "x", weight)
    return [net.bn(net.op("Conv", "x", weight), 4), y, net.op("Tanh", net.bn(y, 4))]


def turned(net: Net, weight: str) -> list[str]:
    """A weight that is used as it is and transposed, as of an autoencoder with tied weights."""
    y = net.bn(net.op("MatMul", net.op("Reshape", "x", net.const(np.array([-1, 4]))), weight), 4)
    return [net.op("MatMul", net.op("Tanh", y), net.op("Transpose", weight))]


SHARED: dict[str, tuple[Callable[[Net, str], list[str]], tuple[int, ...], list[bool]]] = {
    # who shares a weight of this shape, and which of the batch norms that fold need an own copy
    "apart": (apart, (4, 4, 1, 1), [True, True]),
    "together": (together, (4, 4, 1, 1), [False, False]),
    "one of two": (one_of_two, (4, 4, 1, 1), [True]),
    "one cannot": (one_cannot, (4, 4, 1, 1), [True]),
    "turned": (turned, (4, 4), [True]),
}


@pytest.mark.parametrize("case", SHARED)
def test_an_own_copy_of_a_shared_weight_is_told(case: str) -> None:
    build, shape, copies = SHARED[case]
    net = Net(IMAGE)
    outputs = build(net, net.normal(*shape))
    after, report = assert_faithful(net, *outputs)
    assert [entry.note for entry in report.folded] == [COPY if copy else None for copy in copies]
    assert all((COPY in str(entry)) == (entry.note is not None) for entry in report.folded)
    original = {i.name: onnx.numpy_helper.to_array(i) for i in after.graph.initializer}.get("c0")
    if case in ("one of two", "one cannot", "turned"):
        assert original is not None
        assert np.array_equal(original, net.constants["c0"])


def test_a_weight_of_one_layer_is_not_called_shared() -> None:
    net = Net(IMAGE)
    _, report = assert_faithful(net, net.bn(net.bn(net.conv("x", 4, 4), 4), 4))
    assert [entry.note for entry in report.folded] == [None, None]


WARNED: list[tuple[Any, list[float], float, str | None]] = [
    # the type, scales of a batch norm, its shift, and what is said of weights of one
    (np.float32, [1.0, 1.0], 0.0, None),
    (np.float32, [1.0, 1e-39], 0.0, "1 of 2 scales make weights below 1.2e-38, where float32 has fewer"),
    (np.float16, [1.0, 1e-5], 0.0, "1 of 2 scales make weights below 6.1e-05, where float16 has fewer"),
    (np.float16, [1.0, 0.0], 0.0, None),
    (np.float64, [1.0, 1e-39], 0.0, None),
    (np.float16, [1.0, 4e4], 0.0, "numbers up to 4e+04 take up more than half the range of float16"),
    (np.float16, [1.0, 1.0], 4e4, "numbers up to 4e+04 take up more than half the range of float16"),
    (np.float32, [1.0, 4e4], 4e4, None),
]


@pytest.mark.parametrize(("dtype", "scales", "shift", "warning"), WARNED)
def test_what_a_type_does_to_the_numbers_is_told(
    dtype: Any, scales: list[float], shift: float, warning: str | None
) -> None:
    net = Net(IMAGE, dtype=dtype)
    y = net.op("Conv", "x", net.const(np.ones((2, 4, 1, 1))))
    net.op("Mul", y, net.const(np.array(scales).reshape(2, 1, 1)))
    net.op("Add", "mul1", net.const(np.full((2, 1, 1), shift)))
    _, report = folded(net.model("add2"))
    (entry,) = report.folded
    if warning is None:
        assert entry.warning is None
        assert "warning" not in str(entry)
    else:
        assert warning in str(entry.warning)
        assert str(entry).endswith(f"; warning: {entry.warning}")


def test_an_entry_in_words() -> None:
    entry = Folded(Site("bn", "conv"), "conv-bn", "onnx", 2.0, note="with a note", warning="take care")
    assert str(entry) == (
        "folded  conv -> bn  by conv-bn, onnx, largest scale 2, with a note; warning: take care"
    )


TYPES = {
    "float64": np.float64,
    "float32": np.float32,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
}


@pytest.mark.parametrize("data", TYPES)
@pytest.mark.parametrize("scale", TYPES)
@pytest.mark.parametrize("statistics", TYPES)
def test_numbers_of_other_types_than_the_data(data: str, scale: str, statistics: str) -> None:
    """Since opset 15 the numbers of a batch norm may have other types: the weights keep theirs."""
    net = Net((2, 4, 6, 6), dtype=np.float64)
    y = net.conv("x", 4, 8)
    net.op("BatchNormalization", y, *map(net.const, net.numbers(8)))
    model = ir.from_proto(net.model("batchnormalization1"))
    types = [data, data, scale, scale, statistics, statistics]
    exact = []
    for value, name in zip(model.graph.initializers.values(), types, strict=True):
        array = net.constants[str(value.name)].astype(TYPES[name])
        exact.append(array.astype(np.float64))
        value.const_value = ir.Tensor(array, name=value.name)
        value.dtype = value.const_value.dtype
    for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)):
        value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(TYPES[data])))
    report = fold_model(model)
    weight, bias, gamma, beta, mean, variance = exact
    ratio = gamma / np.sqrt(variance + float(np.float32(1e-5)))
    assert len(report.folded) == 1
    made = [value.const_value.numpy() for value in model.graph[0].inputs[1:]]  # type: ignore[union-attr]
    expected = weight * ratio.reshape(8, 1, 1, 1), ratio * bias + (beta - mean * ratio)
    for array, right in zip(made, expected, strict=True):
        assert array.dtype == TYPES[data]
        assert np.abs(array.astype(np.float64) - right.astype(TYPES[data]).astype(np.float64)).max() <= (
            2.0 ** -{"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}[data] * np.abs(right).max()
        )


def test_half_data_with_single_statistics_runs() -> None:
    net = Net((2, 4, 6, 6), dtype=np.float16)
    y = net.conv("x", 4, 8)
    scale, shift, mean, variance = net.numbers(8)
    numbers = [net.const(array, np.float32) for array in (scale, shift, mean, np.abs(variance) + 1)]
    before = net.model(net.op("BatchNormalization", y, *numbers))
    after, report = folded(before)
    assert report.folded
    session = onnxruntime.InferenceSession(after.SerializeToString(), providers=["CPUExecutionProvider"])
    made = session.run(None, net.feeds())[0]
    x = net.feeds()["x"].astype(np.float64)
    w, b = (net.constants[name].astype(np.float64) for name in ("c0", "c1"))
    column = (slice(None), None, None)
    ratio = scale.astype(np.float32) / np.sqrt(np.abs(variance) + 1 + 1e-5)
    right = (
        ratio[column] * (np.einsum("oc,nchw->nohw", w[:, :, 0, 0], x) + (b - mean)[column]) + shift[column]
    )
    # Four products and a bias in half, each rounded.
    assert np.abs(made - right).max() <= 16 * np.finfo(np.float16).eps * np.abs(right).max()
