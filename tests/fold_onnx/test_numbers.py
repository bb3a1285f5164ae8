"""Types, rounding, and numbers at the edge of what a type holds."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import numpy_helper

from bn_deploy.folding.graph.driver import fold_model
from tests.fold_onnx.graphs import Net, folded, untouched

IMAGE = (2, 4, 6, 6)


def weights(model: onnx.ModelProto) -> dict[str, Any]:
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.float16])
def test_one_rounding_in_the_type_of_the_weights(dtype: Any) -> None:
    exact, rounded = Net(IMAGE), Net(IMAGE, dtype=dtype)
    made = []
    for net in (exact, rounded):
        y = net.bn(net.op("AveragePool", net.bn(net.conv("x", 4, 8), 8), kernel_shape=[2, 2]), 8)
        if net is exact:
            for name, array in net.constants.items():
                net.constants[name] = array.astype(dtype).astype(np.float64)
        made.append(folded(net.model(y))[0])
    one, other = (weights(model) for model in made)
    assert one.keys() == other.keys()
    for name, array in one.items():
        assert other[name].dtype == dtype
        assert np.array_equal(array.astype(dtype), other[name])


def test_bfloat16_stays_bfloat16() -> None:
    net = Net(IMAGE, dtype=np.float32, opset=18)
    model = ir.from_proto(net.model(net.bn(net.conv("x", 4, 8), 8)))
    for value in model.graph.initializers.values():
        array = value.const_value.numpy().astype(ml_dtypes.bfloat16)  # type: ignore[union-attr]
        value.const_value = ir.Tensor(array, name=value.name)
        value.dtype = ir.DataType.BFLOAT16
    for value in (*model.graph.inputs, *(v for node in model.graph for v in node.outputs)):
        value.type = ir.TensorType(ir.DataType.BFLOAT16)
    assert len(fold_model(model).folded) == 1
    assert {v.const_value.dtype for v in model.graph.initializers.values()} == {ir.DataType.BFLOAT16}  # type: ignore[union-attr]


def scaled(dtype: Any, scale: float, variance: float = 1.0, mean: float = 0.0) -> Net:
    net = Net(IMAGE, dtype=dtype)
    y = net.conv("x", 4, 8)
    numbers = [np.full(8, scale), np.ones(8), np.full(8, mean), np.full(8, variance)]
    net.op("BatchNormalization", y, *map(net.const, numbers))
    return net


@pytest.mark.parametrize(
    ("scale", "mean", "reason"),
    [
        (6e4, 0.0, "the folded weights overflow float16"),
        (1.0, 6e4, None),
        (1e2, 6e4, "the folded bias overflows float16"),
        (1e-5, 0.0, "too small for float16"),
        (0.0, 0.0, None),
    ],
)
def test_half(scale: float, mean: float, reason: str | None) -> None:
    net = scaled(np.float16, scale, mean=mean)
    net.constants["c0"] = np.sign(net.constants["c0"]) * np.float16(1.5)
    before = net.model("batchnormalization1")
    after, report = folded(before)
    if reason is None:
        assert report.folded
    else:
        assert reason in report.kept[0].reason
        assert untouched(before, after)


def test_an_overflow_undoes_the_whole_plan() -> None:
    net = Net(IMAGE, dtype=np.float16)
    fine, large = net.conv("x", 4, 8), net.conv("x", 4, 8)
    net.constants["c2"][0] = 6e4
    numbers = [np.full(8, 10.0), np.ones(8), np.ones(8), np.ones(8)]
    y = net.op("BatchNormalization", net.op("Add", fine, large), *map(net.const, numbers))
    before = net.model(y)
    after, report = folded(before)
    assert "overflow" in report.kept[0].reason
    assert untouched(before, after)


@pytest.mark.parametrize(("scale", "variance"), [(1e-20, 1.0), (1.0, 1e-12), (1e3, 1e8), (1.0, 0.0)])
def test_single_precision_is_as_good_as_before(scale: float, variance: float) -> None:
    """The folded network is no further from float64 than 1.1 times what the given one is."""
    net = scaled(np.float32, scale, variance)
    before = net.model("batchnormalization1")
    after, report = folded(before)
    assert report.folded
    feeds = {"x": np.random.default_rng(5).standard_normal((64, 4, 6, 6)).astype(np.float32)}
    before.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 64
    for model in (before, after):
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_param = "N"
    w, b, s, t, m, v = (net.constants[f"c{i}"].astype(np.float64) for i in range(6))
    eps = float(np.float32(1e-5))
    exact = np.einsum("oc,nchw->nohw", w[:, :, 0, 0], feeds["x"].astype(np.float64))
    column = (slice(None), None, None)
    exact = (s / np.sqrt(v + eps))[column] * (exact + b[column] - m[column]) + t[column]
    gaps = []
    for model in (before, after):
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        gaps.append(np.linalg.norm(session.run(None, feeds)[0] - exact))
    assert gaps[1] <= 1.1 * gaps[0]


def test_equal_weights_are_stored_once() -> None:
    net = Net(IMAGE)
    weight, numbers = net.normal(8, 4, 1, 1), [net.const(array) for array in net.numbers(8)]
    outputs = [
        net.op("Tanh", net.op("BatchNormalization", net.op("Conv", x, weight), *numbers))
        for x in ("x", net.op("Sigmoid", "x"))
    ]
    after, _ = folded(net.model(*outputs))
    assert len([name for name, array in weights(after).items() if array.ndim == 4]) == 1


@pytest.mark.parametrize("groups", [2, 4])
def test_grouped_transposed_convolutions(groups: int) -> None:
    """By ONNX Runtime in single precision, since ONNX's reference cannot run them."""
    net = Net(IMAGE, dtype=np.float32)
    y = net.op("ConvTranspose", "x", net.normal(4, 3, 2, 2), net.normal(3 * groups), group=groups)
    forwards = net.op("ConvTranspose", net.scale("x", 4), net.normal(4, 1, 2, 2), group=4)
    before = net.model(net.bn(y, 3 * groups, positive=True), forwards)
    after, report = folded(before)
    assert len(report.folded) == 2
    results = [
        onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(
            None, net.feeds()
        )
        for model in (before, after)
    ]
    for one, other in zip(*results, strict=True):
        # Each value adds up at most four products and a bias; a few roundings of each may differ.
        assert np.abs(one - other).max() <= 32 * np.finfo(np.float32).eps * np.abs(one).max()
