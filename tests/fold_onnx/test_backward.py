"""What absorbs a batch norm that comes after it, and what lies between: each case folds completely."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tests.fold_onnx.graphs import BATCH, Net, assert_folds

IMAGE = ("N", 4, 6, 6)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("rank", "attributes"),
    [
        (3, {}),
        (4, {"pads": [1, 0, 2, 1], "strides": [2, 1], "dilations": [1, 2]}),
        (4, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
        (4, {"group": 2}),
        (4, {"group": 4}),
        (5, {"pads": [1] * 6}),
    ],
)
def test_convolutions(rank: int, attributes: dict[str, object], bias: bool) -> None:
    net = Net(("N", 4, *[5] * (rank - 2)))
    y = net.conv("x", 4, 8, 3, rank=rank, bias=bias, **attributes)
    report = assert_folds(net, net.bn(y, 8), left={"Conv": 1})
    assert report.folded[0].rule == "conv-bn"
    assert report.folded[0].flavour == "onnx"
    assert report.folded[0].site.producer == "n_conv0"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attributes", [{}, {"strides": [2, 2], "output_padding": [1, 1], "pads": [1] * 4}])
def test_transposed_convolutions(attributes: dict[str, object], bias: bool) -> None:
    net = Net(IMAGE)
    extra = [net.normal(3)] if bias else []
    y = net.op("ConvTranspose", "x", net.normal(4, 3, 3, 3), *extra, **attributes)
    assert_folds(net, net.bn(y, 3), left={"ConvTranspose": 1})


@pytest.mark.parametrize("attributes", [{}, {"alpha": 0.5, "beta": 2.0}, {"beta": 0.0}, {"transB": 1}])
@pytest.mark.parametrize("shape", [None, (5,), (1, 5), (1,), (), (3, 5), (3, 1)])
def test_gemm(attributes: dict[str, object], shape: tuple[int, ...] | None) -> None:
    net = Net((3, 4))
    weight = net.normal(5, 4) if "transB" in attributes else net.normal(4, 5)
    bias = [] if shape is None else [net.normal(*shape)]
    assert_folds(net, net.bn(net.op("Gemm", "x", weight, *bias, **attributes), 5), left={"Gemm": 1})


def test_a_gemm_of_which_the_new_bias_equals_the_old_by_chance() -> None:
    net = Net((3, 4))
    y = net.op("Gemm", "x", net.normal(4, 2), net.const([4.0, -2.0]), beta=0.5)
    numbers = [net.const(array) for array in ([2.0, 2.0], [0.0, 0.0], [0.0, 0.0], [1.0, 1.0])]
    assert_folds(net, net.op("BatchNormalization", y, *numbers, epsilon=0.0), left={"Gemm": 1})


def test_a_gemm_with_a_transposed_input() -> None:
    net = Net((4, 3))
    assert_folds(net, net.bn(net.op("Gemm", "x", net.normal(4, 5), transA=1), 5), left={"Gemm": 1})


@pytest.mark.parametrize("bias", [True, False])
def test_matmul(bias: bool) -> None:
    net = Net(("N", 4))
    y = net.op("MatMul", "x", net.normal(4, 5))
    y = net.op("Add", net.normal(5), y) if bias else y
    assert_folds(net, net.bn(y, 5), left={"MatMul": 1, "Add": 1})


def test_matmul_with_features_last() -> None:
    net = Net(("N", 3, 4))
    y = net.op("Add", net.op("MatMul", "x", net.normal(4, 5)), net.normal(5))
    report = assert_folds(net, net.bn(net.op("Transpose", y, perm=[0, 2, 1]), 5))
    assert report.folded[0].rule == "matmul-bn through Transpose"


def test_matmul_with_the_weight_first() -> None:
    net = Net(("N", 4, 5))
    assert_folds(net, net.bn(net.op("MatMul", net.normal(3, 4), "x"), 3), left={"MatMul": 1, "Add": 1})


def shuffled(net: Net, y: str) -> str:
    y = net.op("Reshape", y, net.const(np.array([0, 2, 4, 6, 6])))
    return str(
        net.op("Reshape", net.op("Transpose", y, perm=[0, 2, 1, 3, 4]), net.const(np.array([0, 8, 6, 6])))
    )


def resized(net: Net, y: str, **attributes: object) -> str:
    return str(net.op("Resize", y, "", net.const([1, 1, 2, 1.5], np.float32), **attributes))


@pytest.mark.parametrize("rank", [2, 3, 4])
@pytest.mark.parametrize("first", [True, False])
def test_a_batch_of_matrices(rank: int, first: bool) -> None:
    """A weight of its own for each head; the map may differ from head to head."""
    net = Net(("N", 3, 4, 5))
    sizes = {2: (), 3: (3,), 4: (1, 3)}[rank]
    weight = net.normal(*sizes, 6, 4) if first else net.normal(*sizes, 5, 6)
    y = net.op("MatMul", *([weight, "x"] if first else ["x", weight]))
    shape = (3 if rank > 2 else 1, *((6, 1) if first else (1, 6)))
    y = net.op("Add", net.op("Mul", y, net.normal(*shape)), net.normal(*shape))
    assert_folds(net, y, left={"MatMul": 1, "Add": 1})


def sliced(net: Net, y: str, *numbers: list[int]) -> str:
    return str(net.op("Slice", y, *[net.const(np.array(n)) for n in numbers]))


def index(net: Net, *numbers: int) -> str:
    return net.const(np.array(numbers))


def grid(net: Net) -> str:
    """Where to read: inside, and beyond the border."""
    return net.const(net.random.integers(-12, 12, (BATCH, 3, 5, 2)) / 8)  # exact in single precision


def doubled(net: Net, y: str, **attributes: object) -> str:
    """Cubic, between positions that are exact in single precision, in which ONNX's reference counts."""
    return str(net.op("Resize", y, "", net.const([1, 1, 2, 2], np.float32), mode="cubic", **attributes))


def mask(net: Net) -> str:
    return str(net.op("Greater", net.conv("x", 4, 8), net.const(0.0)))


BETWEEN: dict[str, tuple[int, Callable[[Net, str], str]]] = {
    # channels of the batch norm, and what lies between a convolution of 8 channels and it
    "identity": (8, lambda n, y: n.op("Identity", y)),
    "dropout": (8, lambda n, y: n.op("Dropout", y, n.const(np.float32(0.5), np.float32))),
    "cast": (8, lambda n, y: n.op("Cast", y, to=11)),
    "average pool": (8, lambda n, y: n.op("AveragePool", y, kernel_shape=[2, 2], strides=[2, 2])),
    "average pool, no zeros": (8, lambda n, y: n.op("AveragePool", y, kernel_shape=[3, 3], pads=[1] * 4)),
    "average pool, counted": (
        8,
        lambda n, y: n.op("AveragePool", y, kernel_shape=[2, 2], count_include_pad=1),
    ),
    "global average": (8, lambda n, y: n.op("GlobalAveragePool", y)),
    "mean": (8, lambda n, y: n.op("ReduceMean", y, index(n, 3, 2))),
    "mean, squeezed": (8, lambda n, y: n.op("ReduceMean", y, index(n, -1, 2), keepdims=0)),
    "nearest": (8, lambda n, y: resized(n, y, mode="nearest")),
    "linear": (8, lambda n, y: resized(n, y, mode="linear", coordinate_transformation_mode="half_pixel")),
    "crop": (8, lambda n, y: sliced(n, y, [1, 1], [-1, 99], [2, 3])),
    "slice": (3, lambda n, y: sliced(n, y, [2], [7], [1], [2])),
    "slice backwards": (8, lambda n, y: sliced(n, y, [99], [-99], [1], [-1])),
    "gather": (4, lambda n, y: n.op("Gather", y, index(n, 7, 0, -2, 3), axis=1)),
    "split": (5, lambda n, y: n.op("Split", y, index(n, 3, 5), axis=1, outputs=2)[1]),
    "reshape, sizes unknown": (8, lambda n, y: n.op("Reshape", y, index(n, -1, 8, 36))),
    "squeeze": (8, lambda n, y: n.op("Squeeze", n.op("GlobalAveragePool", y), index(n, 2, 3))),
    "unsqueeze": (8, lambda n, y: n.op("Unsqueeze", y, index(n, -1))),
    "transpose": (
        8,
        lambda n, y: n.op("Transpose", n.op("Transpose", y, perm=[0, 2, 3, 1]), perm=[0, 3, 2, 1]),
    ),
    "expand": (8, lambda n, y: n.op("Expand", n.op("GlobalAveragePool", y), index(n, 1, 8, 2, 2))),
    "channel shuffle": (8, shuffled),
    "pixel shuffle": (2, lambda n, y: n.op("DepthToSpace", y, blocksize=2, mode="CRD")),
    "depth to space": (2, lambda n, y: n.op("DepthToSpace", y, blocksize=2)),
    "edge": (8, lambda n, y: n.op("Pad", y, index(n, 0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")),
    "scalar": (8, lambda n, y: n.op("Add", n.op("Mul", n.const(2.0), y), n.const(1.0))),
    "minus": (8, lambda n, y: n.op("Neg", n.op("Sub", n.const(np.ones((8, 1, 1))), y))),
    "concat": (10, lambda n, y: n.op("Concat", n.conv("x", 4, 2, 3, pads=[1] * 4), y, axis=1)),
    "concat of a constant": (9, lambda n, y: n.op("Concat", n.normal(BATCH, 1, 6, 6), y, axis=1)),
    "concat on another axis": (8, lambda n, y: n.op("Concat", n.conv("x", 4, 8), y, axis=2)),
    "add": (8, lambda n, y: n.op("Add", n.conv("x", 4, 8), y)),
    "subtract": (8, lambda n, y: n.op("Sub", n.conv("x", 4, 8), y)),
    "sum": (8, lambda n, y: n.op("Sum", y, n.conv("x", 4, 8), n.conv("x", 4, 8, bias=False))),
    "add a smaller one": (8, lambda n, y: n.op("Add", y, n.op("GlobalAveragePool", n.conv("x", 4, 8)))),
    "cubic": (8, doubled),
    "cubic, what is inside": (8, lambda n, y: doubled(n, y, exclude_outside=1)),
    "antialias": (8, lambda n, y: resized(n, y, mode="linear", antialias=1)),
    "average pool, rounded up": (
        8,
        lambda n, y: n.op(
            "AveragePool", y, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1, count_include_pad=1
        ),
    ),
    "grid, from the edge": (8, lambda n, y: n.op("GridSample", y, grid(n), padding_mode="border")),
    "grid, reflected": (
        8,
        lambda n, y: n.op("GridSample", y, grid(n), padding_mode="reflection", mode="nearest"),
    ),
    "tile": (16, lambda n, y: n.op("Tile", n.conv(y, 8, 16), index(n, 1, 1, 2, 3))),
    "add up": (8, lambda n, y: n.op("ReduceSum", y, index(n, 2, 3))),
    "add up, squeezed": (8, lambda n, y: n.op("ReduceSum", y, index(n, 3), keepdims=0)),
    "mean of branches": (8, lambda n, y: n.op("Mean", y, n.conv("x", 4, 8), n.conv("x", 4, 8))),
    "where": (8, lambda n, y: n.op("Where", mask(n), y, n.conv("x", 4, 8))),
    "where, or a constant": (8, lambda n, y: n.op("Where", mask(n), n.const(2.0), y)),
    "where they are, unknown": (
        8,
        lambda n, y: n.op("Gather", y, n.op("Cast", n.op("GlobalMaxPool", "x"), to=7), axis=3),
    ),
    "pairs of positions": (8, lambda n, y: n.op("Gather", y, index(n, 1, 0, 3, 3, 4, 5), axis=2)),
    "a table": (
        8,
        lambda n, y: n.op(
            "Transpose", n.op("Gather", n.normal(9, 8), n.op("Cast", "x1", to=7)), perm=[0, 2, 1]
        ),
    ),
    "its size is read": (8, lambda n, y: n.op("Reshape", y, n.op("Shape", y))),
    "two parts that meet": (4, lambda n, y: n.op("Add", *n.op("Split", y, axis=1, num_outputs=2, outputs=2))),
}


@pytest.mark.parametrize("case", BETWEEN)
def test_a_map_passes(case: str) -> None:
    channels, between = BETWEEN[case]
    fixed = "constant" in case or case in ("expand", "grid, from the edge", "grid, reflected")
    net = Net((BATCH, 4, 6, 6) if fixed else IMAGE, *([(3, 5)] if case == "a table" else []))
    y = between(net, net.conv("x", 4, 8, 3, pads=[1] * 4))
    assert_folds(net, net.op("Tanh", net.bn(y, channels)))


@pytest.mark.parametrize("op_type", ["MaxPool", "GlobalMaxPool", "ReduceMax", "ReduceMin"])
def test_extreme_values_let_positive_scales_pass(op_type: str) -> None:
    net = Net(IMAGE)
    more: dict[str, object] = {"kernel_shape": [3, 3], "pads": [1] * 4} if op_type == "MaxPool" else {}
    axes = [net.const(np.array([2, 3]))] if op_type.startswith("Reduce") else []
    assert_folds(net, net.bn(net.op(op_type, net.conv("x", 4, 8), *axes, **more), 8, positive=True))


@pytest.mark.parametrize("op_type", ["Max", "Min"])
@pytest.mark.parametrize("constant", [True, False])
def test_the_larger_of_two_branches(op_type: str, constant: bool) -> None:
    net = Net(IMAGE)
    other = net.const(0.5) if constant else net.conv("x", 4, 8)
    y = net.op(op_type, net.conv("x", 4, 8), other)
    assert_folds(net, net.op("Tanh", net.bn(y, 8, positive=True)))
