"""Each refusal, on a graph that differs in one thing from one that folds."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from bn_deploy.folding.graph import driver, network
from tests.fold_onnx.graphs import BATCH, Net, assert_folds, assert_keeps, folded

IMAGE = ("N", 4, 6, 6)
Build = Callable[[Net], "str | tuple[str, ...]"]


def tanh(net: Net, y: str) -> str:
    """Nothing passes it: what is before it has to be absorbed there."""
    return str(net.op("Tanh", y))


def conv(net: Net) -> str:
    return net.conv("x", 4, 8, 3, pads=[1] * 4)


def index(net: Net, *numbers: int) -> str:
    return net.const(np.array(numbers))


def resized(net: Net, **attributes: object) -> str:
    roi = net.const(np.r_[np.zeros(4), np.ones(4)], np.float32)
    return str(net.op("Resize", conv(net), roi, net.const([1, 1, 2, 2], np.float32), **attributes))


REFUSED: dict[str, tuple[Build, str]] = {
    "it is fed by an input": (lambda n: tanh(n, n.bn("x", 4)), "it is fed by x, an input of the network"),
    "nonlinear before": (lambda n: tanh(n, n.bn(n.op("Sigmoid", conv(n)), 8)), "a Sigmoid, neither absorbs"),
    "nonlinear after": (lambda n: tanh(n, n.bn("x", 4)), "a Tanh, neither absorbs"),
    "an output, too": (lambda n: ((y := conv(n)), tanh(n, n.bn(y, 8))), "is also an output of the network"),
    "read twice": (
        lambda n: ((y := conv(n)), (tanh(n, y), tanh(n, n.bn(y, 8))))[1],
        "is used 2 times",
    ),
    "read by two batch norms": (
        lambda n: ((y := conv(n)), (tanh(n, n.bn(y, 8)), tanh(n, n.bn(y, 8))))[1],
        "is used 2 times",
    ),
    "weights vary": (
        lambda n: tanh(
            n,
            n.bn(
                n.op("Conv", "x", n.op("Exp", n.op("Slice", "x", index(n, 0), index(n, 1), index(n, 0)))), 1
            ),
        ),
        "the weights of n_conv2 are not constant",
    ),
    "rectified": (lambda n: tanh(n, n.bn(n.op("Relu", conv(n)), 8)), "a shift does not pass n_relu1, a Relu"),
    "negative scale": (
        lambda n: tanh(n, n.bn(n.op("MaxPool", conv(n), kernel_shape=[2, 2]), 8)),
        "a negative scale does not pass n_maxpool1",
    ),
    "indices used": (
        lambda n: (
            (parts := n.op("MaxPool", conv(n), kernel_shape=[2, 2], outputs=2)),
            (tanh(n, n.bn(parts[0], 8, positive=True)), parts[1]),
        )[1],
        "the indices of n_maxpool1 are used",
    ),
    "zeros counted": (
        lambda n: tanh(
            n, n.bn(n.op("AveragePool", conv(n), kernel_shape=[2, 2], pads=[1] * 4, count_include_pad=1), 8)
        ),
        "averages over padded zeros",
    ),
    "zeros counted, same size": (
        lambda n: tanh(
            n,
            n.bn(
                n.op("AveragePool", conv(n), kernel_shape=[2, 2], auto_pad="SAME_UPPER", count_include_pad=1),
                8,
            ),
        ),
        "averages over padded zeros",
    ),
    "zeros padded": (
        lambda n: tanh(n, n.bn(n.op("Pad", conv(n), index(n, 0, 0, 1, 1, 0, 0, 1, 1)), 8)),
        "pads with a constant",
    ),
    "ones padded": (
        lambda n: tanh(n, n.scale(n.op("Pad", conv(n), index(n, 0, 0, 1, 1, 0, 0, 1, 1), n.const(1.0)), 8)),
        "pads with a constant",
    ),
    "channels padded": (
        lambda n: tanh(n, n.bn(n.op("Pad", conv(n), index(n, 0, 1, 0, 0, 0, 1, 0, 0), mode="edge"), 10)),
        "mixes elements",
    ),
    "resized from outside": (
        lambda n: tanh(n, n.bn(resized(n, coordinate_transformation_mode="tf_crop_and_resize"), 8)),
        "resizes in mode nearest, tf_crop_and_resize",
    ),
    "sampled from outside": (
        lambda n: tanh(n, n.bn(n.op("GridSample", conv(n), n.normal(BATCH, 3, 3, 2)), 8)),
        "a shift does not pass n_gridsample1",
    ),
    "sum of how many": (
        lambda n: tanh(n, n.bn(n.op("ReduceSum", conv(n), index(n, 0)), 8)),
        "how many elements n_reducesum1 adds up is not known",
    ),
    "branches compared": (
        lambda n: tanh(n, n.bn(n.op("Max", conv(n), conv(n)), 8)),
        "a negative scale does not pass n_max2",
    ),
    "branches compared after": (
        lambda n: n.conv(n.op("Max", n.bn("x", 4, positive=True), n.op("Tanh", "x")), 4, 3),
        "the operands of n_max2 get different maps",
    ),
    "clipped at one": (
        lambda n: tanh(n, n.scale(n.op("Clip", conv(n), n.const(0.0), n.const(1.0)), 8)),
        "clips at other than zero",
    ),
    "tiled": (
        lambda n: tanh(n, n.bn(n.op("Tile", conv(n), index(n, 1, 2, 1, 1)), 16)),
        "the same channel is used twice with different maps",
    ),
    "padded channels": (
        lambda n: tanh(n, n.bn(n.op("Pad", conv(n), index(n, 0, 1, 0, 0, 0, 0, 0, 0)), 9)),
        "pads with a constant",
    ),
    "matrices mix heads": (
        lambda n: tanh(n, n.op("Mul", n.op("MatMul", conv(n), n.normal(8, 6, 6)), n.normal(1, 8, 6, 1))),
        "not along axis 3 of a batch",
    ),
    "channels resized": (
        lambda n: tanh(n, n.bn(n.op("Resize", conv(n), "", n.const([1, 2, 1, 1], np.float32)), 16)),
        "mixes elements",
    ),
    "gated": (
        lambda n: tanh(n, n.bn(n.op("Mul", conv(n), n.op("Sigmoid", n.conv("x", 4, 8))), 8)),
        "a shift does not pass n_mul3, a Mul",
    ),
    "one branch cannot": (
        lambda n: tanh(n, n.bn(n.op("Concat", conv(n), n.op("Tanh", "x"), axis=1), 12)),
        "a Tanh, neither absorbs",
    ),
    "one operand cannot": (
        lambda n: tanh(n, n.bn(n.op("Add", conv(n), n.op("Tanh", n.conv("x", 4, 8))), 8)),
        "a Tanh, neither absorbs",
    ),
    "channels broadcast": (
        lambda n: tanh(n, n.bn(n.op("Add", conv(n), n.conv("x", 4, 1)), 8)),
        "broadcast along its channels",
    ),
    "along positions": (
        lambda n: tanh(n, n.bn(n.op("Transpose", conv(n), perm=[0, 2, 1, 3]), 6)),
        "the map varies along axes [2], not along axis 1 alone",
    ),
    "flattened": (
        lambda n: tanh(n, n.bn(n.op("Flatten", conv(n)), 8 * 36)),
        "the map varies along axes [1, 2, 3]",
    ),
    "matmul along rows": (
        lambda n: tanh(n, n.bn(n.op("MatMul", conv(n), n.normal(6, 6)), 8)),
        "the map varies along axes [1], not along axis 3",
    ),
    "blocks differ": (
        lambda n: tanh(n, n.bn(n.op("SpaceToDepth", n.conv("x", 4, 2), blocksize=2), 8)),
        "the same channel is used twice with different maps",
    ),
    "gathered twice": (
        lambda n: tanh(n, n.bn(n.op("Gather", conv(n), index(n, 0, 0), axis=1), 2)),
        "the same channel is used twice with different maps",
    ),
    "gated after": (
        lambda n: n.conv(n.op("Mul", n.op("Sigmoid", "x"), n.bn("x", 4)), 4, 3),
        "a shift does not pass n_mul2, a Mul",
    ),
    "padded after": (lambda n: n.conv(n.bn("x", 4), 4, 3, 3, pads=[0, 0, 0, 1]), "pads its input with zeros"),
    "same size after": (
        lambda n: n.conv(n.bn("x", 4), 4, 3, 3, auto_pad="SAME_LOWER"),
        "pads its input with zeros",
    ),
    "transposed after": (
        lambda n: n.op("ConvTranspose", n.bn("x", 4), n.normal(4, 2, 2, 2)),
        "see parts of its kernel",
    ),
    "one reader cannot": (
        lambda n: ((y := n.bn("x", 4)), (n.conv(y, 4, 3), tanh(n, y)))[1],
        "a Tanh, neither absorbs",
    ),
    "an output after": (
        lambda n: ((y := n.bn("x", 4)), n.conv(y, 4, 3)),
        "batchnormalization0 is also an output",
    ),
    "one operand scaled": (
        lambda n: n.conv(n.op("Add", n.bn("x", 4), n.op("Tanh", "x")), 4, 3),
        "only one operand of n_add2 is scaled",
    ),
    "as the weights": (
        lambda n: n.op("MatMul", n.op("Tanh", "x"), n.bn("x", 4)),
        "the weights of n_matmul2 are not constant",
    ),
    "mean over channels": (
        lambda n: tanh(n, n.op("ReduceMean", n.bn("x", 4), index(n, 1))),
        "mixes elements",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_kept_with_the_reason(case: str) -> None:
    build, reason = REFUSED[case]
    net = Net((BATCH, 4, 6, 6) if case in ("weights vary", "sampled from outside") else IMAGE)
    outputs = build(net)
    assert_keeps(net, *([outputs] if isinstance(outputs, str) else outputs), because=reason)


def test_an_interpolation_half_a_position_off_mixes_even_channels_that_it_keeps() -> None:
    net = Net(IMAGE)
    y = net.bn(resized(net, coordinate_transformation_mode="tf_half_pixel_for_nn"), 8)
    (entry,) = folded(net.model(y))[1].kept  # ONNX's reference cannot run it
    assert "mixes elements" in entry.reason


def branches(net: Net) -> str:
    """A sum of many branches, and a batch norm that all of them absorb."""
    y = net.conv("x", 4, 4)
    for _ in range(40):
        y = net.op("Add", y, net.conv("x", 4, 4))
    return tanh(net, net.bn(y, 4))


def test_a_map_goes_far_but_the_work_of_all_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(IMAGE)
    assert_folds(net, branches(net))
    for module, name in ((network, "_LEAST"), (driver, "_SHARE")):
        monkeypatch.setattr(module, name, 0)
    net = Net(IMAGE)
    assert_keeps(net, branches(net), because="what could absorb it is far away")


def row(net: Net) -> str:
    """Pools and batch norms by turns: each has a longer way to the convolution than the one before."""
    y = net.conv("x", 4, 4)
    for _ in range(12):
        y = net.bn(net.op("MaxPool", y, kernel_shape=[1, 1]), 4, positive=True)
    return tanh(net, y)


def test_where_all_have_a_long_way_each_goes_into_the_one_before(monkeypatch: pytest.MonkeyPatch) -> None:
    net = Net(IMAGE)
    assert {entry.rule for entry in assert_folds(net, row(net)).folded} == {"conv-bn through MaxPool"}
    monkeypatch.setattr(network, "_LEAST", 0)
    net = Net(IMAGE)
    left = {"Conv": 1, "MaxPool": 12, "Tanh": 1}
    rules = [entry.rule for entry in assert_folds(net, row(net), left=left).folded]
    assert "bn-bn through MaxPool" in rules


def test_each_way_that_a_shift_may_take_is_tried() -> None:
    """Of two sums in a row only one operand can take a shift: what is asked for changes with each way."""
    net = Net(IMAGE)
    rectified = [net.op("Relu", net.conv("x", 4, 4)) for _ in range(3)]
    y = net.op(
        "Add", net.op("Add", rectified[0], rectified[1]), net.op("Add", rectified[2], net.conv("x", 4, 4))
    )
    assert_folds(net, tanh(net, net.bn(y, 4, positive=True)))
