"""What absorbs a batch norm that comes before it: each case folds completely."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.fold_onnx.graphs import Net, assert_folds

IMAGE = ("N", 4, 6, 6)


def index(net: Net, *numbers: int) -> str:
    return net.const(np.array(numbers))


def gemm(net: Net, y: str, inputs: int, **attributes: object) -> str:
    weight = net.normal(3, inputs) if attributes.get("transB") else net.normal(inputs, 3)
    return str(net.op("Gemm", y, weight, net.normal(3), **attributes))


READERS: dict[str, Callable[[Net, str], str]] = {
    # what comes between a batch norm of the network's input, of 4 channels, and the reader that takes it
    "conv": lambda n, y: n.conv(y, 4, 6, 3),
    "conv without bias": lambda n, y: n.conv(y, 4, 6, 3, bias=False),
    "grouped conv": lambda n, y: n.conv(y, 4, 6, 3, group=2, auto_pad="VALID"),
    "depthwise conv": lambda n, y: n.conv(y, 4, 8, 2, group=4, strides=[2, 2]),
    "pointwise conv": lambda n, y: n.conv(y, 4, 3, 1, auto_pad="SAME_LOWER", strides=[2, 2]),
    "conv behind padding by copies": lambda n, y: n.conv(
        n.op("Pad", y, index(n, 0, 0, 1, 1, 0, 0, 1, 1), mode="reflect"), 4, 3, 3
    ),
    "gemm": lambda n, y: gemm(n, n.op("Flatten", y), 144),
    "gemm, alpha and beta": lambda n, y: gemm(n, n.op("Flatten", y), 144, alpha=0.5, beta=2.0, transB=1),
    "gemm without bias": lambda n, y: n.op("Gemm", n.op("Flatten", y), n.normal(144, 2)),
    "matmul": lambda n, y: n.op("MatMul", n.op("Reshape", y, index(n, 0, -1)), n.normal(144, 2)),
    "matmul of features last": lambda n, y: n.op(
        "MatMul", n.op("Transpose", y, perm=[0, 2, 3, 1]), n.normal(4, 2)
    ),
    "matmul, weight first": lambda n, y: n.op(
        "MatMul", n.normal(2, 4), n.op("Reshape", y, index(n, 0, 4, 36))
    ),
    "through pooling": lambda n, y: n.conv(n.op("AveragePool", y, kernel_shape=[2, 2]), 4, 3),
    "through a mean": lambda n, y: gemm(n, n.op("ReduceMean", y, index(n, 2, 3), keepdims=0), 4),
    "through an upsampling": lambda n, y: n.conv(
        n.op("Resize", y, "", n.const([1, 1, 2, 2], np.float32), mode="linear"), 4, 3, 2
    ),
    "through a slice": lambda n, y: n.conv(
        n.op("Slice", y, index(n, 3), index(n, 0), index(n, 1), index(n, -1)), 3, 2
    ),
    "through a gather": lambda n, y: n.conv(n.op("Gather", y, index(n, 3, 3, 0), axis=1), 3, 2),
    "through a split": lambda n, y: n.op(
        "Add", *(n.conv(part, 2, 3) for part in n.op("Split", y, axis=1, outputs=2, num_outputs=2))
    ),
    "through a concat": lambda n, y: n.conv(n.op("Concat", n.op("Tanh", "x"), y, axis=1), 8, 3, 2),
    "through a rearrangement": lambda n, y: n.conv(n.op("SpaceToDepth", y, blocksize=2), 16, 3),
    "through a scalar": lambda n, y: n.conv(n.op("Mul", n.const(2.0), n.op("Neg", y)), 4, 3),
    "through a difference": lambda n, y: n.conv(
        n.op("Sub", y, n.op("AveragePool", y, kernel_shape=[1, 1])), 4, 3
    ),
    "batch of matrices": lambda n, y: n.op("MatMul", y, n.normal(4, 6, 2)),
    "batch of matrices, first": lambda n, y: n.op("MatMul", n.normal(4, 2, 6), y),
    "transposed pointwise conv": lambda n, y: n.op("ConvTranspose", y, n.normal(4, 2, 1, 1), n.normal(2)),
    "through a sum of elements": lambda n, y: n.conv(n.op("ReduceSum", y, index(n, 2, 3)), 4, 3),
    "through a tile": lambda n, y: n.conv(n.op("Tile", y, index(n, 1, 2, 1, 1)), 8, 3),
    "through added channels": lambda n, y: n.conv(
        n.op("Pad", y, index(n, 0, 1, 0, 0, 0, 1, 0, 0), n.const(2.0)), 6, 3
    ),
    "through a mean of branches": lambda n, y: n.conv(
        n.op("Mean", y, n.op("AveragePool", y, kernel_shape=[1, 1])), 4, 3
    ),
    "through a choice": lambda n, y: n.conv(
        n.op("Where", n.op("Greater", "x", n.const(0.0)), y, n.op("Identity", y)), 4, 3
    ),
    "through unknown positions": lambda n, y: n.conv(
        n.op("Gather", y, n.op("Cast", n.op("GlobalMaxPool", "x"), to=7), axis=3), 4, 3, 1, rank=7
    ),
    "its size is read": lambda n, y: n.conv(n.op("Reshape", y, n.op("Shape", y)), 4, 3),
    "several readers": lambda n, y: n.op("Concat", n.conv(y, 4, 3, 2), n.conv(y, 4, 2, 2), axis=1),
}


@pytest.mark.parametrize("case", READERS)
def test_a_reader_absorbs(case: str) -> None:
    net = Net(IMAGE)
    report = assert_folds(net, net.op("Tanh", READERS[case](net, net.bn("x", 4))))
    assert report.folded[0].rule.startswith("bn-")


PADDED: dict[str, Callable[[Net, str], str]] = {
    "zero padding": lambda n, y: n.conv(y, 4, 3, 3, pads=[1] * 4),
    "same size": lambda n, y: n.conv(y, 4, 3, 3, auto_pad="SAME_UPPER"),
    "transposed": lambda n, y: n.op("ConvTranspose", y, n.normal(4, 2, 3, 3), pads=[1] * 4),
    "rectified": lambda n, y: n.conv(n.op("Relu", y), 4, 3),
    "padded by zeros": lambda n, y: n.conv(n.op("Pad", y, index(n, 0, 0, 1, 1, 0, 0, 1, 1)), 4, 3, 3),
    "counted zeros": lambda n, y: n.conv(
        n.op("AveragePool", y, kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=1), 4, 3
    ),
    "gated": lambda n, y: n.conv(n.op("Mul", n.op("Sigmoid", "x"), y), 4, 3),
    "divided": lambda n, y: n.conv(n.op("Div", y, n.op("Exp", "x")), 4, 3),
}


@pytest.mark.parametrize("case", PADDED)
def test_what_zeros_and_gates_allow(case: str) -> None:
    net = Net(IMAGE)
    y = net.scale("x", 4)
    report = assert_folds(net, PADDED[case](net, y))
    assert report.folded[0].rule.startswith("bn-")


def test_the_shift_before_a_matmul_joins_the_bias_after_it() -> None:
    net = Net(("N", 4))
    y = net.op("Add", net.op("MatMul", net.bn("x", 4), net.normal(4, 3)), net.normal(3))
    assert_folds(net, y, left={"MatMul": 1, "Add": 1})


def test_backward_comes_first() -> None:
    net = Net(IMAGE)
    y = net.conv(net.bn(net.conv("x", 4, 4), 4), 4, 4)
    assert assert_folds(net, y).folded[0].rule == "conv-bn"
